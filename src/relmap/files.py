"""Files: who draws and writes a result, written whole or not at all; safetensors with JSON.

A result knows neither pictures nor disk formats. Whoever can write it registers for its type and an
ending, whoever can draw it for its type (`relmap.drawing` does), and `save` and `draw` look them
up; other packages name their module under the entry point group `relmap.files`.
The tensors of a result lie in one safetensors file; what is not a tensor (names, tokens, grids,
targets, provenance) is JSON in its header, so that reading a file runs no code.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from relmap.errors import InputError

FORMAT = 1

Writer = Callable[[Any, Path], None]
Drawer = Callable[[Any, Path | None], Any]
W = TypeVar("W", bound=Writer)
D = TypeVar("D", bound=Drawer)

PICTURES = (".png", ".pdf", ".svg")
"""Endings of pictures, which whatever is drawn can be written to."""

_WRITERS: dict[tuple[type, str], Writer] = {}
_DRAWERS: dict[type, Drawer] = {}


def writes(kind: type, *endings: str) -> Callable[[W], W]:
    """Decorator: the function writes results of a type into files with one of these endings.

    Example:
        >>> from relmap import Attribution
        >>> @writes(Attribution, ".count")
        ... def write_count(attribution, path):
        ...     path.write_text(str(len(attribution)))
        >>> ".count" in endings_of(Attribution)
        True
    """

    def register(writer: W) -> W:
        for ending in endings:
            _WRITERS[kind, ending] = writer
        return writer

    return register


def draws(kind: type) -> Callable[[D], D]:
    """Decorator: the function draws results of a type, and writes the figure if given a path."""

    def register(drawer: D) -> D:
        _DRAWERS[kind] = drawer
        return drawer

    return register


def endings_of(kind: type) -> tuple[str, ...]:
    """The endings of files that a result of this type can be written to."""
    _discover()
    drawn = PICTURES if _found(_DRAWERS, kind) is not None else ()
    return (*drawn, *(ending for known, ending in _WRITERS if issubclass(kind, known)))


def save(result: Any, path: str | os.PathLike[str]) -> None:
    """Write a result into a file; the ending says how.

    Raises:
        InputError: Nobody writes such results into files with this ending.
    """
    path, kind = Path(path), type(result)
    _discover()
    ending = path.suffix.lower()
    writer = _found({known: one for (known, its), one in _WRITERS.items() if its == ending}, kind)
    if writer is None and ending in PICTURES:
        writer = _found(_DRAWERS, kind)
    if writer is None:
        endings = ", ".join(endings_of(kind))
        raise InputError(f"cannot save {path.name!r}: it must end in one of {endings}")
    writer(result, path)


def draw(result: Any, path: str | os.PathLike[str] | None = None) -> Any:
    """A matplotlib figure of a result; written to `path` (.png, .pdf, .svg) if given.

    Raises:
        InputError: Nobody draws such results, or the path cannot be written.
        MissingExtraError: matplotlib is not installed.
    """
    _discover()
    drawer = _found(_DRAWERS, type(result))
    if drawer is None:
        known = ", ".join(kind.__name__ for kind in _DRAWERS)
        raise InputError(f"a {type(result).__name__} cannot be drawn; what can is: {known}")
    return drawer(result, None if path is None else Path(path))


def _found(table: Mapping[type, Any], kind: type) -> Any:
    return next((table[one] for one in kind.__mro__ if one in table), None)


@cache
def _discover() -> None:
    importlib.import_module("relmap.drawing")
    for point in importlib.metadata.entry_points(group="relmap.files"):
        point.load()


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old one or the new one, never half of it.

    Raises:
        InputError: When the folder does not exist or cannot be written.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        unfinished.write_bytes(content)
        unfinished.replace(path)
    except OSError as error:
        raise InputError(f"cannot write {str(path)!r}: {error.strerror or error}") from error
    finally:
        unfinished.unlink(missing_ok=True)


def to_json(content: dict[str, Any], indent: int | None = None) -> str:
    """Spell a dictionary as strict JSON.

    Raises:
        InputError: When a number is not finite or a value is nothing JSON knows.
    """
    try:
        return json.dumps(content, ensure_ascii=False, allow_nan=False, indent=indent)
    except (TypeError, ValueError) as error:
        raise InputError(f"this attribution cannot be written as JSON: {error}") from error


def pack_file(tensors: Mapping[str, Tensor], header: dict[str, Any]) -> bytes:
    """Tensors and a JSON header as the bytes of one safetensors file.

    Raises:
        InputError: When the header holds something JSON cannot.
    """
    # A copy each: safetensors refuses tensors that share memory, as slices of a batch do.
    copies = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in tensors.items()
    }
    return safetensors.torch.save(copies, {"relmap": to_json({"relmap": FORMAT} | header)})


def read_file(
    path: Path, what: str, unpack: Callable[[dict[str, Any], dict[str, Tensor]], dict[str, Any]]
) -> dict[str, Any]:
    """What `unpack` makes of the header and the tensors of a file that `pack_file` wrote.

    Raises:
        InputError: When the file is missing, corrupt, or holds something else.
    """
    if not path.is_file():
        raise InputError(f"no file {str(path)!r} to load an {what} from")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get("relmap")
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as error:
        raise InputError(f"{str(path)!r} is not a readable safetensors file: {error}") from error
    if header is None:
        raise InputError(f"{str(path)!r} is a safetensors file, but no {what} of relmap")
    try:
        parts = json.loads(header)
        if parts["relmap"] != FORMAT:
            raise InputError(f"its format is {parts['relmap']}; this relmap reads format {FORMAT}")
        return unpack(parts, tensors)
    except (InputError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"the {what} in {str(path)!r} is damaged: {error!r}") from error
