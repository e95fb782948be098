"""ERASER: documents with a class, and the passages that people marked as its reasons.

    folder/docs/DOCUMENT           tokens between spaces, a sentence a line
    folder/train.jsonl, val.jsonl, test.jsonl

A line of the latter is an annotation: annotation_id, classification, query, and evidences, which
are groups of passages with docid, start_token and end_token (exclusive). Documents may also lie in
one file docs.jsonl, with docid and document. All data sets of the benchmark have this layout;
Movie Reviews, where a document is its own id, is the one that attention maps are measured on.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Any

from relmap.data import DATA, first_three
from relmap.data.example import Example
from relmap.errors import InputError

__all__ = ["eraser"]

SPLITS = {"train": "train", "val": "val", "validation": "val", "test": "test"}


@DATA.register(
    "eraser",
    reference="DeYoung et al., ERASER: A Benchmark to Evaluate Rationalized NLP Models, ACL 2020",
)
def eraser(path: str | Path, split: str = "test") -> list[Example]:
    """Documents of a split with their class, and the tokens of all passages marked for it.

    The text is the document's tokens, joined by spaces; of several documents, one after the other.
    The question that a class answers is not part of it, but kept in `about`, with the documents'
    names. Passages of different groups are taken together, as in the benchmark's own metrics.

    Raises:
        InputError: If a file or document is missing or broken, or passages lie outside of their
            documents, with their number and the first three.

    Example:
        >>> eraser("no/such/folder")
        Traceback (most recent call last):
        relmap.errors.InputError: there is no folder no/such/folder
    """
    folder = Path(path)
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}")
    if split not in SPLITS:
        raise InputError(f"a split of ERASER is train, val or test; got {split!r}")
    file = folder / f"{SPLITS[split]}.jsonl"
    entries = _lines(file)
    wrong = [at for at, entry in enumerate(entries) if not _is_whole(entry)]
    if wrong:
        raise InputError(
            f"{len(wrong)} of {len(entries)} annotations of {file} have no annotation_id, no "
            f"classification, or evidences that are no groups of passages with docid, start_token "
            f"and end_token: line {first_three(at + 1 for at in wrong)}"
        )
    read = _documents(folder)
    _check(file, entries, read)
    return [_example(entry, read) for entry in entries]


def _lines(file: Path) -> list[Any]:
    try:
        text = file.read_text(encoding="utf-8")
        return [json.loads(line) for line in text.split("\n") if line.strip()]
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise InputError(f"{file} does not hold one JSON object a line: {error}") from error


def _is_whole(entry: Any) -> bool:
    if not isinstance(entry, dict) or not {"annotation_id", "classification"} <= entry.keys():
        return False
    groups = entry.get("evidences", [])
    return isinstance(groups, list) and all(
        isinstance(group, list)
        and all(
            isinstance(one, dict)
            and isinstance(one.get("docid"), str)
            and isinstance(one.get("start_token", -1), int)
            and isinstance(one.get("end_token", -1), int)
            for one in group
        )
        for group in groups
    )


def _documents(folder: Path) -> Callable[[str], tuple[str, ...]]:
    """A function that gives the tokens of a document; what several annotations share is kept once.

    Raises:
        InputError: If there are no documents at all.
    """
    place, listed = folder / "docs", folder / "docs.jsonl"
    texts: dict[str, str] = {}
    if not place.is_dir():
        if not listed.is_file():
            raise InputError(f"{folder} has neither docs/ nor docs.jsonl")
        texts = {one["docid"]: one["document"] for one in _lines(listed)}

    @cache
    def read(name: str) -> tuple[str, ...]:
        try:
            text = (place / name).read_text(encoding="utf-8") if not texts else texts[name]
        except (OSError, KeyError):
            return ()
        # ERASER splits at spaces and ends of lines, at nothing else: its counts depend on it
        lines = (line.strip() for line in text.split("\n"))
        return tuple(token for line in lines for token in line.split(" ") if token)

    return read


def _passages(entry: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [one for group in entry.get("evidences", []) for one in group]


def _names(entry: Mapping[str, Any]) -> list[str]:
    """The documents of an annotation, in the order it names them; without any, its own id."""
    named = [*(entry.get("docids") or ()), *(one["docid"] for one in _passages(entry))]
    return list(dict.fromkeys(named)) or [str(entry["annotation_id"])]


def _check(
    file: Path, entries: Sequence[Mapping[str, Any]], read: Callable[[str], tuple[str, ...]]
) -> None:
    names = dict.fromkeys(name for entry in entries for name in _names(entry))
    lost = [name for name in names if not read(name)]
    if lost:
        raise InputError(
            f"{len(lost)} of {len(names)} documents of {file} are missing or empty in "
            f"{file.parent}: {first_three(lost)}"
        )
    outside = [
        entry["annotation_id"]
        for entry in entries
        if any(not _fits(one, len(read(one["docid"]))) for one in _passages(entry))
    ]
    if outside:
        raise InputError(
            f"{len(outside)} of {len(entries)} annotations of {file} mark tokens that their "
            f"documents do not have: {first_three(outside)}"
        )


def _fits(passage: Mapping[str, Any], tokens: int) -> bool:
    start, end = passage.get("start_token", -1), passage.get("end_token", -1)
    # -1 and -1: a passage that was marked by its sentences only
    return 0 <= start <= end <= tokens or start == end == -1


def _example(entry: Mapping[str, Any], read: Callable[[str], tuple[str, ...]]) -> Example:
    names = _names(entry)
    tokens = [token for name in names for token in read(name)]
    lengths = [len(read(name)) for name in names]
    first = dict(zip(names, accumulate(lengths, initial=0), strict=False))
    marked = {
        first[one["docid"]] + at
        for one in _passages(entry)
        for at in range(one.get("start_token", -1), one.get("end_token", -1))
    }
    ends = list(accumulate(len(token) + 1 for token in tokens))
    return Example(
        name=str(entry["annotation_id"]),
        text=" ".join(tokens),
        label=entry["classification"],
        words=tuple((ends[at] - 1 - len(tokens[at]), ends[at] - 1) for at in sorted(marked)),
        about={
            "query": entry.get("query"),
            "query_type": entry.get("query_type"),
            "documents": tuple(names),
        },
    )
