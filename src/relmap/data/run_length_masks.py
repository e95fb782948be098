"""Masks as COCO's uncompressed run lengths: column by column, the length of the zeros first."""

from typing import Any

import numpy as np
from jaxtyping import Bool

from relmap.errors import InputError

__all__ = ["decode_mask", "encode_mask"]


def encode_mask(mask: Bool[np.ndarray, "height width"]) -> dict[str, list[int]]:
    """A mask as COCO's segmentation.

    Example:
        >>> encode_mask(np.array([[False, True], [True, True]]))
        {'size': [2, 2], 'counts': [1, 3]}
    """
    flat = mask.T.reshape(-1)
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs = np.diff(np.concatenate([[0], edges, [flat.size]]))
    counts = ([0] if flat[0] else []) + [int(run) for run in runs]
    return {"size": list(mask.shape), "counts": counts}


def decode_mask(segmentation: Any, where: str) -> Bool[np.ndarray, "height width"]:
    """The mask of COCO's segmentation; `where` is named when it cannot be read.

    Raises:
        InputError: It is a polygon, compressed, or does not fill its size.

    Example:
        >>> decode_mask({"size": [2, 2], "counts": [1, 3]}, "here").tolist()
        [[False, True], [True, True]]
    """
    counts = segmentation.get("counts") if isinstance(segmentation, dict) else None
    if not isinstance(counts, list):
        raise InputError(
            f"{where} is no mask of uncompressed run lengths: write masks as "
            '{"size": [height, width], "counts": [...]}'
        )
    height, width = segmentation["size"]
    if sum(counts) != height * width:
        raise InputError(f"{where}: its runs have {sum(counts)} pixels, not {height} x {width}")
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, counts).reshape(width, height).T
