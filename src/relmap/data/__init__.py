"""Data: examples to explain, from the formats that have a meaning for evaluation.

Each file here registers one format: a function from a path to a list of samples. A sample knows
where its files lie and opens them when asked, so that a list of many costs no memory.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from relmap.errors import InputError
from relmap.registry import Registry

if TYPE_CHECKING:
    import PIL.Image

__all__ = ["DATA", "Sample", "read_manifest", "require_files"]

DATA: Registry[Any] = Registry("data format", "relmap.data")


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


def _open(path: Path, what: str) -> "PIL.Image.Image":
    from PIL import Image

    try:
        with Image.open(path) as picture:
            picture.load()
            return picture
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError(f"{what} {path} cannot be read: {error}") from error
