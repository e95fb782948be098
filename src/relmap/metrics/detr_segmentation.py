"""DETR segmentation: do a detector's maps of its objects outline them, without learning to?

DETR says boxes; the map of an object query, cut at a threshold that the map itself gives, is taken
for a mask and judged as COCO judges segmentations.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torch.nn import functional

from relmap.data.run_length_masks import encode_mask
from relmap.errors import InputError, MissingExtraError
from relmap.metrics import METRICS
from relmap.metrics.trial import Measured, Trial
from relmap.targets.answers import TargetContext, fields, read_answer

__all__ = ["average_precision", "detr_segmentation", "otsu_threshold", "segment"]

_THRESHOLDS = np.linspace(0.2, 0.95, 16)
_AREAS = {"all": (0.0, 1e10), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
_RECALLS = np.linspace(0, 1, 101)
_MOST = 100  # detections of a class in an image


def _summary(area: str, recall: bool, values: Mapping[str, np.ndarray]) -> float:
    return average_precision(list(values["detail"]), area, recall=recall)


_SUMMARIES = {
    f"{kind}{'' if area == 'all' else f'-{area}'}": partial(_summary, area, kind == "AR")
    for kind in ("AP", "AR")
    for area in _AREAS
}


@METRICS.register(
    "detr-segmentation",
    direction=dict.fromkeys(_SUMMARIES, "higher"),
    summary=_SUMMARIES,
    category="localisation",
    reference="Chefer et al., Generic Attention-model Explainability, ICCV 2021 (DETR)",
    needs=("model",),
)
def detr_segmentation(trial: Trial, *, confidence: float = 0.5) -> Measured:
    """COCO's segmentation AP and AR of the masks that explanations of detected objects give.

    Each query with p = max_c p_c > `confidence` ("no object" is no c) is an object of class c and
    score p. The map r of y_c of this query becomes a mask: m = [u > Otsu(u)] with u the integer
    part of 255 (r - min r) / (max r - min r), on the cells of the feature map; then bilinear to the
    size of the model's input, where every value above 0 counts, and nearest to the picture's size.
    A constant map outlines nothing, which counts as a false detection.

    `AP`, `AR`, and those of `-medium` (32² to 96² pixels) and `-large` objects, are COCO's, with
    IoU thresholds 0.2, 0.25, ..., 0.95 as in the paper's code: 0.5 is beyond such masks. They are
    of the whole data set and no mean over pictures. Numbers do not compare with COCO's own AP.

    The examples' `about` hold "instances", COCO's annotations of the picture, and maybe
    "categories", which a model's class names are looked up in; else a class is its own category.

    Args:
        trial: The examples, and a detector with object queries.
        confidence: p that makes a query an object.

    Raises:
        InputError: The model is no detector, or an example has no instances.
        MissingExtraError: pycocotools is not installed.

    Example:
        >>> otsu_threshold(torch.tensor([3, 4, 3, 200, 201], dtype=torch.uint8))
        4
    """
    _tools()
    details: list[str] = []
    numbers: list[int] = []
    for at, example in enumerate(trial.examples):
        if "instances" not in example.about:
            raise InputError(
                f"example '{example.name}' has no instances: read the data as coco-instances, or "
                'give COCO\'s annotations of each picture as about={"instances": [...]}'
            )
        found = _detections(trial, at, confidence)
        truth = [dict(one) for one in example.about["instances"]]
        size = _size(example.image)
        details.append(json.dumps({"size": size, "truth": truth, "found": found}))
        numbers.append(len(found))
    counts = torch.tensor(numbers, dtype=torch.float64)
    return {"detections": counts, "detail": details}


def _detections(trial: Trial, at: int, confidence: float) -> list[dict[str, Any]]:
    """The objects that a detector found, with the mask of the map of each."""
    arguments = trial.again.arguments(at)
    with torch.no_grad():
        output = trial.subject.network(**arguments)
    context = trial.subject.context(1, arguments)
    shares = _probabilities(output, context)
    best, choices = shares.max(dim=1)
    queries = (best > confidence).nonzero().flatten().tolist()
    if not queries:
        return []
    pairs = [(query, int(choices[query])) for query in queries]
    maps = trial.again.targets(at, [_target(query, choice) for query, choice in pairs])
    example, found = trial.examples[at], []
    for (query, choice), one in zip(pairs, maps, strict=True):
        view = one.image
        size = tuple(arguments[view.name].shape[-2:])
        inside = segment(view.scores[0].detach().cpu().float(), size)
        inside = _without_padding(inside, arguments)
        mask = functional.interpolate(inside[None, None].float(), _size(example.image))[0, 0] > 0
        found.append(
            {
                "category_id": _category(trial, choice, example.about.get("categories", {})),
                "score": best[query].item(),
                "segmentation": encode_mask(mask.numpy()),
            }
        )
    return found


def _probabilities(output: Any, context: TargetContext) -> Float[Tensor, "query class"]:
    """Of every query, of every class but "no object"."""
    answer = read_answer(output, context)
    if answer.kind != "detection":
        raise InputError(f"the model is no detector: its scores are of kind {answer.kind!r}")
    logits, real = fields(output)["logits"][0].detach().double().cpu(), answer.scores.shape[1]
    return logits.softmax(-1)[:, :real] if logits.shape[1] > real else logits.sigmoid()


def _target(query: int, choice: int) -> Any:
    def read(output: Any) -> Float[Tensor, " batch"]:
        return fields(output)["logits"][:, query, choice]

    return read


def _category(trial: Trial, choice: int, categories: Mapping[int, str]) -> int:
    number, name = trial.label(choice)
    known = {label: one for one, label in categories.items()}
    return known.get(name or "", number)


def _without_padding(
    inside: Bool[Tensor, "height width"], arguments: Mapping[str, Any]
) -> Bool[Tensor, "rows columns"]:
    """What of a mask lies on the picture: processors may pad below and on the right."""
    real = arguments.get("pixel_mask")
    if not isinstance(real, Tensor) or real.shape[1:] != inside.shape:
        return inside
    rows, columns = real[0].bool().any(dim=1), real[0].bool().any(dim=0)
    return inside[: int(rows.sum()), : int(columns.sum())]


def _size(image: Any) -> tuple[int, int]:
    """Height and width of a picture as it was given."""
    if isinstance(image, Tensor):
        return int(image.shape[-2]), int(image.shape[-1])
    return int(image.size[1]), int(image.size[0])


def segment(
    scores: Float[Tensor, "rows columns"], size: tuple[int, int]
) -> Bool[Tensor, "height width"]:
    """The mask of a map: Otsu's threshold on its cells, dilated by the interpolation to a size.

    Example:
        >>> segment(torch.tensor([[0.0, 1.0]]), (1, 4)).int().tolist()
        [[0, 1, 1, 1]]
    """
    low, high = scores.min(), scores.max()
    if not high > low:
        return torch.zeros(size, dtype=torch.bool)
    cells = ((scores - low) / (high - low) * 255).to(torch.uint8)
    inside = (cells > otsu_threshold(cells)).float()
    return functional.interpolate(inside[None, None], size, mode="bilinear")[0, 0] > 0


def otsu_threshold(values: UInt8[Tensor, " *cell"]) -> int:
    """The t that parts values <= t from those above best: the largest variance between the two.

    t = argmax over t of q (1 - q) (μ₀ - μ₁)², with q the share of values <= t and μ the means of
    both sides; of equal ones the smallest (Otsu 1979). 0 where all values are equal.
    """
    counts = torch.bincount(values.flatten().long(), minlength=256).double()
    total, levels = counts.sum(), torch.arange(256, dtype=torch.float64)
    below, weight = counts.cumsum(0), (counts * levels).cumsum(0)
    above = total - below
    both = (below > 0) & (above > 0)
    distance = weight / below.clamp(min=1) - (weight[-1] - weight) / above.clamp(min=1)
    between = torch.where(both, below / total * above / total * distance**2, 0)
    # of levels that part the same values, rounding must not choose
    return int((between >= between.max() * (1 - 1e-12)).int().argmax()) if both.any() else 0


def average_precision(details: Sequence[str], area: str = "all", *, recall: bool = False) -> float:
    """COCO's segmentation AP, or AR, of detections in images; NaN where there is no such object.

    AP = mean over classes and IoU thresholds 0.2, ..., 0.95 of the mean of the interpolated
    precision at recalls 0, 0.01, ..., 1; AR is the mean of the highest recalls. At most 100
    detections of a class and an image count.

    Args:
        details: For each image JSON of its "size", "truth" (COCO's annotations) and "found"
            (COCO's results).
        area: "all", "medium" or "large".
        recall: AR instead of AP.
    """
    matched = [_matched(one)[area] for one in details]
    found = []
    for category in sorted({category for one in matched for category in one}):
        here = [one[category] for one in matched if category in one]
        number = sum(count for _, _, _, count in here)
        if number == 0:
            continue
        scores, hits, ignored = (
            np.concatenate([one[at] for one in here], axis=-1) for at in range(3)
        )
        order = np.argsort(-scores, kind="mergesort")
        hits, ignored = hits[:, order], ignored[:, order]
        right = (hits & ~ignored).cumsum(1).astype(float)
        wrong = (~hits & ~ignored).cumsum(1).astype(float)
        reached = right / number
        if recall:
            found.append(reached[:, -1].mean() if reached.shape[1] else 0.0)
            continue
        precision = right / (right + wrong + np.spacing(1))
        found.append(_interpolated(precision, reached).mean())
    return float(np.mean(found)) if found else float("nan")


def _interpolated(
    precision: Float[np.ndarray, "threshold found"], reached: Float[np.ndarray, "threshold found"]
) -> Float[np.ndarray, " threshold"]:
    """Mean over 101 recalls of the best precision at that recall or a higher one."""
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    values = []
    for line, recalls in zip(best, reached, strict=True):
        at = np.searchsorted(recalls, _RECALLS, side="left")
        values.append(np.append(line, 0.0)[at].mean())
    return np.array(values)


Matches = tuple[np.ndarray, np.ndarray, np.ndarray, int]
"""Scores, hits and ignored detections by threshold, and the number of objects to be found."""


@lru_cache(maxsize=16384)  # a bootstrap asks of the same images thousands of times
def _matched(detail: str) -> dict[str, dict[int, Matches]]:
    """Of one image, by area and class: which detections meet an object (COCO's own matching)."""
    coco, evaluation = _tools()
    content = json.loads(detail)
    height, width = content["size"]
    truth = [
        {"iscrowd": 0, **one, "image_id": 1, "id": at + 1}
        for at, one in enumerate(content["truth"])
    ]
    found = [{**one, "image_id": 1} for one in content["found"]]
    numbers = sorted({one["category_id"] for one in [*truth, *found]})
    known = coco()
    known.dataset = {
        "images": [{"id": 1, "height": height, "width": width}],
        "annotations": truth,
        "categories": [{"id": number} for number in numbers],
    }
    result: dict[str, dict[int, Matches]] = {area: {} for area in _AREAS}
    with contextlib.redirect_stdout(io.StringIO()):
        known.createIndex()
        said = known.loadRes(_compressed(found, height, width)) if found else _empty(coco, known)
        judge = evaluation(known, said, "segm")
        judge.params.iouThrs = _THRESHOLDS
        judge.params.areaRng = list(_AREAS.values())
        judge.params.areaRngLbl = list(_AREAS)
        judge.params.maxDets = [_MOST]
        judge.evaluate()
    for one in filter(None, judge.evalImgs):
        area = next(name for name, limits in _AREAS.items() if tuple(one["aRng"]) == limits)
        hits = np.asarray(one["dtMatches"]) > 0
        ignored = np.asarray(one["dtIgnore"]).astype(bool)
        wanted = int((np.asarray(one["gtIgnore"]) == 0).sum())
        scores = np.asarray(one["dtScores"], dtype=float)
        result[area][int(one["category_id"])] = (scores, hits, ignored, wanted)
    return result


def _compressed(found: Sequence[Mapping[str, Any]], height: int, width: int) -> list[Any]:
    from pycocotools import mask as masks

    return [
        {**one, "segmentation": masks.frPyObjects(one["segmentation"], height, width)}
        if isinstance(one["segmentation"].get("counts"), list)
        else dict(one)
        for one in found
    ]


def _empty(coco: Any, known: Any) -> Any:
    """No detections: COCO's own reader refuses an empty list."""
    said = coco()
    said.dataset = {**known.dataset, "annotations": []}
    said.createIndex()
    return said


def _tools() -> tuple[Any, Any]:
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise MissingExtraError("evaluate") from error
    return COCO, COCOeval
