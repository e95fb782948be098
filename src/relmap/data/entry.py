"""What a data format declares when it is registered."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relmap.registry import Entry


@dataclass(frozen=True, kw_only=True)
class DataEntry(Entry[Callable[..., Any]]):
    """A data format: a function of a path, and of a split where it has several.

    Attributes:
        files: A function of (path, split) that finds the files which a split is read from; None
            where a format does not say.
    """

    operands = ("path", "split")
    optional = ("split",)

    files: Callable[[Path, str], Iterable[Path]] | None = None
