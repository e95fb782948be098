"""The evidence test: do explanations of right answers lie on what the answers depend on?

For pictures that were made by a program, the objects that an answer depends on are known, and so
are the words of the question that carry it. A right answer that rests on them should be explained
by them; what a wrong answer rests on is not known, so it is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from relmap.data.example import Example
from relmap.errors import InputError
from relmap.metrics import METRICS
from relmap.metrics.trial import Trial, Units

__all__ = ["evidence", "evidence_tokens", "word_recall"]

_UNKNOWN = float("nan")


@METRICS.register(
    "evidence",
    direction={"pointing": "higher", "energy": "higher", "words": "higher"},
    category="localisation",
    reference="the metrics are those of pointing-game and energy, on the evidence of an answer",
    needs=("model",),
)
def evidence(trial: Trial, *, tolerance: int | float = 0) -> dict[str, Float[Tensor, " example"]]:
    """How much of an explanation of a right answer lies on the evidence; each in [0, 1].

    - `pointing`: the highest patch lies on an evidence object (see pointing-game).
    - `energy`: the share of positive relevance that lies on evidence objects (see energy).
    - `words`: of the n tokens that touch an evidence word, how many are among the n most relevant
      content tokens. Equal scores are taken in reading order. Random scores recall the share of
      content tokens that carry evidence.

    Only right answers are judged, and only by the evidence that there is: an example without
    objects has no `pointing` and `energy`, one without marked words no `words`. "Right" is an
    answer worth more than 0, or the example's label. Not for pictures in which the same answer
    also follows from something else, such as the context that photographs are full of.

    Args:
        trial: The examples with their attribution, and the model.
        tolerance: Pixels by which `pointing` may miss an object.

    Raises:
        InputError: An example has neither answers nor a label, the model chooses nothing, or its
            tokenizer does not say where tokens come from.

    Example:
        >>> scores, evidence = torch.tensor([0.1, 0.9, 0.5]), torch.tensor([True, True, False])
        >>> word_recall(scores, torch.ones(3, dtype=torch.bool), evidence)
        0.5
    """
    right = [_is_right(trial, at) for at in range(len(trial.examples))]
    found: dict[str, Tensor] = {}
    if any(layout.grid is not None for layout in trial.attribution.layout.values()):
        found |= _on_objects(trial, right, tolerance)
    texts = [layout for layout in trial.attribution.layout.values() if layout.modality == "text"]
    if texts and any(example.text for example in trial.examples):
        units = trial.units("text")
        values = [
            _on_words(trial, units, at) if right[at] else _UNKNOWN for at in range(len(right))
        ]
        found["words"] = torch.tensor(values, dtype=torch.float64)
    return found


def _is_right(trial: Trial, at: int) -> bool:
    """Whether the model's own choice for an example is a right one."""
    example = trial.examples[at]
    if trial.subject.kind == "pair":
        raise InputError("an image-text score chooses nothing, so that no answer of it is right")
    choice = trial.subject.known["whole", at][2]
    if example.answers:
        return example.answers.get(trial.label(choice)[1] or "", 0) > 0
    if example.label is None:
        raise InputError(
            f"example '{example.name}' has neither answers nor a label, so that nobody knows which "
            "answers of the model are right: the evidence test needs one of them"
        )
    return choice == trial.right(example.label)


def _on_objects(
    trial: Trial, right: Sequence[bool], tolerance: int | float
) -> dict[str, Float[Tensor, " example"]]:
    view = trial.attribution.image
    judges: list[tuple[str, str, dict[str, Any]]] = [
        ("pointing", "pointing-game", {"tolerance": tolerance}),
        ("energy", "energy", {}),
    ]
    found = {name: torch.full((len(right),), _UNKNOWN).double() for name, _, _ in judges}
    for at, is_right in enumerate(right):
        mask = trial.again.mask(at, view.name) if is_right else None
        if mask is None:
            continue
        scores = view.scores[at : at + 1].detach().cpu().float()
        for name, metric, options in judges:
            found[name][at] = METRICS.get(metric).function(scores, mask, **options).item()
    return found


def _on_words(trial: Trial, units: Units, at: int) -> float:
    example = trial.examples[at]
    if not example.words or example.text is None:
        return _UNKNOWN
    real = ~units.layout.padding[at].cpu()
    context = trial.subject.context(trial.subject.batch, trial.subject.arguments)
    wanted = evidence_tokens(example, context.tokenizer)
    if len(wanted) != int(real.sum()):
        raise InputError(
            f"the text of example '{example.name}' has {len(wanted)} tokens, but the model was "
            f"given {int(real.sum())}: words cannot be found in a text that was cut or changed"
        )
    return word_recall(units.scores[at][real], units.counted[at][real], wanted)


def evidence_tokens(example: Example, tokenizer: Any) -> Bool[Tensor, " token"]:
    """Which tokens of an example's text share a character with a word that carries its answer.

    Raises:
        InputError: The tokenizer does not say where in the text its tokens lie.
    """
    if tokenizer is None or not getattr(tokenizer, "is_fast", False):
        raise InputError(
            "evidence words are found by the offsets of a fast tokenizer, which this model lacks"
        )
    spans = tokenizer(example.text, return_offsets_mapping=True)["offset_mapping"]
    marked = example.words or ()
    return torch.tensor(
        [any(start < stop and begin < end for begin, stop in marked) for start, end in spans],
        dtype=torch.bool,
    )


def word_recall(
    scores: Float[Tensor, " token"], content: Bool[Tensor, " token"], wanted: Bool[Tensor, " token"]
) -> float:
    """The share of the n evidence tokens that are among the n most relevant content tokens.

    NaN where no content token carries evidence.
    """
    wanted = wanted[content]
    order = scores[content].argsort(descending=True, stable=True)
    return wanted[order[: int(wanted.sum())]].double().mean().item()
