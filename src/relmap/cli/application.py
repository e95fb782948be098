"""The program itself: its errors, its version, its entry point."""

import importlib.metadata
from functools import cache
from typing import Annotated, Any

import typer
import typer.core
from rich.console import Console
from rich.text import Text

from relmap.errors import RelmapError
from relmap.plain_text import visible


class Commands(typer.core.TyperGroup):
    """Commands whose expected errors are a sentence on stderr instead of a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; exit with code 2 where relmap refuses."""
        try:
            return super().invoke(ctx)
        except RelmapError as error:
            message = Text(visible(f"error: {' '.join(str(error).split())}"), style="red")
            Console(stderr=True, soft_wrap=True).print(message)
            raise typer.Exit(2) from None


app = typer.Typer(
    cls=Commands,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Which image patches and which words made an attention model say this.",
)


@cache
def program() -> typer.Typer:
    """The program with the commands that other packages add to it."""
    for point in importlib.metadata.entry_points(group="relmap.commands"):
        try:
            point.load()
        except Exception as error:  # somebody else's package must not take ours down
            typer.echo(f"the commands of {point.name!r} were left out: {error!r}", err=True)
    return app


def main() -> None:
    """Run the command line."""
    program()()


def _version(wanted: bool) -> bool:
    if wanted:
        typer.echo(f"relmap {importlib.metadata.version('relmap')}")
        raise typer.Exit
    return wanted


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print it and leave."),
    ] = False,
) -> None:
    pass
