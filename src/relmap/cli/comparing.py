"""Several methods side by side: their most relevant tokens on the screen, one sheet in a file."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from relmap.errors import InputError
from relmap.options import split_options
from relmap.plain_text import visible

if TYPE_CHECKING:
    from relmap.result.attribution import Attribution

TOP = 3


def method_names(method: str | None) -> list[str] | None:
    """The methods of "all" (an empty list) or "a,b:x=1,y=2"; None where one or none is named."""
    if method == "all":
        return []
    names: list[str] = []
    for part in split_options(method or ""):
        if names and "=" in part and ":" not in part.partition("=")[0]:
            names[-1] += f",{part}"  # another option of the method before it
        else:
            names.append(part.strip())
    return names if len(names) > 1 else None


def _best(attribution: "Attribution", source: str) -> str:
    """The most relevant tokens of a source as people read them; patches as (row, column)."""
    from relmap.result.token_text import readable

    layout = attribution.layout[source]
    words = [piece.text for piece in readable(layout)] if layout.tokens else None
    labels: list[str] = []
    for token, label, _ in attribution.top(source, TOP)[0]:
        patch = re.fullmatch(r"row (\d+), column (\d+)", label)
        labels.append(words[token] if words else f"({patch[1]}, {patch[2]})" if patch else label)
    return " ".join(labels) if words else ", ".join(labels)


def show_comparison(
    model: Any, methods: Sequence[str], output: Path | None, *, backward: str | None = None,
    **settings: Any,
) -> None:  # fmt: skip
    """Explain one prediction by several methods (all if none are named) and print or draw them."""
    from relmap.drawing.comparison_sheet import sheet
    from relmap.explanation import compare

    error = Console(stderr=True, highlight=False)
    with error.status("") as status:
        comparison = compare(
            model, methods or None, backward=backward, progress=status.update, **settings
        )
    console = Console(highlight=False)
    first = next(iter(comparison.found.values()))
    if len(first) > 1:
        raise InputError("several methods are compared on one example; give one text or picture")
    for what, said in (("prediction", first.prediction[0]), ("target", first.target[0])):
        console.print(Text.assemble((f"{what:12}", "bold"), visible(said)), soft_wrap=True)
    table = Table()
    table.add_column("method", no_wrap=True)
    for name in first.scores:
        where = " (row, column)" if first.layout[name].grid is not None else ""
        table.add_column(f"{name}, most relevant{where}", overflow="fold")
    for name, attribution in comparison.found.items():
        best = [_best(attribution, source) for source in attribution.scores]
        table.add_row(name, *(Text(visible(words)) for words in best))
    console.print(table)
    for name, reason in comparison.refused.items():
        console.print(Text.assemble((f"{name}: ", "bold"), visible(reason)), soft_wrap=True)
    if output is not None:
        sheet(comparison.found, output)
        console.print(Text(visible(f"wrote {output}")), soft_wrap=True)
