"""What files hold, as short marks: a name says nothing, since another folder may have the same.

A run writes the marks of its data, of the model that it starts from and of its answers into
run.json, and refuses to go on with others. Pictures are not read for this: with the texts alone
the marks of a hundred thousand questions take a fraction of a second.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from relmap.data import files_of
from relmap.errors import InputError
from relmap.files import fingerprint

__all__ = ["mark_data", "mark_file", "mark_model"]

_PREPARATION = (
    "config.json",
    "*processor_config.json",
    "tokenizer*.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
)
_WEIGHTS = ("*.safetensors", "*.bin")


def mark_file(path: Path) -> str | None:
    """A file's length and a fingerprint of its bytes; None if there is no such file.

    Raises:
        InputError: The file is there and cannot be read.
    """
    try:
        about = path.stat()
        return _mark(path.absolute(), about.st_size, about.st_mtime_ns)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error


def mark_data(form: str, data: Path, splits: Iterable[str]) -> dict[str, str | None]:
    """The marks of the files that hold the texts of these splits, by name.

    Raises:
        InputError: The format is unknown, or the folder is missing or ambiguous.
    """
    files = {file for split in splits for file in files_of(form, data, split)}
    root = data if data.is_dir() else data.parent
    return {file.relative_to(root).as_posix(): mark_file(file) for file in sorted(files)}


def mark_model(folder: Path, *, weights: bool = True) -> dict[str, str | None]:
    """The marks of a model's files, by name: config, preparation and weights.

    A name on the Hub is no folder and has none.
    """
    patterns = (*_PREPARATION, *_WEIGHTS) if weights else _PREPARATION
    files = {file for pattern in patterns for file in folder.glob(pattern)}
    return {file.name: mark_file(file) for file in sorted(files)}


@lru_cache(maxsize=256)  # asked again at the end of a run: size and time say whether it is the same
def _mark(path: Path, size: int, time: int) -> str:
    return f"{size} bytes, {fingerprint(path)}"
