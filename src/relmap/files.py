"""Files: who draws and writes a result, written whole or not at all; safetensors with JSON.

A result knows neither pictures nor disk formats. Whoever can write it registers for its type and an
ending, whoever can draw it for its type (`relmap.drawing` does), and `save` and `draw` look them
up. Other packages name their module under the entry point group `relmap.files`; what they draw has
a name of its own and is chosen by it, so that it stands beside relmap's drawing of that type.
The tensors of a result lie in one safetensors file; what is not a tensor (names, tokens, grids,
targets, provenance) is JSON in its header, so that reading a file runs no code.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import os
import re
import secrets
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from relmap.errors import InputError
from relmap.options import suggestion
from relmap.plain_text import escape_json
from relmap.registry import DISCOVERY, import_plugins, origin

FORMAT = 1

Writer = Callable[[Any, Path], None]
Drawer = Callable[[Any, Path | None], Any]
W = TypeVar("W", bound=Writer)
D = TypeVar("D", bound=Drawer)

PICTURES = (".png", ".pdf", ".svg")
"""Endings of pictures, which whatever is drawn can be written to."""

OWN = "page"
"""The name of the drawing that relmap has for a type itself."""

_WRITERS: dict[tuple[type, str], Writer] = {}
_DRAWERS: dict[tuple[type, str], Drawer] = {}


def writes(kind: type, *endings: str) -> Callable[[W], W]:
    """Decorator: the function (result, path) writes results of a type into files of these endings.

    Raises:
        InputError: An ending is none, or has its writer already, or the function takes no result
            and path.

    Example:
        >>> from relmap import Attribution
        >>> @writes(Attribution, ".count")
        ... def write_count(attribution, path):
        ...     path.write_text(str(len(attribution)))
        >>> ".count" in endings_of(Attribution)
        True
    """
    for ending in endings:
        if not re.fullmatch(r"\.[a-z0-9]+", ending):
            raise InputError(f"{ending!r} is no ending of files: write it as '.json' is written")
    if not endings:
        raise InputError(f"say which endings a {kind.__name__} is written to, as '.json'")

    def register(writer: W) -> W:
        for ending in endings:
            _file(_WRITERS, (kind, ending), writer, f"the ending {ending}")
        return writer

    return register


def draws(kind: type, name: str = OWN) -> Callable[[D], D]:
    """Decorator: the function (result, path) draws results of a type; `draw` finds it by its name.

    It returns the figure, and writes it if the path is not None.

    Raises:
        InputError: The name is not in kebab case, or has its drawing already, or the function takes
            no result and path.

    Example:
        >>> from relmap import Attribution
        >>> @draws(Attribution, "sum")
        ... def draw_sum(attribution, path=None):
        ...     return {name: float(scores.sum()) for name, scores in attribution.scores.items()}
        >>> "sum" in drawings_of(Attribution)
        True
    """
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
        raise InputError(f"The drawing's name {name!r} is not in kebab case, as 'my-name' is.")

    def register(drawer: D) -> D:
        _file(_DRAWERS, (kind, name), drawer, f"the drawing {name!r}")
        return drawer

    return register


def _file(
    table: dict[tuple[type, str], Any], place: tuple[type, str], function: Any, what: str
) -> None:
    title = f"{what} of a {place[0].__name__}"
    try:
        inspect.signature(function).bind(None, None)
    except TypeError as error:
        raise InputError(
            f"{title} cannot be registered: {origin(function)} is called with (result, path), and "
            f"that does not fit ({error})"
        ) from error
    holder = table.get(place)
    # A module that is reloaded registers the same function again: that is no clash.
    if holder is not None and origin(holder) != origin(function):
        raise InputError(
            f"{title} is taken by {origin(holder)}; choose another for {origin(function)}"
        )
    table[place] = function


def endings_of(kind: type) -> tuple[str, ...]:
    """The endings of files that a result of this type can be written to."""
    _discover()
    drawn = PICTURES if _of_name(_DRAWERS, OWN, kind) is not None else ()
    return (*drawn, *(ending for known, ending in _WRITERS if issubclass(kind, known)))


def drawings_of(kind: type) -> tuple[str, ...]:
    """The names of the drawings that there are of a result of this type."""
    _discover()
    return tuple(sorted({name for known, name in _DRAWERS if issubclass(kind, known)}))


def save(result: Any, path: str | os.PathLike[str]) -> None:
    """Write a result into a file; the ending says how.

    Raises:
        InputError: Nobody writes such results into files with this ending.
    """
    path, kind = Path(path), type(result)
    _discover()
    ending = path.suffix.lower()
    writer = _of_name(_WRITERS, ending, kind)
    if writer is None and ending in PICTURES:
        writer = _of_name(_DRAWERS, OWN, kind)
    if writer is None:
        endings = ", ".join(endings_of(kind))
        raise InputError(f"cannot save {path.name!r}: it must end in one of {endings}")
    writer(result, path)


def draw(result: Any, path: str | os.PathLike[str] | None = None, *, drawing: str = OWN) -> Any:
    """A matplotlib figure of a result; written to `path` (.png, .pdf, .svg) if given.

    `drawing` names another drawing than relmap's own, which an installed package brings along.

    Raises:
        InputError: Nobody draws such results, or not under this name, or the path cannot be
            written.
        MissingExtraError: matplotlib is not installed.
    """
    kind = type(result)
    names = drawings_of(kind)
    if not names:
        known = ", ".join(dict.fromkeys(known.__name__ for known, _ in _DRAWERS))
        raise InputError(f"a {kind.__name__} cannot be drawn; what can is: {known}")
    drawer = _of_name(_DRAWERS, drawing, kind)
    if drawer is None:
        raise InputError(
            f"there is no drawing {drawing!r} of a {kind.__name__}.{suggestion(drawing, names)} "
            f"There are: {', '.join(names)}"
        )
    return drawer(result, None if path is None else Path(path))


def _of_name(table: Mapping[tuple[type, str], Any], name: str, kind: type) -> Any:
    """What is filed under a name for a type, or for the nearest type that it is one of."""
    return next((table[one, name] for one in kind.__mro__ if (one, name) in table), None)


def _discover() -> None:
    with DISCOVERY:
        _discover_once()


@cache
def _discover_once() -> None:
    importlib.import_module("relmap.drawing")
    import_plugins("relmap.files", "drawing and file", _WRITERS, _DRAWERS)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old one or the new one, never half of it.

    It is written under a name in the same folder that nobody can guess, hidden and with another
    ending, so that what a killed run leaves is taken for nothing else.

    Raises:
        InputError: When the folder does not exist or cannot be written, or the disk is full.
    """
    unfinished = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with unfinished.open("xb") as file:  # a file of this name, or a link, is never written into
            file.write(content)
        os.replace(unfinished, path)
    except (OSError, ValueError) as error:  # a ValueError: no file has such a name
        raise InputError(f"cannot write {str(path)!r}: {_reason(error)}") from error
    finally:
        with suppress(OSError, ValueError):
            unfinished.unlink(missing_ok=True)


