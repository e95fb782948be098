"""The pointing game: does the brightest point of the map lie on the object?

It judges one point and nothing else, so a map that is right at its peak and wrong everywhere
else wins. A blob at the centre of the image wins often too, since photographers centre their
objects: read the number beside the two controls.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from relmap.errors import InputError
from relmap.metrics import METRICS, check_maps, to_mask_size


@METRICS.register(
    "pointing-game",
    direction="higher",
    category="localisation",
    reference="Zhang et al., Top-down Neural Attention by Excitation Backprop, ECCV 2016",
    needs=("mask",),
)
def pointing_game(
    scores: Float[Tensor, "batch rows columns"],
    mask: Bool[Tensor, "masks height width"],
    *,
    tolerance: int | float = 0,
    peak: str = "patch",
) -> Float[Tensor, " batch"]:
    """Whether the maximum of each map falls in its mask: 1 for a hit, 0 for a miss.

    hit = [min over p in mask of |p - argmax up(S)| <= tolerance], where up is the bilinear
    interpolation to the size of the mask and |.| the Euclidean distance in pixels of the mask.
    Of several maxima the first in reading order counts. A constant map points nowhere and misses.

    Args:
        scores: One map per example, on the patch grid.
        mask: One mask per example, true inside the object.
        tolerance: Pixels by which the maximum may miss the mask: 0 demands a point inside it,
            15 is the margin of the paper.
        peak: "patch" takes the maximum of the interpolation itself, at the centre of the highest
            patch; "pixel", as much code does, the highest pixel. Pixels miss the exact centres of
            inner patches, while outer ones repeat theirs to the border and so win too often.

    Raises:
        InputError: If a map, a mask or an option cannot be used.

    Example:
        >>> import torch
        >>> mask = torch.tensor([[[True, False], [False, False]]])
        >>> pointing_game(torch.tensor([[[0.9, 0.1], [0.2, 0.3]]]), mask)
        tensor([1.])
    """
    if not 0 <= tolerance < float("inf"):
        raise InputError(f"tolerance is a distance in pixels, 0 or more; got {tolerance}")
    if peak not in ("patch", "pixel"):
        raise InputError(f"peak is 'patch' or 'pixel', got {peak!r}")
    check_maps(scores, mask)
    drawn = scores if peak == "patch" else to_mask_size(scores, mask)
    row, column = _pixel_of_maximum(drawn, *mask.shape[1:])
    nearest = _distance_to_mask(row, column, mask)
    # constancy is asked of the patches: interpolating equal values may differ in the last bit
    points = scores.flatten(1).amax(dim=1) > scores.flatten(1).amin(dim=1)
    hit = (nearest <= tolerance) & points
    return hit.to(torch.promote_types(scores.dtype, torch.float32))


def _pixel_of_maximum(
    drawn: Float[Tensor, "batch rows columns"], height: int, width: int
) -> tuple[Int[Tensor, " batch"], Int[Tensor, " batch"]]:
    """Row and column of the pixel that holds the centre of the highest cell."""
    rows, columns = drawn.shape[1:]
    best = drawn.flatten(1).argmax(dim=1)
    # (cell + 1/2) * pixels / cells, rounded down; in integers, where nothing rounds by itself
    row = (2 * (best // columns) + 1) * height // (2 * rows)
    column = (2 * (best % columns) + 1) * width // (2 * columns)
    return row, column


def _distance_to_mask(
    row: Int[Tensor, " batch"], column: Int[Tensor, " batch"], mask: Bool[Tensor, "batch y x"]
) -> Float[Tensor, " batch"]:
    """From a pixel to the nearest pixel of the mask, 0 for a pixel inside it."""
    rows = torch.arange(mask.shape[1], device=mask.device)
    columns = torch.arange(mask.shape[2], device=mask.device)
    down, across = rows - row[:, None], columns - column[:, None]
    distance = (down[:, :, None] ** 2 + across[:, None, :] ** 2).float().sqrt()
    return distance.masked_fill(~mask, float("inf")).flatten(1).amin(dim=1)
