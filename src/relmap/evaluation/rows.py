"""Rows: what was measured, one number each, written so that a kill costs at most one batch.

Every batch of examples has a file of its own, `rows/part-000012.parquet`, which is there whole or
not at all. A run that begins again does what has no file yet. All parts together are one table,
which `pandas.read_parquet("rows")` opens.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from relmap.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    import pyarrow

__all__ = ["Row", "part_path", "parts", "read_part", "write_part"]


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


def part_path(folder: Path, number: int) -> Path:
    """The file of a batch."""
    return folder / f"part-{number:06d}.parquet"


def write_part(folder: Path, number: int, rows: Sequence[Row]) -> None:
    """Write the rows of a batch, whole or not at all."""
    arrow, parquet = _pyarrow()
    names = [field.name for field in fields(Row)]
    columns = [[getattr(row, name) for row in rows] for name in names]
    arrays = [
        arrow.array(column, type=kind) for column, kind in zip(columns, _types(arrow), strict=True)
    ]
    path = part_path(folder, number)
    begun = path.with_suffix(f".{os.getpid()}.begun")
    parquet.write_table(arrow.table(dict(zip(names, arrays, strict=True))), begun)
    os.replace(begun, path)


def parts(folder: Path) -> list[Path]:
    """The files of all batches that are done, in their order."""
    return sorted(folder.glob("part-*.parquet"))


def read_part(path: Path) -> Iterator[Row]:
    """The rows of a batch.

    Raises:
        InputError: The file is no part of such a table.
    """
    _, parquet = _pyarrow()
    try:
        table = parquet.read_table(path)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read: {error}; remove it to compute it again"
        ) from error
    for row in table.to_pylist():
        yield Row(**row)


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
