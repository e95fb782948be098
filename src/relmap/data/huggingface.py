"""Everything that Hugging Face `datasets` reads: folders, tables, shards, and the Hub.

    imagefolder:PATH     pictures, in folders named by their class
    text:PATH            a file with a text a line, or a folder with a text a file
    json:FILE.jsonl      an object a line; csv:FILE and parquet:FILE likewise
    webdataset:GLOB      shards, "webdataset:shards/*.tar"
    OWNER/NAME           a data set on the Hub

Rows are streamed: one is in memory, and nothing is downloaded or converted beforehand.
"""

import math
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from relmap.data import DATA
from relmap.data.example import Example
from relmap.errors import InputError, MissingExtraError

__all__ = ["huggingface"]

FOLDERS = ("imagefolder",)
FILES = ("csv", "json", "parquet", "text", "webdataset")
COLUMNS = {
    "image": ("image", "img", "jpg", "jpeg", "png", "webp"),
    "text": ("text", "question", "sentence", "caption", "txt"),
    "label": ("label", "labels", "cls", "class"),
}
"""The columns that are looked for, in this order, where none is named."""


@DATA.register(
    "huggingface",
    reference="Lhoest et al., Datasets: A Community Library for Natural Language Processing, "
    "EMNLP 2021",
)
def huggingface(
    path: str | Path,
    split: str = "train",
    *,
    config: str | None = None,
    image: str | None = None,
    text: str | None = None,
    label: str | None = None,
    name: str | None = None,
) -> Iterator[Example]:
    """The rows of a data set as examples, one by one: they can be gone through once.

    Pictures come as the bytes or the path of their file, so that a broken one is found where it is
    opened, and spoils no other row. Paths in a table are relative to the table. A class of
    `datasets` comes by its number, with `label_name` in `about`, as are all columns left over.

    Args:
        path: What to read, as the head of this file lists it.
        split: Part of the data set; a single file is whatever part it is said to be.
        config: Subset of a data set on the Hub that has several.
        image: Column of the pictures; by default the first of image, img, jpg, jpeg, png, webp.
        text: Column of the texts; by default text, question, sentence, caption or txt.
        label: Column of the right class; by default label, labels, cls or class.
        name: Column of names, which must differ; by default rows are numbered.

    Raises:
        InputError: There is no such data set, split or column, it is empty, or a row is unreadable.
        MissingExtraError: If `datasets` is not installed.

    Example:
        >>> next(huggingface("json:no/such/file.jsonl"))  # doctest: +IGNORE_EXCEPTION_DETAIL
        Traceback (most recent call last):
        relmap.errors.InputError: json:no/such/file.jsonl cannot be read: ...
    """
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError("evaluate") from error
    try:
        rows = _open(datasets, str(path), split, config)
        for column, kind in (rows.features or {}).items():
            if isinstance(kind, datasets.Image):
                rows = rows.cast_column(column, datasets.Image(decode=False))
        iterator = iter(rows)
        first = next(iterator, None)
    except Exception as error:  # each format has exceptions of its own
        raise InputError(f"{path} cannot be read: {error}") from error
    if first is None:
        raise InputError(f"the split {split!r} of {path} is empty")
    chosen = _choose({"image": image, "text": text, "label": label, "name": name}, first, str(path))
    classes = getattr((rows.features or {}).get(chosen.get("label")), "names", None)
    return _examples(chain([first], iterator), chosen, classes, str(path))


def _open(datasets: Any, path: str, split: str, config: str | None) -> Any:
    kind, colon, place = path.partition(":")
    if not colon or kind not in (*FOLDERS, *FILES):
        return datasets.load_dataset(path, config, split=split, streaming=True)
    options: dict[str, Any] = {"split": split, "streaming": True}
    if kind == "text" and Path(place).is_dir():
        options |= {"data_files": {split: f"{place}/**"}, "sample_by": "document"}
    elif kind in FOLDERS or Path(place).is_dir():
        options["data_dir"] = place
    else:
        options["data_files"] = {split: place}
    return datasets.load_dataset(kind, **options)


def _choose(
    wanted: Mapping[str, str | None], first: Mapping[str, Any], path: str
) -> dict[str, str]:
    """Which column says what."""
    there = ", ".join(first)
    chosen: dict[str, str] = {}
    for what, column in wanted.items():
        if column is not None and column not in first:
            raise InputError(f"{path} has no column {column!r} for {what}; it has {there}")
        known = (one for one in COLUMNS.get(what, ()) if one in first)
        found = column if column is not None else next(known, None)
        if found is not None:
            chosen[what] = found
    if not {"image", "text"} & chosen.keys():
        raise InputError(
            f"{path} has neither a picture nor a text among its columns {there}: name one with "
            f"image= or text="
        )
    return chosen


def _examples(
    rows: Iterator[Any], chosen: Mapping[str, str], classes: list[str] | None, path: str
) -> Iterator[Example]:
    folder = Path(path.partition(":")[2]).parent
    number = 0
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except Exception as error:  # what a half-written shard or line ends in
            raise InputError(f"row {number} of {path} cannot be read: {error}") from error
        about = {key: value for key, value in row.items() if key not in chosen.values()}
        label = _label(row[chosen["label"]]) if "label" in chosen else None
        if classes and isinstance(label, int) and 0 <= label < len(classes):
            about["label_name"] = classes[label]
        yield Example(
            name=str(row[chosen["name"]]) if "name" in chosen else str(number),
            image=_picture(row[chosen["image"]], folder) if "image" in chosen else None,
            text=row[chosen["text"]] if "text" in chosen else None,
            label=label,
            about=about,
        )
        number += 1


def _label(value: Any) -> int | str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, float) and not value.is_integer():
        return None if math.isnan(value) else str(value)
    return int(value) if isinstance(value, int | float) else str(value)


def _picture(value: Any, folder: Path) -> Any:
    """The bytes or the path of a picture, which open it when it is needed."""
    if isinstance(value, Mapping) and {"bytes", "path"} <= value.keys():
        if value["bytes"] is not None or value["path"] is None:
            return value["bytes"] if value["bytes"] is not None else b""
        value = value["path"]
    if not isinstance(value, str):
        return value
    if "://" in value:
        return _fetched(value)
    return folder / value


def _fetched(address: str) -> Any:
    """The bytes of a file that lies elsewhere; its address if it cannot be had, to fail later."""
    import fsspec

    try:
        with fsspec.open(address, "rb") as file:
            return file.read()  # type: ignore[union-attr]
    except Exception:  # each file system has exceptions of its own
        return address
