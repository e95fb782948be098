"""Reading the data: examples one after another, in numbered batches, with a fingerprint.

A batch is fixed by the numbers of its examples and by nothing else, so that a run which begins
again, or which runs elsewhere, computes the same batches.
"""

from __future__ import annotations

import hashlib
import inspect
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from relmap.data import DATA
from relmap.data.example import Example
from relmap.errors import InputError
from relmap.evaluation.judging import Numbered

__all__ = ["Fingerprint", "numbered_batches", "read_examples"]


def read_examples(data: Any, form: str | None, options: Mapping[str, Any]) -> Iterable[Example]:
    """The examples of a data set: a path or name in a format, or samples that are there already.

    What has a length stays a list, so that it can be looked at more than once; a stream is read as
    it is needed.

    Raises:
        InputError: The format is missing or unknown, or has no such option.
    """
    if isinstance(data, str | os.PathLike):
        if form is None:
            raise InputError(f"give the format of {os.fspath(data)!r}: {', '.join(DATA.names())}")
        function = DATA.get(form).function
        known = list(inspect.signature(function).parameters)[1:]
        wrong = [name for name in options if name not in known]
        if wrong:
            raise InputError(
                f"the data format {form!r} has no option {wrong[0]!r}: "
                f"{', '.join(known) or 'it has none'}"
            )
        data = function(os.fspath(data), **options)
    examples = map(_example, data)
    return list(examples) if hasattr(data, "__len__") else examples


def _example(sample: Any) -> Example:
    if isinstance(sample, Example):
        return sample
    if hasattr(sample, "example"):
        return sample.example()
    raise InputError(
        f"a {type(sample).__name__} is no example: give relmap.Example(name, image=..., text=...)"
    )


def numbered_batches(
    examples: Iterable[Example], size: int, limit: int | None
) -> Iterator[list[Numbered]]:
    """Batches of examples with their numbers, in order.

    Raises:
        InputError: There is no example at all.
    """
    numbered = enumerate(islice(examples, limit))
    first = True
    while batch := list(islice(numbered, size)):
        first = False
        yield batch
    if first:
        raise InputError("the data set has no examples")


class Fingerprint:
    """A hash of all that went in: names, texts, labels, pixels, and the sizes of picture files.

    Example:
        >>> print_of = Fingerprint()
        >>> print_of.add(Example("1", text="a cat"))
        >>> print_of.hexdigest()[:8]
        '9405a8fb'
    """

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self.number = 0

    def add(self, example: Example) -> None:
        """Take one more example in."""
        self.number += 1
        known = (example.name, example.text, example.label, sorted(example.answers.items()))
        self._hash.update(repr((*known, example.captions, example.words)).encode())
        for name, value in example.arguments.items():
            self._hash.update(name.encode())
            self._hash.update(_bytes(value))
        image = example.image
        if isinstance(image, Tensor | np.ndarray):
            self._hash.update(_bytes(torch.as_tensor(image)))
        elif isinstance(image, str | Path) and Path(image).is_file():
            self._hash.update(str(Path(image).stat().st_size).encode())
        elif isinstance(image, bytes):
            self._hash.update(image)
        elif not isinstance(image, str | Path) and hasattr(image, "tobytes"):
            # one of PIL's pictures; what is broken is told where it is opened
            with suppress(OSError, SyntaxError, ValueError):
                self._hash.update(f"{image.mode} {image.size}".encode() + image.tobytes())

    def hexdigest(self) -> str:
        """The fingerprint so far."""
        return self._hash.hexdigest()


def _bytes(value: Tensor) -> bytes:
    return value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
