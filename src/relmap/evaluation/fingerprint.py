"""The fingerprint of a data set: a hash of all that goes in, and of all that is held to be true.

Pictures, masks and annotations count by what is in their files, not by their names or sizes: rows
of two data sets must never stand in one table. A file is read once in a run, however many examples
come from it; its path, size and time of change say that it is still the same.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from relmap.data.example import Example
from relmap.files import fingerprint

__all__ = ["Fingerprint", "fingerprint_of"]


class Fingerprint:
    """The fingerprints of examples, one after another, and what of them stands out.

    Attributes:
        examples: Of each example, in order.

    Example:
        >>> seen = Fingerprint()
        >>> len(seen.add(Example("1", text="a cat")))
        16
        >>> seen.add(Example("1", text="a dog"))[:0], seen.notes()
        ('', ['1 of 2 names belong to several examples: 1'])
    """

    def __init__(self) -> None:
        self.examples: list[str] = []
        self._files: dict[tuple[str, int, int], str] = {}
        self._names: Counter[str] = Counter()
        self._same: dict[str, list[str]] = {}

    @property
    def number(self) -> int:
        """How many examples there were."""
        return len(self.examples)

    def add(self, example: Example) -> str:
        """Take one more example in; its own fingerprint is returned."""
        inputs, truth = self._inputs(example), self._truth(example)
        self._names[example.name] += 1
        self._same.setdefault(inputs, []).append(example.name)
        self.examples.append(fingerprint(example.name, inputs, truth))
        return self.examples[-1]

    def hexdigest(self) -> str:
        """The fingerprint of all examples so far."""
        return fingerprint_of(self.examples)

    def notes(self) -> list[str]:
        """Which names belong to several examples, and which examples are the same."""
        said: list[str] = []
        equal = [name for name, count in self._names.items() if count > 1]
        if equal:
            several = sum(self._names[name] for name in equal)
            said.append(
                f"{several - len(equal)} of {self.number} names belong to several examples: "
                f"{_few(equal)}"
            )
        same = [names for names in self._same.values() if len(names) > 1]
        if same:
            said.append(
                f"{sum(map(len, same)) - len(same)} of {self.number} examples went in before: "
                f"{_few(f'{names[1]} is {names[0]}' for names in same)}"
            )
        return said

    def _inputs(self, example: Example) -> str:
        parts = [repr(example.text).encode(), self._of(example.image)]
        for name, value in example.arguments.items():
            parts += [name.encode(), self._of(value)]
        return fingerprint(*parts)

    def _truth(self, example: Example) -> str:
        known = (example.label, sorted(example.answers.items()), example.captions, example.words)
        parts = [repr(known).encode(), _plain(example.about).encode()]
        if example.files:
            parts += [self._of(Path(file)) for file in example.files]
        else:
            parts += [self._opened(example.mask), self._opened(example.regions)]
        return fingerprint(*parts)

    def _opened(self, open_truth: Any) -> bytes:
        """What a mask or regions are that no file is named of."""
        if open_truth is None:
            return b""
        try:
            truth = open_truth()
        except Exception as error:  # told where it is judged; here it only has to be the same
            return type(error).__name__.encode()
        if isinstance(truth, Mapping):
            return b"".join(str(key).encode() + self._of(mask) for key, mask in truth.items())
        return self._of(truth)

    def _of(self, value: Any) -> bytes:
        """What stands for a picture, tensor or file in a hash."""
        if isinstance(value, Tensor | np.ndarray):
            tensor = torch.as_tensor(value).detach().cpu().contiguous()
            return f"{tensor.dtype} {tuple(tensor.shape)}".encode() + _bytes(tensor)
        if isinstance(value, str | Path):
            return self._file(Path(value)).encode()
        if isinstance(value, Mapping):
            return b"".join(str(key).encode() + self._of(one) for key, one in value.items())
        if isinstance(value, bytes):
            return value
        if hasattr(value, "tobytes"):  # one of PIL's pictures
            with suppress(OSError, SyntaxError, ValueError):  # told where it is opened
                return f"{value.mode} {value.size}".encode() + value.tobytes()
        return b"" if value is None else type(value).__name__.encode()

    def _file(self, path: Path) -> str:
        try:
            about = path.stat()
            key = (str(path), about.st_size, about.st_mtime_ns)
            if key not in self._files:
                with path.open("rb") as file:
                    self._files[key] = hashlib.file_digest(file, "sha256").hexdigest()
        except (OSError, ValueError):  # not there, no file, no name for one
            return "none"
        return self._files[key]


def fingerprint_of(examples: Iterable[str]) -> str:
    """The fingerprint of a data set from those of its examples."""
    return fingerprint(*examples)


def _bytes(value: Tensor) -> bytes:
    return value.reshape(-1).view(torch.uint8).numpy().tobytes()


def _plain(value: Any) -> str:
    """What stands for whatever a data set says; never an address, nor where a file lies."""
    with suppress(TypeError, ValueError):  # as a rule, and fast
        return json.dumps(value, sort_keys=True)
    if isinstance(value, Mapping):
        return repr(sorted((repr(key), _plain(one)) for key, one in value.items()))
    if isinstance(value, list | tuple):
        return repr([_plain(one) for one in value])
    if isinstance(value, Tensor | np.ndarray):
        return fingerprint(_bytes(torch.as_tensor(value).detach().cpu()))
    return value.name if isinstance(value, Path) else type(value).__name__


def _few(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:3]) + (", ..." if len(listed) > 3 else "")
