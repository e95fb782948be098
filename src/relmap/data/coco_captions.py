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
    images_of_split,
    read_json,
    require_file_of_split,
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
    file = require_file_of_split(folder, split, ".json", begin="captions_")
    about, captions = _read(file)
    names = {number: str(entry.get("file_name")) for number, entry in about.items()}
    images = images_of_split(folder, split, names, file.name)
    return [
        CaptionedImage(image.stem, image, tuple(captions[number]), number, about[number])
        for number, image in images.items()
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
