"""The whole-caption test: hide what a whole caption rests on, and read what the model writes then.

A caption is explained by its words' maps, summed with a weight for each word. If the sum is right,
a model that no longer sees its most relevant patches writes a caption that fits neither the
original picture nor what people said of it.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from relmap.errors import InputError
from relmap.metrics import METRICS
from relmap.metrics.trial import Curve, Measured, Trial, Units, area

__all__ = ["STEPS", "kept_patches", "ref_clip_score"]

STEPS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.5, 0.75, 1.0)
"""The shares of the patches that are hidden, as in WRA's other tests."""


@METRICS.register(
    "ref-clip-score",
    direction={"positive": "lower", "negative": "higher"},
    category="faithfulness",
    reference="WRA section 4.3.5, eq. 20-21, figure 9; Hessel et al., CLIPScore, EMNLP 2021",
    needs=("model",),
)
def ref_clip_score(
    trial: Trial,
    *,
    weighting: str = "equal",
    documents: str = "",
    clip: str = "demo:clip",
    fill: str = "black",
    longest: int = 40,
) -> Measured:
    """The area under RefCLIPScore of what is written while the patches of a caption are hidden.

    R^S = Σ_i λ_i R^{w_i} is the map of the caption that the model writes (greedily) of the whole
    picture. At every share s_k the int(s_k n) patches that are first in its order are hidden, the
    model writes again, and y_k is the new caption's RefCLIPScore with the original picture and the
    captions by people: AUC = Σ_k (s_{k+1} - s_k) (y_k + y_{k+1}) / 2. `positive` hides the most
    relevant first (lower is better), `negative` the least relevant (higher is better); `score` is
    y_0, of the whole picture. The paper does not say what hides a patch, nor how the area is taken:
    black before normalisation, and the trapezoid, are ours.

    The paper finds no difference between weightings. The score is a CLIP's opinion, and differs
    between CLIPs. Not for models that write the same whatever they see: their curve is flat.

    Args:
        trial: The examples, and a model that writes captions.
        weighting: λ: "equal", or the name of a caption score, whose drop without a word is that
            word's weight ("bleu-4", "meteor", "cider"; see `relmap list scoring`).
        documents: For "cider" a file of COCO captions, whose pictures say how rare words are.
        clip: The CLIP that judges, by name or folder.
        fill: What stands where patches are hidden.
        longest: Tokens of a caption at most.

    Raises:
        InputError: The model writes no captions, an example has none by people, or an option
            cannot be used.

    Example:
        >>> keep = kept_patches(torch.tensor([[0, 3, 1, 2]]), STEPS)
        >>> keep[0, 5:].int().tolist()  # 25, 50, 75 and 100 % hidden
        [[0, 1, 1, 1], [0, 1, 0, 1], [0, 1, 0, 0], [0, 0, 0, 0]]
    """
    if longest < 1:
        raise InputError(f"longest={longest}: a caption has at least 1 token")
    positive, negative = [], []
    for at in range(len(trial.examples)):
        whole = trial.again.caption(at, weighting, documents, longest)
        view = whole.image
        scores = view.scores.flatten(1).detach().cpu().double()
        counted = torch.ones_like(scores, dtype=torch.bool)
        units = Units(view.name, whole.layout[view.name], scores, counted)
        keep = torch.cat(
            [kept_patches(units.ranks(descending=first), STEPS)[0] for first in (True, False)]
        )
        values = _written(trial, at, units, keep, (fill, clip, longest))
        positive.append(values[: len(STEPS)])
        negative.append(values[len(STEPS) :])
    found: dict[str, Float[Tensor, " example"] | Curve] = {}
    for name, curves in (("positive", positive), ("negative", negative)):
        values = torch.stack(curves)
        found[name] = area(STEPS, values)
        found[f"{name}-curve"] = Curve(STEPS, values)
        found["score"] = values[:, 0]
    return found


def kept_patches(ranks: Tensor, steps: tuple[float, ...]) -> Bool[Tensor, "example step patch"]:
    """Which patches are left when the first int(s n) in an order are hidden, for each share s.

    The product is rounded to nine digits first, so that the last bit of a float hides no patch.
    """
    shares = torch.tensor(steps, dtype=torch.float64)
    hidden = (ranks.shape[1] * shares).mul(1e9).round().div(1e9).floor()
    return ranks[:, None, :] >= hidden[None, :, None]


def _written(
    trial: Trial, at: int, units: Units, keep: Bool[Tensor, "row patch"],
    options: tuple[str, str, int],
) -> Float[Tensor, " row"]:  # fmt: skip
    """RefCLIPScore of what is written of each perturbed picture; equal pictures are seen once."""
    fill, clip, longest = options
    subject = replace(
        trial.subject,
        arguments=trial.again.arguments(at),
        batch=1,
        names=trial.subject.names[at : at + 1],
        known={},
    )
    different, place = keep.unique(dim=0, return_inverse=True)
    captions: list[str] = []
    for rows in different.split(subject.rows):
        changed = subject.perturbed(units.source, units.layout, rows, fill, [0] * len(rows))
        captions += trial.again.write(changed, at, longest)
    texts = list(dict.fromkeys(captions))
    scores = trial.again.fit(at, texts, clip)
    return torch.stack([scores[texts.index(caption)] for caption in captions])[place]
