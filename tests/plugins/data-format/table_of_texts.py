"""Texts in a CSV file with the columns `text` and `label`."""

import csv
from pathlib import Path

from relmap import Example, InputError
from relmap.data import DATA


@DATA.register("table-of-texts")
def table_of_texts(path: str | Path, *, delimiter: str = ",") -> list[Example]:
    """Rows of a CSV file with the columns `text` and `label`, in their order."""
    file = Path(path)
    if not file.is_file():
        raise InputError(f"there is no table {file}")
    with file.open(newline="", encoding="utf-8") as rows:
        table = csv.DictReader(rows, delimiter=delimiter)
        missing = {"text", "label"} - set(table.fieldnames or ())
        if missing:
            raise InputError(f"{file} has no column {' and no column '.join(sorted(missing))}")
        return [
            Example(name=f"row {number}", text=row["text"], label=row["label"])
            for number, row in enumerate(table, start=1)
        ]
