"""COCO captions, as published: five sentences about each picture.

    folder/annotations/captions_val2017.json
    folder/val2017/000000397133.jpg

The json may also lie in the folder itself and the picture folders in `images/`.
"""

from pathlib import Path
from typing import Any

from relmap.data import (
    DATA,
    CaptionedImage,
    file_of_split,
    first_three,
    folders_of_split,
    images_by_name,
    images_by_number,
    read_json,
    require_images,
)
from relmap.errors import InputError


def _files(folder: Path, split: str) -> list[Path]:
    file = file_of_split(folder, split, ".json", begin="captions_")
    return [] if file is None else [file]


@DATA.register(
    "coco-captions",
    reference="Chen et al., Microsoft COCO Captions, arXiv:1504.00325",
    files=_files,
)
def coco_captions(path: str | Path, split: str = "train") -> list[CaptionedImage]:
    """Pictures of a split with their captions, both in the order of the captions file.

    Raises:
        InputError: If a file is missing, broken or ambiguous, captions belong to no picture or
            pictures have none, or picture files are missing or there twice; with their number and
            the first three.

    Example:
        >>> coco_captions("no/such/folder")
        Traceback (most recent call last):
        relmap.errors.InputError: there is no folder no/such/folder
    """
    folder = Path(path)
    file = file_of_split(folder, split, ".json", begin="captions_")
    if file is None:
        raise InputError(f"{folder} has no captions_{split}*.json, nor has its annotations/")
    about, captions = _read(file)
    places = folders_of_split(folder, split)
    by_name = images_by_name(places)
    images = {number: by_name.get(str(entry.get("file_name"))) for number, entry in about.items()}
    # the pictures of 2014 and of 2017 are the same ones, named differently
    renamed = {number for number, image in images.items() if image is None}
    images |= images_by_number(places, renamed)
    missing = [number for number, image in images.items() if image is None]
    require_images(missing, len(images), file.name, places)
    return [
        CaptionedImage(image.stem, image, tuple(captions[number]), number, about[number])
        for number, image in images.items()
        if image is not None
    ]


def _read(file: Path) -> tuple[dict[int, dict[str, Any]], dict[int, list[str]]]:
    """What the file says of every picture, and the captions of every picture."""
    content = read_json(file, ["images", "annotations"])
    wrong = [at for at, entry in enumerate(content["images"]) if type(entry.get("id")) is not int]
    if wrong:
        raise InputError(
            f'{len(wrong)} of {len(content["images"])} images of {file} have no "id" that is a '
            f"number: entry {first_three(wrong)}"
        )
    about = {entry["id"]: entry for entry in content["images"]}
    captions: dict[int, list[str]] = {number: [] for number in about}
    for at, entry in enumerate(content["annotations"]):
        number, text = entry.get("image_id"), entry.get("caption")
        if isinstance(number, int) and number in about and isinstance(text, str):
            captions[number].append(text.strip())
        else:
            wrong.append(at)
    if wrong:
        raise InputError(
            f"{len(wrong)} of {len(content['annotations'])} annotations of {file} have no text or "
            f"belong to none of its images: entry {first_three(wrong)}"
        )
    mute = [number for number, texts in captions.items() if not texts]
    if mute:
        raise InputError(
            f"{len(mute)} of {len(about)} images of {file} have no caption: {first_three(mute)}"
        )
    return about, captions
