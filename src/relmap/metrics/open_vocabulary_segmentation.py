"""Open-vocabulary segmentation: do the maps of all class names share a picture out rightly?

A model that scores pictures beside texts can be asked for every class by its name. Which of the
names a method finds most relevant at a pixel is then a segmentation that nobody trained; and the
map of one name that is in the picture should lie on it, whatever the others do.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from relmap.errors import InputError
from relmap.metrics import METRICS, to_mask_size
from relmap.metrics.trial import Measured, Trial

__all__ = ["judge_regions", "open_vocabulary_segmentation"]

_THRESHOLDS = torch.arange(20) / 20
_UNKNOWN = float("nan")


def _pixel_accuracy(values: Mapping[str, np.ndarray]) -> float:
    labelled = np.nansum(values["labelled"])
    return float(np.nansum(values["correct"]) / labelled) if labelled else _UNKNOWN


def _mean_iou(values: Mapping[str, np.ndarray]) -> float:
    both, either = np.sum([_counts(one) for one in values["detail"]], axis=0)
    return float((both[either > 0] / either[either > 0]).mean()) if either.any() else _UNKNOWN


def _present_iou(values: Mapping[str, np.ndarray]) -> float:
    table = np.concatenate([_present(one) for one in values["detail"]])
    return float(table.mean(axis=0).max()) if len(table) else _UNKNOWN


def _score_contrast(values: Mapping[str, np.ndarray]) -> float:
    contrasts = np.concatenate([_contrasts(one) for one in values["detail"]])
    return float(contrasts.mean()) if len(contrasts) else _UNKNOWN


@METRICS.register(
    "open-vocabulary-segmentation",
    direction=dict.fromkeys(("mIoU", "pixel-accuracy", "mIoU-present", "mSC"), "higher"),
    category="localisation",
    reference="Li et al., A Closer Look at the Explainability of CLIP, Pattern Recognition 2025, "
    "and its authors in issues 17, 25 and 32 of xmed-lab/CLIP_Surgery (no code was published)",
    needs=("model",),
    summary={
        "mIoU": _mean_iou,
        "pixel-accuracy": _pixel_accuracy,
        "mIoU-present": _present_iou,
        "mSC": _score_contrast,
    },
)
def open_vocabulary_segmentation(
    trial: Trial, *, prompt: str = "a photo of a {}.", rescale: bool = False
) -> Measured:
    """Segmentation by the names of all K classes, and how well each class that is there stands out.

    S_k is the map of the picture beside `prompt` with the name of class k, all K from one batch,
    interpolated bilinearly to the picture as the model sees it. As a segmentation, c(p) = argmax_k
    S_k(p), judged where somebody labelled the pixel:

    - `mIoU`: mean over classes of (sum of intersections / sum of unions) over the data set, of the
      classes that are somewhere or were said somewhere. `pixel-accuracy`: right of all labelled.

    As explanations, each class k in the picture by itself, with u = (S_k - min) / (max - min), 0
    for a constant map:

    - `mIoU-present`: mean over pairs of picture and class of the IoU of u > t and the class's
      pixels, with the one t of 0, 0.05, ..., 0.95 that is best for the method on the whole data.
    - `mSC`: mean over these pairs of mean u inside - mean u outside, in [-1, 1]; 0 at random.

    `rescale` makes every S_k its u before the argmax, for methods whose maps of two texts have
    scales of their own; CLIP Surgery's have one. The paper leaves open over what the IoU of present
    classes is averaged; here it is the pairs. Two methods compare on equal prompts only.

    The examples have `regions`, and the names of all classes as `about["categories"]`, as in the
    formats semantic-segmentation and coco-instances. A picture without labelled pixels counts
    nowhere. Every picture costs its K texts at once: for hundreds of classes take batches of one.

    Args:
        trial: The examples, and a model that scores pictures beside texts.
        prompt: The text of a class, with {} for its name.
        rescale: Whether each map is brought to [0, 1] before they are compared.

    Raises:
        InputError: The model scores no texts, an example has no regions or class names, or the
            prompt has no {}.

    Example:
        >>> maps = torch.tensor([[[0.9, 0.1]], [[0.2, 0.8]]])
        >>> said = judge_regions(maps, {1: torch.tensor([[True, False]])}, [1, 2])
        >>> said["correct"], said["labelled"], said["contrast"]
        (1, 1, [1.0])
    """
    if "{}" not in prompt:
        raise InputError(f"prompt={prompt!r} has no {{}} where the name of a class goes")
    if trial.subject.kind != "pair":
        raise InputError(
            f"the model's scores are of kind {trial.subject.kind!r}, not of pictures beside texts: "
            "open-vocabulary segmentation takes a CLIP; for a classifier use segmentation"
        )
    view = trial.attribution.image
    counts: dict[str, list[float]] = {"correct": [], "labelled": []}
    details: list[str] = []
    for at in range(len(trial.examples)):
        names = _names(trial, at)
        regions = trial.again.regions(at, view.name)
        if not regions:
            found: dict[str, Any] = {"correct": _UNKNOWN, "labelled": _UNKNOWN}
        else:
            maps = trial.again.texts(at, [prompt.format(name) for name in names.values()])
            scores = maps.image.scores.detach().cpu()
            found = judge_regions(scores, regions, list(names), rescale=rescale)
        for name, values in counts.items():
            values.append(found[name])
        details.append(json.dumps(found if regions else {"classes": len(names)}))
    numbers = {name: torch.tensor(one, dtype=torch.float64) for name, one in counts.items()}
    return {**numbers, "detail": details}


def _names(trial: Trial, at: int) -> dict[int, str]:
    """All classes of the data set by their number."""
    example = trial.examples[at]
    names = example.about.get("categories")
    if example.regions is None or not names:
        raise InputError(
            f"example '{example.name}' has no regions with the names of all classes: read the data "
            "as semantic-segmentation or coco-instances, or give relmap.Example(regions=..., "
            'about={"categories": {1: "cat", ...}})'
        )
    return dict(names)


def judge_regions(
    scores: Float[Tensor, "class rows columns"],
    regions: Mapping[int, Bool[Tensor, "height width"]],
    numbers: list[int],
    *,
    rescale: bool = False,
) -> dict[str, Any]:
    """What the maps of all classes say of one picture, in counts of pixels.

    `hits` and `unions` are of every class in the order of `numbers`; `present` and `contrast` are
    of the classes in the picture, `present` with an intersection and a union by threshold.

    Raises:
        InputError: A map is not finite, or the picture has a class without a number.
    """
    unknown = [number for number in regions if number not in numbers]
    if unknown:
        raise InputError(f"the picture has a class {unknown[0]}, which has no name")
    if not scores.isfinite().all():
        raise InputError("a map holds NaN or infinite scores, which no metric can judge")
    truth = torch.stack([regions[number] for number in regions])
    large = to_mask_size(scores, truth[:1].expand(len(scores), -1, -1))
    flat = scores.flatten(1).amax(dim=1) == scores.flatten(1).amin(dim=1)
    drawn = torch.stack([_unit(one, bool(same)) for one, same in zip(large, flat, strict=True)])
    places = torch.tensor([numbers.index(number) for number in regions])
    labelled = truth.any(dim=0)
    said = (drawn if rescale else large).argmax(dim=0)
    label = places[truth.int().argmax(dim=0)]
    hits = _count(label[labelled & (said == label)], len(numbers))
    unions = _count(label[labelled], len(numbers)) + _count(said[labelled], len(numbers)) - hits
    present = [_by_threshold(drawn[k], one) for k, one in zip(places, truth, strict=True)]
    contrast = [_contrast(drawn[k], one) for k, one in zip(places, truth, strict=True)]
    return {
        "correct": int(hits.sum()),
        "labelled": int(labelled.sum()),
        "hits": hits.tolist(),
        "unions": unions.tolist(),
        "present": present,
        "contrast": contrast,
    }


def _unit(large: Float[Tensor, "height width"], constant: bool) -> Float[Tensor, "height width"]:
    """A map from 0 to 1; a constant one, whose interpolation may not be, is 0."""
    low, high = large.min(), large.max()
    return torch.zeros_like(large) if constant or low == high else (large - low) / (high - low)


def _count(labels: Int[Tensor, " pixel"], classes: int) -> Int[Tensor, " class"]:
    return torch.bincount(labels, minlength=classes)


def _by_threshold(
    drawn: Float[Tensor, "height width"], inside: Bool[Tensor, "height width"]
) -> list[list[int]]:
    cut = drawn > _THRESHOLDS[:, None, None]
    both = (cut & inside).flatten(1).sum(dim=1)
    either = (cut | inside).flatten(1).sum(dim=1)
    return [both.tolist(), either.tolist()]


def _contrast(drawn: Float[Tensor, "height width"], inside: Bool[Tensor, "height width"]) -> float:
    """Mean inside less mean outside; a class that fills the picture has no outside."""
    outside = drawn[~inside]
    return float(drawn[inside].mean() - (outside.mean() if len(outside) else 0.0))


@lru_cache(maxsize=16384)  # a bootstrap asks of the same pictures thousands of times
def _read(detail: str) -> dict[str, Any]:
    return json.loads(detail)


@lru_cache(maxsize=16384)
def _counts(detail: str) -> Int[np.ndarray, "two class"]:
    """Intersections and unions by class; zeros of a picture that nobody labelled."""
    found = _read(detail)
    empty = [0] * found.get("classes", 0)
    return np.array([found.get("hits", empty), found.get("unions", empty)])


@lru_cache(maxsize=16384)
def _present(detail: str) -> Float[np.ndarray, "class threshold"]:
    """The IoU of every class in the picture by threshold."""
    pairs = np.array(_read(detail).get("present", []), dtype=float)
    return pairs[:, 0] / pairs[:, 1] if len(pairs) else np.zeros((0, len(_THRESHOLDS)))


@lru_cache(maxsize=16384)
def _contrasts(detail: str) -> Float[np.ndarray, " class"]:
    return np.array(_read(detail).get("contrast", []), dtype=float)
