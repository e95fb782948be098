"""Data: examples to explain, from the formats that have a meaning for evaluation.

Each file here registers one format: a function from a path to a list of samples. A sample knows
where its files lie and opens them when asked, so that a list of many costs no memory. A format may
also say, as `files`, which files the texts of a split are read from.
"""

import json
import os
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from relmap.data.entry import DataEntry
from relmap.data.example import Example
from relmap.data.run_length_masks import decode_mask, encode_mask
from relmap.errors import InputError
from relmap.registry import Registry

if TYPE_CHECKING:
    import PIL.Image

__all__ = [
    "DATA",
    "CaptionedImage",
    "DataEntry",
    "Example",
    "Question",
    "Sample",
    "decode_mask",
    "encode_mask",
    "file_of_split",
    "files_of",
    "first_three",
    "images_by_number",
    "images_of_split",
    "read_json",
    "read_manifest",
    "require_file_of_split",
    "require_files",
    "require_images",
]

DATA = Registry("data format", "relmap.data", DataEntry)


@dataclass(frozen=True)
class Sample:
    """One example of a data set: its files, its label, and what else the data set says of it."""

    name: str
    image: Path
    mask: Path | None = None
    label: int | None = None
    label_name: str | None = None
    about: Mapping[str, Any] = field(default_factory=dict)

    def open_image(self) -> "PIL.Image.Image":
        """The picture in RGB, its pixels as stored.

        Raises:
            InputError: If the file is not a readable image.
        """
        # no turning by EXIF: masks are drawn on the pixels as they lie in the file
        return _open(self.image, "image").convert("RGB")

    def open_mask(self) -> Bool[Tensor, "height width"]:
        """The mask, true wherever the file is not zero, with the height and width of the image.

        Raises:
            InputError: If there is no mask, it is unreadable, or its size is not the image's.
        """
        if self.mask is None:
            raise InputError(f"sample '{self.name}' has no mask")
        picture = _open(self.mask, "mask")
        # palette entries are labels, not colours; transparency says nothing about the object
        plain = picture if picture.mode in ("1", "L", "P", "I", "I;16") else picture.convert("RGB")
        inside = np.asarray(plain) != 0
        size = _open(self.image, "image").size
        if picture.size != size:
            raise InputError(
                f"mask {self.mask} has {picture.size[0]} x {picture.size[1]} pixels, "
                f"its image {size[0]} x {size[1]}: they must be equal"
            )
        return torch.from_numpy(inside if inside.ndim == 2 else inside.any(axis=2))

    def example(self) -> Example:
        """The sample as evaluation sees it."""
        return Example(
            name=self.name,
            image=self.image,
            label=self.label,
            mask=None if self.mask is None else self.open_mask,
            about=self.about,
            files=() if self.mask is None else (self.mask,),
        )


@dataclass(frozen=True, slots=True)
class Question:
    """A question about a picture, with what people answered.

    `answers` are the soft targets of training, min(n / 3, 1) for an answer that n people gave,
    over normalised answers; `humans` are the answers as they were given, which the official
    accuracy is computed from. Both are empty where the answers are not public.
    """

    name: str
    image: Path
    text: str
    answers: Mapping[str, float]
    humans: tuple[str, ...]
    kind: str
    answer_type: str
    image_id: int | str
    about: Mapping[str, Any] = field(default_factory=dict)

    def open_image(self) -> "PIL.Image.Image":
        """The picture in RGB, its pixels as stored.

        Raises:
            InputError: If the file is not a readable image.
        """
        return _open(self.image, "image").convert("RGB")

    def example(self) -> Example:
        """The question as evaluation sees it."""
        return Example(
            name=self.name,
            image=self.image,
            text=self.text,
            answers=self.answers,
            about={**self.about, "kind": self.kind},
        )


