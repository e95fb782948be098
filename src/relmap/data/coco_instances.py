"""COCO instances, as published: the outline of every object in a picture.

    folder/annotations/instances_val2017.json
    folder/val2017/000000397133.jpg

The json may also lie in the folder itself and the picture folders in `images/`.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from relmap.data import (
    DATA,
    file_of_split,
    first_three,
    images_of_split,
    read_json,
    require_file_of_split,
)
from relmap.data.example import Example
from relmap.data.run_length_masks import decode_mask
from relmap.errors import InputError
from relmap.request.readers import read_image

__all__ = ["coco_instances"]

_NEEDED = ("category_id", "segmentation", "area")


def _files(folder: Path, split: str) -> list[Path]:
    file = file_of_split(folder, split, ".json", begin="instances_")
    return [] if file is None else [file]


@DATA.register(
    "coco-instances",
    reference="Lin et al., Microsoft COCO: Common Objects in Context, ECCV 2014",
    files=_files,
)
def coco_instances(path: str | Path, split: str = "val", *, text: str = "") -> list[Example]:
    """Pictures of a split in the order of the file, each with COCO's annotations of its objects.

    `about` holds "instances" (the annotations, maybe none: what is found there is wrong),
    "categories" (names by number) and "image_id". `regions` are the pixels of each category; where
    objects overlap, those of the smaller one, since it is the one that lies in front as a rule.

    Args:
        path: The folder.
        split: "val", "train2014" and the like.
        text: What stands beside every picture, for models that take one; none by default.

    Raises:
        InputError: If a file is missing, broken or ambiguous, annotations are incomplete or belong
            to no picture, or picture files are missing or there twice; with their number and the
            first three.

    Example:
        >>> coco_instances("no/such/folder")
        Traceback (most recent call last):
        relmap.errors.InputError: there is no folder no/such/folder
    """
    folder = Path(path)
    file = require_file_of_split(folder, split, ".json", begin="instances_")
    content = read_json(file, ["images", "annotations", "categories"])
    pictures = {entry.get("id"): str(entry.get("file_name")) for entry in content["images"]}
    categories = {entry.get("id"): str(entry.get("name")) for entry in content["categories"]}
    objects: dict[Any, list[dict[str, Any]]] = {number: [] for number in pictures}
    wrong = []
    for at, entry in enumerate(content["annotations"]):
        complete = all(key in entry for key in _NEEDED) and entry["category_id"] in categories
        if complete and entry.get("image_id") in objects:
            objects[entry["image_id"]].append(entry)
        else:
            wrong.append(at)
    if wrong:
        raise InputError(
            f"{len(wrong)} of {len(content['annotations'])} annotations of {file} lack one of "
            f"{', '.join(_NEEDED)}, or belong to none of its images or categories: entry "
            f"{first_three(wrong)}"
        )
    return [
        Example(
            image.stem,
            image=image,
            text=text or None,
            regions=partial(_regions, objects[number], image),
            about={
                "instances": objects[number],
                "categories": categories,
                "image_id": number,
            },
            files=(file,),
        )
        for number, image in images_of_split(folder, split, pictures, file.name).items()
    ]


def _regions(
    objects: Sequence[Mapping[str, Any]], image: Path
) -> dict[int, Bool[Tensor, "height width"]]:
    """The pixels of each category in a picture, the smaller of two objects in front.

    Raises:
        InputError: An outline does not have the picture's size.
        MissingExtraError: pycocotools is not installed.
    """
    width, height = read_image(image).size
    drawn = np.zeros((height, width), dtype=np.int64)
    for one in sorted(objects, key=lambda one: -one["area"]):
        inside = decode_mask(one["segmentation"], f"an outline of {image.name}", (height, width))
        if inside.shape != drawn.shape:
            raise InputError(
                f"an outline of {image.name} is drawn on {inside.shape[1]} x {inside.shape[0]} "
                f"pixels, the picture has {width} x {height}"
            )
        drawn[inside] = 1 + one["category_id"]
    labels = torch.from_numpy(drawn) - 1
    return {int(number): labels == number for number in labels.unique() if number >= 0}
