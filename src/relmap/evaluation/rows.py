"""Rows: what was measured, one number each, written so that a kill costs at most one batch.

Every batch of examples has a file of its own, `rows/part-000012.parquet`, which is there whole or
not at all. A run that begins again does what has no file yet. All parts together are one table,
which `pandas.read_parquet("rows")` opens. Each part says which batch of which evaluation it is, of
which examples, and carries a checksum of all its bytes: one that was changed, copied or brought
from elsewhere is found before its numbers are taken for others.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from relmap.errors import InputError, MissingExtraError
from relmap.evaluation.bugs import read_bug
from relmap.files import make_folder, write_whole

if TYPE_CHECKING:
    import pyarrow

__all__ = [
    "Head", "Row", "first_of_each_bug", "joined", "part_path", "parts", "read_head", "read_part",
    "write_part",
]  # fmt: skip

_HEAD = "relmap"
_SEAL = b"relmap-sha256:"
_BLANK = b"0" * 64


@dataclass(frozen=True, slots=True)
class Row:
    """One number: of an example, by a method and a metric.

    `step` is set on a curve, `error` where there is no number, `detail` (JSON) where a metric is
    summed up from more than numbers, and where an error is the first of its kind and a bug.
    """

    index: int
    sample: str
    method: str
    method_settings: str
    metric: str
    metric_settings: str
    quantity: str
    step: float | None
    value: float | None
    error: str | None = None
    detail: str | None = None


def first_of_each_bug(rows: Sequence[Row]) -> list[Row]:
    """The rows, each kind of bug with its first traceback alone."""
    known: set[str] = set()
    found: list[Row] = []
    for row in rows:
        if row.error is not None and row.detail is not None:
            kind = read_bug(row.detail).kind
            row = replace(row, detail=None) if kind in known else row
            known.add(kind)
        found.append(row)
    return found


def joined(old: Sequence[Row], new: Sequence[Row], order: Sequence[tuple[str, str]]) -> list[Row]:
    """The rows of a batch to which methods or metrics were added, as if judged at once.

    `order` are the pairs of methods and metrics in the order of the plan. What made an example or a
    method fail on it was written before, and is not written again.
    """
    failed = {(row.index, row.method, row.method_settings) for row in old if row.metric == "-"}
    fresh = [
        row for row in new
        if row.metric != "-" or (row.index, row.method, row.method_settings) not in failed
    ]  # fmt: skip
    methods = list(dict.fromkeys(method for method, _ in order))
    metrics = list(dict.fromkeys(metric for _, metric in order))

    def place(row: Row) -> tuple[int, int]:
        method, metric = (
            _title(row.method, row.method_settings), _title(row.metric, row.metric_settings)
        )  # fmt: skip
        return (
            -1 if method == "-" else methods.index(method),
            -1 if metric == "-" else metrics.index(metric),
        )

    return first_of_each_bug(sorted([*old, *fresh], key=place))


def _title(name: str, settings: str) -> str:
    return f"{name}:{settings}" if settings else name


def part_path(folder: Path, number: int) -> Path:
    """The file of a batch."""
    return folder / f"part-{number:06d}.parquet"


@dataclass(frozen=True)
class Head:
    """What a part says of itself.

    Attributes:
        batch: Its number.
        run: The fingerprint of what all parts of an evaluation have in common.
        examples: The fingerprint of each of its examples, in order.
        judged: The methods and metrics that its rows are of, in pairs.
    """

    batch: int
    run: str = ""
    examples: tuple[str, ...] = ()
    judged: tuple[tuple[str, str], ...] = ()


def write_part(folder: Path, number: int, rows: Sequence[Row], head: Head | None = None) -> None:
    """Write the rows of a batch, whole or not at all.

    Raises:
        InputError: The folder cannot be written, or the disk is full.
    """
    arrow, parquet = _pyarrow()
    names = [field.name for field in fields(Row)]
    columns = [[getattr(row, name) for row in rows] for name in names]
    arrays = [
        arrow.array(column, type=kind) for column, kind in zip(columns, _types(arrow), strict=True)
    ]
    about = json.dumps(asdict(head or Head(number)))
    table = arrow.table(dict(zip(names, arrays, strict=True)))
    table = table.replace_schema_metadata({_HEAD: about, "relmap-seal": _SEAL + _BLANK})
    content = io.BytesIO()
    parquet.write_table(table, content)
    if not folder.is_dir():
        make_folder(folder)
    write_whole(part_path(folder, number), _sealed(content.getvalue()))


def _sealed(content: bytes) -> bytes:
    """The bytes of a part with the checksum of what they are with a blank in its place."""
    begin = content.rindex(_SEAL) + len(_SEAL)
    blank = content[:begin] + _BLANK + content[begin + len(_BLANK) :]
    checksum = hashlib.sha256(blank).hexdigest().encode()
    return blank[:begin] + checksum + blank[begin + len(_BLANK) :]


def parts(folder: Path) -> list[Path]:
    """The files of all batches that are done, in their order."""
    return sorted(folder.glob("part-*.parquet"))


def read_head(path: Path) -> Head:
    """What a part says of itself.

    Raises:
        InputError: It is no part, or was changed, or has the name of another batch.
    """
    _, parquet = _pyarrow()
    content = _unchanged(path)
    try:
        said = json.loads(parquet.read_schema(io.BytesIO(content)).metadata[_HEAD.encode()])
        head = Head(
            said["batch"], said["run"], tuple(said["examples"]),
            tuple((method, metric) for method, metric in said["judged"]),
        )  # fmt: skip
    except Exception as error:  # pyarrow and JSON have exceptions of their own
        raise _damaged(path, f"it is no part of an evaluation ({error})") from error
    if path.name != part_path(path.parent, head.batch).name:
        raise _damaged(path, f"it holds batch {head.batch} and was copied or renamed")
    return head


def read_part(path: Path) -> Iterator[Row]:
    """The rows of a batch.

    Raises:
        InputError: The file is no part of such a table, or was changed since it was written.
    """
    _, parquet = _pyarrow()
    read_head(path)
    try:
        table = parquet.read_table(io.BytesIO(_unchanged(path)))
        rows = [Row(**row) for row in table.to_pylist()]
    except Exception as error:  # as above
        raise _damaged(path, str(error)) from error
    yield from rows


def _unchanged(path: Path) -> bytes:
    """The bytes of a part, if its checksum is theirs."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _damaged(path, error.strerror or str(error)) from error
    place = content.rfind(_SEAL)
    if place < 0:
        raise _damaged(path, "it carries no checksum")
    begin = place + len(_SEAL)
    said = content[begin : begin + len(_BLANK)]
    if re.fullmatch(rb"[0-9a-f]{64}", said) is None or _sealed(content) != content:
        raise _damaged(path, "its checksum is another, so that it was changed or damaged")
    return content


def _damaged(path: Path, why: str) -> InputError:
    return InputError(f"{path} cannot be read: {why}; remove it to compute it again")


def _types(arrow: pyarrow) -> list[Any]:  # type: ignore[valid-type]
    text, number = arrow.string(), arrow.float64()
    return [arrow.int64(), *[text] * 6, number, number, text, text]


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("evaluate") from error
    return pyarrow, pyarrow.parquet
