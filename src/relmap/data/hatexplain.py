"""HateXplain: posts with the class that annotators gave them, and the words that made them say so.

    folder/dataset.json               everything, as its authors publish it,
    folder/post_id_divisions.json     with the ids of train, val and test;

or, as it is passed on too:

    folder/hatexplain_validation.json   one post a line: id, annotators, rationales, post_tokens
    folder/train.csv                    text and majority_label, without rationales

The posts are offensive; they are here to be measured on, and nothing in them is anybody's opinion.
"""

import csv
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from relmap.data import DATA, first_three
from relmap.data.example import Example
from relmap.errors import InputError

__all__ = ["LABELS", "hatexplain"]

LABELS = ("hate speech", "normal", "offensive")
"""The classes by their number."""

NUMBERS = {"hatespeech": 0, "hate": 0, "normal": 1, "offensive": 2, 0: 0, 1: 1, 2: 2}
SPLITS = {"train": "train", "val": "val", "validation": "val", "test": "test"}
NORMAL = 1


@DATA.register(
    "hatexplain",
    reference="Mathew et al., HateXplain: A Benchmark Dataset for Explainable Hate Speech "
    "Detection, AAAI 2021",
)
def hatexplain(
    path: str | Path, split: str = "validation", *, rationale: str = "majority"
) -> list[Example]:
    """Posts of a split with their class (0 hate speech, 1 normal, 2 offensive) and marked words.

    The class is the one that most annotators chose; posts without a majority are left out, as the
    authors leave them out. Annotators marked words of posts that they did not find normal, so
    `words` is None for normal posts, and for all posts of a train.csv.

    Args:
        path: The folder, or the one file to read.
        split: "train", "validation" or "test".
        rationale: Which words count as marked: "majority", those that at least half of the
            annotators marked who marked any; "union", those that anybody marked, which is what the
            authors' own conversion to ERASER takes; or "all", those that all of them marked.

    Raises:
        InputError: A file is missing or broken, the split is not there, or posts have no tokens,
            no known label, or a rationale of another length, with their number and the first three.

    Example:
        >>> hatexplain("no/such/folder")
        Traceback (most recent call last):
        relmap.errors.InputError: there is no file or folder no/such/folder
    """
    if split not in SPLITS:
        raise InputError(f"a split of HateXplain is train, validation or test; got {split!r}")
    if rationale not in ("majority", "union", "all"):
        raise InputError(f"rationale is 'majority', 'union' or 'all', got {rationale!r}")
    file = _file_of(Path(path), SPLITS[split])
    if file.suffix == ".csv":
        return _table(file)
    return _examples(_posts(file, SPLITS[split]), rationale, file)


def _file_of(path: Path, split: str) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise InputError(f"there is no file or folder {path}")
    if (path / "dataset.json").is_file():
        return path / "dataset.json"
    names = {"val": "hatexplain_validation.json", "train": "train.csv"}
    name = names.get(split, f"hatexplain_{split}.json")
    if not (path / name).is_file():
        raise InputError(f"{path} has neither a dataset.json nor a {name}")
    return path / name


def _table(file: Path) -> list[Example]:
    """The posts of a comma-separated file with the columns text and majority_label."""
    try:
        with file.open(encoding="utf-8", newline="") as opened:
            rows = list(csv.DictReader(opened))
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{file} cannot be read: {error}") from error
    wrong = [
        at
        for at, row in enumerate(rows)
        if not row.get("text") or row.get("majority_label") not in ("0", "1", "2")
    ]
    if wrong or not rows:
        raise InputError(
            f"{len(wrong)} of {len(rows)} rows of {file} have no text, or no majority_label "
            f"0, 1 or 2: row {first_three(wrong)}"
        )
    return [
        Example(name=f"{file.stem}-{number}", text=row["text"], label=int(row["majority_label"]))
        for number, row in enumerate(rows)
    ]


def _posts(file: Path, split: str) -> list[dict[str, Any]]:
    """The posts of a split, from the authors' file or from one with a post a line."""
    try:
        text = file.read_text(encoding="utf-8")
        if file.name != "dataset.json":
            # not splitlines: a post may hold separators that JSON need not escape
            lines = (line for line in text.split("\n") if line.strip())
            return _objects(map(json.loads, lines), file)
        posts = json.loads(text)
        division = json.loads((file.parent / "post_id_divisions.json").read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{error.filename} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{file} or its divisions are not JSON: {error}") from error
    if not isinstance(posts, dict) or not isinstance(division, dict) or split not in division:
        raise InputError(f"{file} holds no posts by id, or its divisions no split {split!r}")
    lost = [one for one in division[split] if one not in posts]
    if lost:
        raise InputError(
            f"{len(lost)} of {len(division[split])} posts of the split {split!r} are not in "
            f"{file}: {first_three(lost)}"
        )
    return _objects(({"id": one, **posts[one]} for one in division[split]), file)


def _objects(entries: Iterable[Any], file: Path) -> list[dict[str, Any]]:
    found = list(entries)
    wrong = [at for at, entry in enumerate(found) if not _is_whole(entry)]
    if wrong:
        raise InputError(
            f"{len(wrong)} of {len(found)} posts of {file} have no post_tokens, no label of each "
            f"annotator, or rationales of another length than their tokens: "
            f"post {first_three(wrong)}"
        )
    return found


def _is_whole(entry: Any) -> bool:
    if not isinstance(entry, dict) or "id" not in entry:
        return False
    tokens, marks = entry.get("post_tokens"), entry.get("rationales", [])
    return (
        isinstance(tokens, list)
        and len(tokens) > 0
        and all(isinstance(token, str) and token for token in tokens)
        and isinstance(marks, list)
        and all(isinstance(one, list) and len(one) == len(tokens) for one in marks)
        and all(isinstance(one, int | str) and one in NUMBERS for one in _labels(entry) or [None])
    )


def _labels(entry: Mapping[str, Any]) -> list[Any]:
    """What every annotator chose: a list of people in the authors' file, of columns elsewhere."""
    people = entry.get("annotators")
    if isinstance(people, Mapping):
        return list(people.get("label", []))
    return [one.get("label") for one in people] if isinstance(people, list) else []


def _examples(posts: Iterable[Mapping[str, Any]], rationale: str, file: Path) -> list[Example]:
    found = []
    for entry in posts:
        votes = Counter(NUMBERS[label] for label in _labels(entry)).most_common(2)
        if len(votes) == 2 and votes[0][1] == votes[1][1]:
            continue
        label, tokens, marks = votes[0][0], entry["post_tokens"], entry.get("rationales", [])
        words = None if label == NORMAL or not marks else _spans(tokens, marks, rationale)
        found.append(
            Example(
                name=str(entry["id"]),
                text=" ".join(tokens),
                label=label,
                words=words,
                about={"label_name": LABELS[label], "rationales": len(marks)},
            )
        )
    if not found:
        raise InputError(f"{file} holds no post on whose class annotators agree")
    return found


def _spans(
    tokens: Sequence[str], marks: Sequence[Sequence[int]], rationale: str
) -> tuple[tuple[int, int], ...]:
    """Where the marked tokens begin and end in the text, in characters."""
    enough = {"majority": len(marks) / 2, "union": 1, "all": len(marks)}[rationale]
    spans, start = [], 0
    for token, votes in zip(tokens, zip(*marks, strict=True), strict=True):
        if sum(map(bool, votes)) >= enough:
            spans.append((start, start + len(token)))
        start += len(token) + 1
    return tuple(spans)