@dataclass(frozen=True, slots=True)
class CaptionedImage:
    """A picture with the sentences in which people described it."""

    name: str
    image: Path
    captions: tuple[str, ...]
    image_id: int | str
    about: Mapping[str, Any] = field(default_factory=dict)

    def open_image(self) -> "PIL.Image.Image":
        """The picture in RGB, its pixels as stored.

        Raises:
            InputError: If the file is not a readable image.
        """
        return _open(self.image, "image").convert("RGB")

    def example(self) -> Example:
        """The picture as evaluation sees it."""
        return Example(name=self.name, image=self.image, captions=self.captions, about=self.about)


def read_manifest(folder: Path) -> list[dict[str, Any]]:
    """The entries of `manifest.json` in a folder, each naming its image.

    Raises:
        InputError: If the folder or the manifest is missing, or it is not a list of such entries.
    """
    path = folder / "manifest.json"
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}")
    if not path.is_file():
        raise InputError(
            f"{folder} has no manifest.json: a JSON list with one entry per image, "
            'such as {"image": "images/1.jpg", "mask": "masks/1.png"}'
        )
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}") from error
    if not isinstance(entries, list) or not entries:
        raise InputError(f"{path} must be a JSON list with at least one entry")
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict) or not isinstance(entry.get("image"), str):
            raise InputError(f'entry {number} of {path} has no "image" naming a file')
    return entries


def require_files(paths: Sequence[Path], what: str, folder: Path) -> None:
    """Checks that all files exist, before a long run finds out one by one that they do not.

    Raises:
        InputError: If some are missing, with their number and the first three.
    """
    missing = [path for path in paths if not path.is_file()]
    if missing:
        first = ", ".join(str(path) for path in missing[:3])
        more = ", ..." if len(missing) > 3 else ""
        raise InputError(
            f"{len(missing)} of {len(paths)} {what} named by the manifest of {folder} are missing: "
            f"{first}{more}"
        )


def first_three(wrong: Iterable[object]) -> str:
    """The first three of what is wrong, for a message that gives their number already."""
    items = list(wrong)
    return ", ".join(map(str, items[:3])) + (", ..." if len(items) > 3 else "")


def read_json(path: Path, lists: Sequence[str], **options: Any) -> dict[str, Any]:
    """A JSON object whose named values are lists of objects, as COCO and VQA write them.

    Raises:
        InputError: If the file cannot be read, is not JSON, or lacks one of the lists.
    """
    try:
        content = json.loads(path.read_bytes(), **options)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}") from error
    for name in lists:
        entries = content.get(name) if isinstance(content, dict) else None
        if not isinstance(entries, list):
            raise InputError(f'{path} has no list "{name}"')
        wrong = [at for at, entry in enumerate(entries) if not isinstance(entry, dict)]
        if wrong:
            raise InputError(
                f'{len(wrong)} of {len(entries)} "{name}" of {path} are no objects: '
                f"entry {first_three(wrong)}"
            )
    return content


def files_of(form: str, path: Path, split: str) -> list[Path]:
    """The files that a split's questions or captions are read from; none if it is not there.

    A file that is there may still turn out to be broken. A format that does not say has none.

    Raises:
        InputError: If the format is unknown, the folder is missing, or several files fit.
    """
    find = DATA.get(form).files
    return [] if find is None else list(find(path, split))


def file_of_split(folder: Path, split: str, ending: str, begin: str = "") -> Path | None:
    """The one file `begin*split*ending` in a folder or its `annotations`, or None.

    `train` stands for train2014 as well, but not for trainval, nor `test` for test-dev.

    Raises:
        InputError: If the folder is missing or several files fit.
    """
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}")
    places = [place for place in (folder, folder / "annotations") if place.is_dir()]
    names = [place / name for place in places for name in sorted(os.listdir(place))]
    year = rf"{re.escape(split)}(?:20\d\d)?"
    whole = re.compile(rf"(?<![A-Za-z]){year}(?![A-Za-z0-9]|-dev|-std)")  # not trainval for train
    fitting = [
        file
        for file in names
        if file.name.startswith(begin) and file.name.endswith(ending) and whole.search(file.name)
    ]
    exact = re.compile(rf"(?:^|_){year}[_.]")
    found = [file for file in fitting if exact.search(file.name)] or fitting
    if len(found) > 1:
        raise InputError(
            f"{len(found)} files of {folder} could be {begin}*{split}*{ending}: "
            f"{first_three(file.relative_to(folder) for file in found)}"
        )
    return found[0] if found else None


