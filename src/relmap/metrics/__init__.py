"""Metrics: numbers that say how good an attribution is.

A metric is a function of what it judges; it keeps no state and draws nothing. Each file here
registers one, and declares with it the `direction` in which it improves ("higher" or "lower", by
quantity where it has several), its `category` (faithfulness, localisation, plausibility,
randomisation), the `reference` it follows, and what it judges, its `needs`:

    ("mask",)    function(map, mask): the relevance of patches against an object's pixels
    ("words",)   function(scores, marked): the relevance of words against those that people marked
    ("model",)   function(trial): the map against the model, which is asked again

A number of a data set is the mean over examples, unless a `summary` says how it is put together.
How a map of patches is brought to the size of a mask is settled once, below.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from relmap.errors import InputError
from relmap.registry import Registry

__all__ = ["METRICS", "check_maps", "to_mask_size"]

METRICS: Registry[Any] = Registry("metric", "relmap.metrics")


def check_maps(
    scores: Float[Tensor, "batch rows columns"], mask: Bool[Tensor, "masks height width"]
) -> None:
    """Refuses maps and masks that no localisation metric can judge.

    Raises:
        InputError: If shapes or types do not fit, a map is not finite, or a mask is empty.
    """
    if scores.ndim != 3 or mask.ndim != 3 or len(scores) != len(mask):
        raise InputError(
            f"a metric takes one map and one mask per example, shapes (batch, rows, columns) and "
            f"(batch, height, width); got {tuple(scores.shape)} and {tuple(mask.shape)}"
        )
    if mask.dtype != torch.bool:
        raise InputError(f"a mask is a boolean tensor, got {mask.dtype}: pass `mask > 0`")
    if not scores.isfinite().all():
        raise InputError("a map holds NaN or infinite scores, which no metric can judge")
    if not mask.flatten(1).any(dim=1).all():
        raise InputError("a mask is empty: leave out examples whose object is not in the image")


def to_mask_size(
    scores: Float[Tensor, "batch rows columns"], mask: Bool[Tensor, "batch height width"]
) -> Float[Tensor, "batch height width"]:
    """Maps interpolated bilinearly to the size of the masks they are judged by.

    Patch centres are the nodes of the interpolation and the half patch outside the outermost
    centres repeats them (`align_corners=False`), so every patch keeps the same total weight.

    Example:
        >>> import torch
        >>> to_mask_size(torch.rand(2, 14, 14), torch.ones(2, 224, 224, dtype=torch.bool)).shape
        torch.Size([2, 224, 224])
    """
    # half-precision maps are widened: a peak must not depend on how the interpolation rounds
    wide = scores.to(torch.promote_types(scores.dtype, torch.float32))
    size = (mask.shape[1], mask.shape[2])
    large = torch.nn.functional.interpolate(wide[:, None], size, mode="bilinear")
    return large[:, 0]
