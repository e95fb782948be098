"""Pictures as the network's pixels, small enough to be kept: read once, mapped from disk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from relmap.files import fingerprint

__all__ = ["Pixels"]


class Pixels:
    """Resized pictures as bytes, and what an image processor makes of them."""

    def __init__(self, stored: UInt8[np.ndarray, "images 3 side side"], processor: Any) -> None:
        self.stored = stored
        mean, deviation = np.array(processor.image_mean), np.array(processor.image_std)
        self._scale = torch.tensor(1 / (255 * deviation), dtype=torch.float32).view(1, 3, 1, 1)
        self._shift = torch.tensor(-mean / deviation, dtype=torch.float32).view(1, 3, 1, 1)

    @classmethod
    def read(cls, files: Sequence[Path], processor: Any, cache: Path | None) -> Pixels:
        """The pictures of these files; with `cache` they are kept in that folder for the next run.

        Opening and resizing is most of what a small network's training would otherwise wait for.
        A file that was written anew, or another way of resizing, is another cache.
        """
        side = processor.crop_size["height"]
        shape = (len(files), 3, side, side)
        key = _key(files, processor)
        path = None if cache is None else cache / f"{key}-{side}.npy"
        if path is not None and path.is_file():
            return cls(np.load(path, mmap_mode="r"), processor)
        if path is None:
            stored: Any = np.empty(shape, dtype=np.uint8)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part")
            stored = np.lib.format.open_memmap(part, mode="w+", dtype=np.uint8, shape=shape)
        for start in range(0, len(files), 256):
            stored[start : start + 256] = _resized(files[start : start + 256], processor)
        if path is not None:
            stored.flush()
            path.with_suffix(".part").rename(path)  # a cache that was killed is not taken for whole
        return cls(stored, processor)

    def __len__(self) -> int:
        return len(self.stored)

    def take(self, rows: Int[np.ndarray, " n"]) -> Float[Tensor, "n 3 side side"]:
        """The normalised pixels of some pictures."""
        return torch.from_numpy(self.stored[rows]).float() * self._scale + self._shift


def _key(files: Sequence[Path], processor: Any) -> str:
    """Every picture's place, size and time, and all that the processor is set to."""
    about = [(str(one), (now := one.stat()).st_size, now.st_mtime_ns) for one in files]
    settings = json.dumps([about, processor.to_dict()], sort_keys=True, default=str)
    return fingerprint(settings)


def _resized(files: Sequence[Path], processor: Any) -> Any:
    from PIL import Image

    pictures = []
    for file in files:
        with Image.open(file) as picture:
            pictures.append(picture.convert("RGB"))
    found = processor(pictures, do_rescale=False, do_normalize=False, return_tensors="np")
    return found["pixel_values"].astype(np.uint8)
