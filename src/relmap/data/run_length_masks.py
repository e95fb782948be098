"""Masks as COCO writes them: run lengths, compressed run lengths, or polygons.

Plain run lengths (column by column, the length of the zeros first) are what relmap writes, and
need nothing; for the rest pycocotools knows how COCO draws.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from jaxtyping import Bool

from relmap.errors import InputError, MissingExtraError

__all__ = ["decode_mask", "encode_mask"]


def encode_mask(mask: Bool[np.ndarray, "height width"]) -> dict[str, list[int]]:
    """A mask as COCO's segmentation, in plain run lengths.

    Example:
        >>> encode_mask(np.array([[False, True], [True, True]]))
        {'size': [2, 2], 'counts': [1, 3]}
    """
    flat = mask.T.reshape(-1)
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs = np.diff(np.concatenate([[0], edges, [flat.size]]))
    counts = ([0] if flat[0] else []) + [int(run) for run in runs]
    return {"size": list(mask.shape), "counts": counts}


def decode_mask(
    segmentation: Any, where: str, size: tuple[int, int] | None = None
) -> Bool[np.ndarray, "height width"]:
    """The mask of COCO's segmentation; `where` is named when it cannot be read.

    `size` is the height and width of the picture, without which polygons cannot be drawn.

    Raises:
        InputError: It is of no kind that COCO writes, or does not fill its size.
        MissingExtraError: It is compressed or a polygon, and pycocotools is not installed.

    Example:
        >>> decode_mask({"size": [2, 2], "counts": [1, 3]}, "here").tolist()
        [[False, True], [True, True]]
    """
    counts = segmentation.get("counts") if isinstance(segmentation, dict) else None
    if not isinstance(counts, list):
        return _drawn(segmentation, where, size)
    height, width = segmentation["size"]
    if sum(counts) != height * width:
        raise InputError(f"{where}: its runs have {sum(counts)} pixels, not {height} x {width}")
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, counts).reshape(width, height).T


def _drawn(
    segmentation: Any, where: str, size: tuple[int, int] | None
) -> Bool[np.ndarray, "height width"]:
    compressed = isinstance(segmentation, dict) and "counts" in segmentation
    if not compressed and (size is None or not isinstance(segmentation, list)):
        raise InputError(
            f"{where} is no mask that can be read here: write masks as uncompressed run lengths, "
            '{"size": [height, width], "counts": [...]}'
        )
    try:
        from pycocotools import mask as masks
    except ImportError as error:
        raise MissingExtraError("evaluate") from error
    outline: Any = segmentation
    if size is not None and not compressed:
        outline = masks.merge(masks.frPyObjects(outline, *size))
    with warnings.catch_warnings():
        # pycocotools 2.0 makes arrays in a way that numpy 2 is leaving
        warnings.simplefilter("ignore", DeprecationWarning)
        return masks.decode(outline) > 0
