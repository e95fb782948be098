"""Several methods side by side: their most relevant tokens on the screen, one sheet in a file."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from relmap.errors import InputError

if TYPE_CHECKING:
    from relmap.result.attribution import Attribution

TOP = 3


def method_names(method: str | None) -> list[str] | None:
    """The methods of "all" (an empty list) or "a,b"; None where one or none is named."""
    if method == "all":
        return []
    if method is None or "," not in method:
        return None
    return [name for name in method.split(",") if name.strip()]


def _best(attribution: "Attribution", source: str) -> str:
    """The most relevant tokens of a source as people read them; patches as (row, column)."""
    from relmap.result.token_text import readable

    layout = attribution.layout[source]
    words = [piece.text for piece in readable(layout)] if layout.tokens else None
    found: list[str] = []
    for token, label, _ in attribution.top(source, TOP)[0]:
        patch = re.fullmatch(r"row (\d+), column (\d+)", label)
        found.append(words[token] if words else f"({patch[1]}, {patch[2]})" if patch else label)
    return " ".join(found) if words else ", ".join(found)


def show_comparison(
    model: Any, methods: Sequence[str], output: Path | None, *, backward: str | None = None,
    **settings: Any,
) -> None:  # fmt: skip
    """Explain one prediction by several methods (all if none are named) and print or draw them."""
    from relmap.drawing.comparison_sheet import sheet
    from relmap.explanation import compare

    error = Console(stderr=True, highlight=False)
    with error.status("") as status:
        found = compare(
            model, methods or None, backward=backward, progress=status.update, **settings
        )
    console = Console(highlight=False)
    first = next(iter(found.found.values()))
    if len(first) > 1:
        raise InputError("several methods are compared on one example; give one text or picture")
    console.print(Text.assemble(("prediction  ", "bold"), first.prediction[0]), soft_wrap=True)
    console.print(Text.assemble(("target      ", "bold"), first.target[0]), soft_wrap=True)
    table = Table()
    table.add_column("method", no_wrap=True)
    for name in first.scores:
        where = " (row, column)" if first.layout[name].grid is not None else ""
        table.add_column(f"{name}, most relevant{where}", overflow="fold")
    for name, attribution in found.found.items():
        best = [_best(attribution, source) for source in attribution.scores]
        table.add_row(name, *(Text(words) for words in best))
    console.print(table)
    for name, reason in found.refused.items():
        console.print(Text.assemble((f"{name}: ", "bold"), reason), soft_wrap=True)
    if output is not None:
        sheet(found.found, output)
        console.print(Text(f"wrote {output}"), soft_wrap=True)