def require_file_of_split(folder: Path, split: str, ending: str, begin: str = "") -> Path:
    """The one file that `file_of_split` finds.

    Raises:
        InputError: If there is none, the folder is missing, or several files fit.
    """
    file = file_of_split(folder, split, ending, begin)
    if file is None:
        name = f"{begin or '*'}{split}*{ending}"
        raise InputError(f"{folder} has no {name}, nor has its annotations/")
    return file


def folders_of_split(folder: Path, split: str) -> list[Path]:
    """Where the pictures of a split may lie: train, train2014, images/train2014, ..., or images.

    test-dev and test-std have the pictures of test.
    """
    begin = re.sub(r"(-.*|20\d\d)$", "", split)
    places = [place for place in (folder, folder / "images") if place.is_dir()]
    found = [
        place / entry.name
        for place in places
        for entry in sorted(os.scandir(place), key=lambda entry: entry.name)
        if entry.name.startswith(begin) and entry.is_dir()
    ]
    return found or places[1:]


def images_by_name(folders: Iterable[Path]) -> dict[str, Path]:
    """Pictures by file name, from folders that are each listed once.

    Half a million questions then ask the disk nothing. Of several folders the first decides.
    """
    return {
        name: folder / name
        for folder in reversed(list(folders))
        for name in os.listdir(folder)
        if name.lower().endswith((".jpg", ".jpeg", ".png"))
    }


def images_by_number(folders: Iterable[Path], wanted: Container[int]) -> dict[int, Path]:
    """Pictures by the number that ends their name: COCO_train2014_000000000009.jpg is 9.

    Of several folders the first that has a number decides.

    Raises:
        InputError: If a folder has several pictures of a number that is wanted.
    """
    numbered = re.compile(r"(\d+)\.\w+$")
    found: dict[int, Path] = {}
    for folder in folders:
        here: dict[int, Path] = {}
        twice: dict[int, tuple[str, str]] = {}
        for name, path in sorted(images_by_name([folder]).items()):
            match = numbered.search(name)
            if match is None or (number := int(match[1])) not in wanted or number in found:
                continue
            if number in here:
                twice[number] = (here[number].name, name)
            here[number] = path
        if twice:
            raise InputError(
                f"{len(twice)} numbers have several pictures in {folder}: "
                f"{first_three(' and '.join(names) for names in twice.values())}"
            )
        found |= here
    return found


def images_of_split(
    folder: Path, split: str, names: Mapping[Any, str | None], what: str
) -> dict[Any, Path]:
    """The picture of every number, by its file name and else by the number that ends a name.

    The pictures of 2014 and of 2017 are the same ones, named differently. None is no name.

    Raises:
        InputError: If pictures are missing, or a number that no name finds has several.
    """
    places = folders_of_split(folder, split)
    by_name = images_by_name(places) if any(names.values()) else {}
    found = {number: by_name[name] for number, name in names.items() if name in by_name}
    found |= images_by_number(places, names.keys() - found.keys())
    missing = [number for number in names if number not in found]
    require_images(missing, len(names), what, places)
    return {number: found[number] for number in names}


def require_images(
    missing: Sequence[object], number: int, what: str, places: Iterable[Path]
) -> None:
    """Refuses a data set some of whose pictures are not on the disk.

    Raises:
        InputError: If any is missing, with their number, the first three, and where they should be.
    """
    if missing:
        where = ", ".join(map(str, places)) or "any folder of that name"
        raise InputError(
            f"{len(missing)} of {number} pictures of {what} are not in {where}: "
            f"{first_three(missing)}"
        )


def _open(path: Path, what: str) -> "PIL.Image.Image":
    from PIL import Image

    try:
        with Image.open(path) as picture:
            picture.load()
            return picture
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError(f"{what} {path} cannot be read: {error}") from error
