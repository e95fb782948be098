"""Segmentation: cut at its mean, is the map a mask of the object?

Taking a map for a segmentation asks it to cover the object evenly, while a good explanation may
rest on a part of it: compare methods with it, not a method with a segmentation network. Beside
the numbers of Chefer et al. stand the usual ones, since two of theirs are of their own kind.
"""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from relmap.metrics import METRICS, check_maps, to_mask_size
from relmap.metrics.precision_recall import average_precision

__all__ = ["segmentation"]


def _ratio(above: np.ndarray, below: np.ndarray) -> float:
    """The ratio of sums over the examples that could be judged."""
    judged = np.isfinite(above) & np.isfinite(below)
    total = float(below[judged].sum())
    return float(above[judged].sum()) / total if total > 0 else float("nan")


def _pixel_accuracy(values: Mapping[str, np.ndarray]) -> float:
    return _ratio(values["correct"], values["labelled"])


def _mean_iou(values: Mapping[str, np.ndarray]) -> float:
    parts = ("object", "background")
    return sum(_ratio(values[f"intersection-{p}"], values[f"union-{p}"]) for p in parts) / 2


def _mean_ap(values: Mapping[str, np.ndarray]) -> float:
    precision = values["average-precision"]
    return _ratio(precision, np.ones_like(precision))


@METRICS.register(
    "segmentation",
    direction={
        "pixel-accuracy": "higher",
        "mIoU": "higher",
        "mAP": "higher",
        "average-precision-object": "higher",
        "iou": "higher",
    },
    category="localisation",
    reference="Chefer et al., Transformer Interpretability Beyond Attention Visualization, "
    "CVPR 2021, section 4 (on ImageNet-Segmentation of Guillaumin et al., IJCV 2014)",
    needs=("mask",),
    summary={"pixel-accuracy": _pixel_accuracy, "mIoU": _mean_iou, "mAP": _mean_ap},
)
def segmentation(
    scores: Float[Tensor, "batch rows columns"], mask: Bool[Tensor, "masks height width"]
) -> dict[str, Float[Tensor, " batch"]]:
    """How the map, cut at its mean, agrees with the mask: counts of pixels, precision, IoU.

    m = (up(S) - min) / (max - min) over the pixels, with up the bilinear interpolation to the size
    of the mask; the object is said to be where m > mean(m), strictly. A constant map is 0
    everywhere and says that there is no object. Per example:

    - `correct`, `labelled`: pixels on which both agree, and all pixels. Over a data set their sums
      give `pixel-accuracy` = sum correct / sum labelled.
    - `intersection-object`, `union-object`, and the same of the background. Over a data set,
      `mIoU` = mean over the two of (sum intersection / sum union), so a large object counts more.
    - `iou`: intersection / union of the object in this image, which the usual mean averages.
    - `average-precision`: of m and 1 - m, pooled as one ranking, against the mask and its
      complement; Chefer's `mAP` is its mean. A constant map, which says that all is background,
      gets b² + (1 - b) / 2 for a share b of background: 0.74 where the object covers a fifth.
    - `average-precision-object`: of m against the mask alone, the usual average precision. Random
      maps get the object's share of the image.

    Args:
        scores: One map per example, on the patch grid or on pixels.
        mask: One mask per example, true inside the object.

    Raises:
        InputError: If a map or a mask cannot be judged.

    Example:
        >>> mask = torch.tensor([[[True, False], [False, False]]])
        >>> found = segmentation(torch.tensor([[[3.0, 1.0], [0.0, 2.0]]]), mask)
        >>> found["correct"], found["iou"], found["average-precision-object"]
        (tensor([3.]), tensor([0.5000]), tensor([1.]))
    """
    check_maps(scores, mask)
    large = to_mask_size(scores, mask).flatten(1)
    inside = mask.flatten(1)
    low, high = large.amin(dim=1, keepdim=True), large.amax(dim=1, keepdim=True)
    # constancy is asked of the patches: interpolating equal values may differ in the last bit
    flat = (scores.flatten(1).amax(dim=1) == scores.flatten(1).amin(dim=1))[:, None]
    span = torch.where(flat | (high == low), 1.0, high - low)
    drawn = torch.where(flat, 0.0, (large - low) / span)
    said = (drawn > drawn.mean(dim=1, keepdim=True)) & ~flat
    both, either = (said & inside).sum(dim=1), (said | inside).sum(dim=1)
    neither, not_both = (~said & ~inside).sum(dim=1), (~said | ~inside).sum(dim=1)
    pooled = average_precision(
        torch.cat([1 - drawn, drawn], dim=1), torch.cat([~inside, inside], dim=1)
    )
    found = {
        "correct": both + neither,
        "labelled": torch.full_like(both, inside.shape[1]),
        "intersection-object": both,
        "union-object": either,
        "intersection-background": neither,
        "union-background": not_both,
        "iou": both / either,
        "average-precision": pooled,
        "average-precision-object": average_precision(drawn, inside),
    }
    # counts stay exact in float32 up to 16 million pixels
    return {name: value.to(drawn.dtype) for name, value in found.items()}
