"""What each patch of a picture shows, from COCO's instances: the teacher of the small CLIP.

A patch belongs to the object that covers its centre, or to the ground. The texts that it is
compared with are the names of the categories and, where all names have the same number of words,
also the words at each place of the names: the colours, the shapes, the sizes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from relmap.data import decode_mask, read_json

__all__ = ["GROUND", "Regions", "read_regions"]

GROUND = "plain background"


@dataclass(frozen=True)
class Regions:
    """Objects under patches, and texts that name them.

    Attributes:
        categories: For every picture and patch the category's number; -1 is the ground.
        names: The categories that occur.
        tables: Lists of texts, each with the text's number for every category; the first holds
            the whole names.
    """

    categories: Int[np.ndarray, "images patches"]
    names: tuple[str, ...]
    tables: tuple[tuple[tuple[str, ...], Int[np.ndarray, " categories"]], ...]


def read_regions(file: Path, image_ids: Sequence[int], grid: int) -> Regions:
    """The objects under grid x grid patches of these pictures, in their order.

    Raises:
        InputError: The file is broken, or a mask is in a form other than uncompressed run lengths.
    """
    content = read_json(file, ["annotations", "categories"])
    rows = {image_id: row for row, image_id in enumerate(image_ids)}
    used = sorted({one["category_id"] for one in content["annotations"]})
    number = {category: index for index, category in enumerate(used)}
    spelled = {one["id"]: str(one["name"]) for one in content["categories"]}
    found = np.full((len(rows), grid * grid), -1, dtype=np.int16)
    by_image: Mapping[int, list[Any]] = defaultdict(list)
    for one in content["annotations"]:
        if one["image_id"] in rows:
            by_image[one["image_id"]].append(one)
    for image_id, things in by_image.items():
        for one in things:
            mask = decode_mask(one["segmentation"], f"annotation {one['id']} of {file}")
            centres = _centres(mask, grid)
            found[rows[image_id], centres] = number[one["category_id"]]
    names = tuple(spelled[category] for category in used)
    return Regions(found, names, _tables(names))


def _centres(mask: Bool[np.ndarray, "height width"], grid: int) -> Int[np.ndarray, "_"]:
    """The patches whose centre the mask covers."""
    rows, columns = (((np.arange(grid) + 0.5) * side / grid).astype(int) for side in mask.shape)
    return np.flatnonzero(mask[np.ix_(rows, columns)].reshape(-1))


def _tables(names: tuple[str, ...]) -> tuple[Any, ...]:
    tables: list[Any] = [((*names, GROUND), np.arange(len(names)))]
    words = [name.split() for name in names]
    lengths = {len(one) for one in words}
    if len(lengths) == 1 and lengths != {1}:
        for place in range(lengths.pop()):
            texts = tuple(sorted({one[place] for one in words}))
            tables.append((texts, np.array([texts.index(one[place]) for one in words])))
    return tuple(tables)