def make_folder(path: Path) -> None:
    """Make a folder, with those above it, where there is none.

    Raises:
        InputError: It cannot be made, or cannot be written into.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except (OSError, ValueError) as error:
        raise InputError(f"cannot write into the folder {str(path)!r}: {_reason(error)}") from error


def fingerprint(*parts: str | bytes | Tensor | Path) -> str:
    """Sixteen letters that stand for contents: texts, bytes, whole tensors, and files.

    Where one part ends and the next begins counts, and so do a tensor's type and shape; a file's
    name and place do not.

    Raises:
        OSError: A file cannot be read.

    Example:
        >>> fingerprint("ab", "c") == fingerprint("a", "bc")
        False
        >>> len(fingerprint(torch.eye(2)))
        16
    """
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            with part.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").digest()
        elif isinstance(part, Tensor):
            digest.update(f"{part.dtype} {tuple(part.shape)}".encode())
            content = part.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        else:
            content = part.encode() if isinstance(part, str) else part
        digest.update(len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()[:16]


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def to_json(content: dict[str, Any], indent: int | None = None) -> str:
    """Spell a dictionary as strict JSON.

    Raises:
        InputError: When a number is not finite or a value is nothing JSON knows.
    """
    try:
        written = json.dumps(content, ensure_ascii=False, allow_nan=False, indent=indent)
    except (TypeError, ValueError) as error:
        raise InputError(f"this attribution cannot be written as JSON: {error}") from error
    return escape_json(written)


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
    except (
        InputError, KeyError, IndexError, TypeError, ValueError, AttributeError, RecursionError
    ) as error:  # fmt: skip
        raise InputError(f"the {what} in {str(path)!r} is damaged: {error!r}") from error
