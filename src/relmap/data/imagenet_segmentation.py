"""ImageNet-Segmentation: pictures of ImageNet with the outline of their object.

One file, `gtsegs_ijcv.mat`, as its authors publish it: MATLAB's version 7.3, which is HDF5. Its
arrays lie there with their axes in MATLAB's order, the first one last:

    /value/img   (n, 1) references to pictures (3, width, height) of bytes
    /value/gt    (n, 1) references to (k, 1) references to masks (width, height), of which the
                 first is used, as in the published measurements
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from relmap.data import DATA
from relmap.data.example import Example
from relmap.errors import InputError, MissingExtraError

__all__ = ["SegmentedImages", "imagenet_segmentation"]


@dataclass(frozen=True, slots=True)
class SegmentedImages:
    """The examples of the file, each read from it when asked for: none is kept."""

    file: Path
    total: int

    def __len__(self) -> int:
        return self.total

    def __iter__(self) -> Iterator[Example]:
        return (self[one] for one in range(self.total))

    @overload
    def __getitem__(self, index: int) -> Example: ...

    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...

    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(self.total))]
        place = range(self.total)[index]  # counts from the end, and refuses what is not there
        return Example(
            name=f"{place:05d}",
            image=_read(self.file, place, "img"),
            mask=partial(_mask, self.file, place),
            about={"index": place},
            files=(self.file,),
        )


@DATA.register(
    "imagenet-segmentation",
    reference="Guillaumin, Küttel and Ferrari, ImageNet Auto-Annotation with Segmentation "
    "Propagation, IJCV 2014",
)
def imagenet_segmentation(path: str | Path) -> SegmentedImages:
    """Pictures and masks of gtsegs_ijcv.mat, in its order, read one by one.

    There are no labels: the published protocol explains the class that the model predicts.

    Args:
        path: The file, or the folder that it lies in.

    Raises:
        InputError: If there is no such file, or it holds no pictures and masks in this layout.
        MissingExtraError: If h5py is not installed.

    Example:
        >>> imagenet_segmentation("no/such/folder")
        Traceback (most recent call last):
        relmap.errors.InputError: there is no file or folder no/such/folder
    """
    file = Path(path)
    if not file.exists():
        raise InputError(f"there is no file or folder {file}")
    if file.is_dir():
        file = file / "gtsegs_ijcv.mat"
    if not file.is_file():
        raise InputError(f"{file.parent} has no {file.name}")
    with _opened(file) as content:
        found = [content.get(f"/value/{name}") for name in ("img", "gt")]
        shapes = [getattr(one, "shape", None) for one in found]
    if shapes[0] is None or shapes[0] != shapes[1] or len(shapes[0]) != 2 or shapes[0][1] != 1:
        raise InputError(
            f"{file} must hold /value/img and /value/gt with one reference per picture, of shape "
            f"(n, 1) each; found {shapes[0]} and {shapes[1]}"
        )
    return SegmentedImages(file, shapes[0][0])


def _opened(file: Path) -> Any:
    try:
        import h5py
    except ImportError as error:
        raise MissingExtraError("evaluate") from error
    try:
        return h5py.File(file, "r")
    except OSError as error:
        raise InputError(
            f"{file} is no HDF5 file, which MATLAB's version 7.3 files are: {error}"
        ) from error


def _read(file: Path, place: int, name: str) -> np.ndarray:
    """A picture as (height, width, 3) or a mask as (height, width), turned from MATLAB's order."""
    with _opened(file) as content:
        try:
            found = content[content[f"/value/{name}"][place, 0]]
            if name == "gt":
                found = content[found[0, 0]]
            array = np.asarray(found)
        except (KeyError, OSError, TypeError, ValueError) as error:
            raise InputError(f"number {place} of /value/{name} of {file}: {error}") from error
    if array.ndim != (3 if name == "img" else 2):
        raise InputError(f"number {place} of /value/{name} of {file} has the shape {array.shape}")
    return np.ascontiguousarray(array.transpose())


def _mask(file: Path, place: int) -> Bool[Tensor, "height width"]:
    return torch.from_numpy(_read(file, place, "gt") != 0)
