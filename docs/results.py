"""The tables of docs/results.md, put where the page says, from folders that evaluations wrote.

    python docs/results.py OUTPUT

OUTPUT is what `python benchmarks/results.py` and `python benchmarks/figures/*.py` wrote. Between
`<!-- table: FOLDER METRIC -->` and `<!-- /table -->` stands that folder's table of that metric, or
of the quantities named after it (f1,iou). Several folders (ONE+OTHER) of the same model, data and
settings make one table; what is not in OUTPUT stays as it is. The text between the tables is
written by hand, and has to be read again when they change.
"""

import argparse
import csv
import json
import re
from pathlib import Path
from typing import Any

from relmap.evaluation.tables import Cell, to_markdown

PAGE = Path(__file__).parent / "results.md"
MARK = re.compile(r"(<!-- table: (\S+) (\S+?)(?: (\S+))? -->\n).*?(<!-- /table -->)", re.DOTALL)


def cells_of(folder: Path) -> list[Cell]:
    """The numbers of a folder's table."""
    text = ("method", "metric", "quantity", "direction")
    with (folder / "table.csv").open(encoding="utf-8", newline="") as file:
        return [
            Cell(**{name: _read(value, name in text) for name, value in row.items()})  # type: ignore[arg-type]
            for row in csv.DictReader(file)
        ]


def _read(value: str, is_text: bool) -> object:
    if is_text:
        return value
    if not value:
        return None
    return int(value) if value.isdigit() else float(value)


def table(folders: list[Path], metric: str, quantities: str | None) -> str:
    """One metric's table, and over it what it was measured with.

    Raises:
        ValueError: The folders do not belong together.
    """
    wanted = quantities.split(",") if quantities else None
    found = {
        (cell.method, cell.quantity): cell for folder in folders for cell in cells_of(folder)
        if cell.metric == metric and (wanted is None or cell.quantity in wanted)
    }  # fmt: skip
    cells = list(found.values())  # a method that several folders hold is the same in all
    records = [json.loads((one / "protocol.json").read_text(encoding="utf-8")) for one in folders]
    if any(_conditions(one) != _conditions(records[0]) for one in records):
        raise ValueError(f"{' and '.join(map(str, folders))} are not of one model, data, settings")
    lines, record = to_markdown(cells).splitlines(), records[0]
    about = f"`{record['model']['class']}`, `{metric}`, {record['settings']['target']} class"
    return "\n".join([about, "", *lines[2:]]).strip() + "\n"


def _conditions(record: dict[str, Any]) -> tuple[Any, ...]:
    """What numbers of one table have in common: all but what only differences and memory feel."""
    settings = {**record["settings"], "reference": "", "batch_size": 0}
    model = {**record["model"], "name": Path(record["model"]["name"]).name}
    return model, record["data"], settings


def main() -> None:
    """Write the page again."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    output = parser.parse_args().output

    def fill(found: re.Match[str]) -> str:
        begin, names, metric, quantities, end = found.groups()
        folders = [output / name for name in names.split("+")]
        if not all((folder / "table.csv").is_file() for folder in folders):
            return found[0]
        return f"{begin}\n{table(folders, metric, quantities)}\n{end}"

    PAGE.write_text(MARK.sub(fill, PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
