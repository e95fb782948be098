"""Semantic segmentation: pictures in which every pixel has the number of a class.

    folder/classes.txt       one class a line: its number, a space, its name
    folder/images/           pictures
    folder/labels/           PNG files of the same names and sizes, grey or with a palette, whose
                             values are the numbers of classes

PASCAL VOC and Context, ADE20K, COCO-Stuff and Cityscapes publish their labels as such files. A
number that classes.txt does not name (a background, a border) is of pixels that nobody labelled.
"""

from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from relmap.data import DATA, first_three, images_by_name
from relmap.data.example import Example
from relmap.errors import InputError

__all__ = ["semantic_segmentation"]


@DATA.register("semantic-segmentation")
def semantic_segmentation(path: str | Path, *, text: str = "a photo") -> list[Example]:
    """Pictures in the order of their names, with the pixels of each class as `regions`.

    `about["categories"]` holds the names of all classes by number.

    Args:
        path: The folder.
        text: What stands beside every picture, for models that take one; "" for none.

    Raises:
        InputError: The folder, classes.txt or a file of labels is missing, or a line of classes.txt
            is no number with a name.

    Example:
        >>> semantic_segmentation("no/such/folder")
        Traceback (most recent call last):
        relmap.errors.InputError: there is no folder no/such/folder
    """
    folder = Path(path)
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}")
    for part in ("images", "labels"):
        if not (folder / part).is_dir():
            raise InputError(f"{folder} has no folder {part}/")
    categories = _classes(folder / "classes.txt")
    images = dict(sorted(images_by_name([folder / "images"]).items()))
    labels = {file.stem: file for file in (folder / "labels").glob("*.png")}
    missing = [name for name, image in images.items() if image.stem not in labels]
    if missing or not images:
        raise InputError(
            f"{len(missing)} of {len(images)} pictures of {folder / 'images'} have no file of "
            f"labels in {folder / 'labels'}: {first_three(missing)}"
        )
    return [
        Example(
            image.stem,
            image=image,
            text=text or None,
            regions=partial(_regions, labels[image.stem], tuple(categories)),
            about={"categories": categories},
            files=(labels[image.stem],),
        )
        for image in images.values()
    ]


def _classes(file: Path) -> dict[int, str]:
    if not file.is_file():
        raise InputError(f'{file.parent} has no {file.name}: one line a class, such as "1 cat"')
    found: dict[int, str] = {}
    for at, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        number, _, name = line.strip().partition(" ")
        if not line.strip():
            continue
        if not number.isdecimal() or not name.strip() or int(number) in found:
            raise InputError(f"line {at} of {file} is no new number with a name: {line!r}")
        found[int(number)] = name.strip()
    if not found:
        raise InputError(f"{file} names no class")
    return found


def _regions(file: Path, numbers: tuple[int, ...]) -> dict[int, Bool[Tensor, "height width"]]:
    """The pixels of each class that is in a file of labels.

    Raises:
        InputError: The file is unreadable, or a coloured picture.
    """
    from PIL import Image

    try:
        with Image.open(file) as picture:
            values = np.asarray(picture)
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError(f"labels {file} cannot be read: {error}") from error
    if values.ndim != 2:
        raise InputError(
            f"{file} is a coloured picture of shape {values.shape}: labels are numbers, in a grey "
            "picture or one with a palette"
        )
    drawn = torch.from_numpy(values.astype(np.int64))
    present = [int(number) for number in drawn.unique()]
    return {number: drawn == number for number in present if number in numbers}
