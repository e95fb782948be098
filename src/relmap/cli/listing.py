"""What there is, by name."""

import importlib
from typing import Annotated

import typer

from relmap.cli.application import app
from relmap.errors import InputError

REGISTRIES = {
    "methods": "METHODS",
    "models": "SOURCES",
    "targets": "TARGETS",
    "metrics": "METRICS",
    "data": "DATA",
    "backwards": "BACKWARDS",
}


@app.command(name="list")
def list_(
    kind: Annotated[str, typer.Argument(help=", ".join(REGISTRIES))],
) -> None:
    """Print every name of one kind with a sentence, its reference and needs."""
    if kind not in REGISTRIES:
        raise InputError(f"there is no list of {kind!r}; there are {', '.join(REGISTRIES)}")
    entries = getattr(importlib.import_module(f"relmap.{kind}"), REGISTRIES[kind]).entries()
    width = max((len(entry.name) for entry in entries), default=0)
    for entry in entries:
        reference = f" [{entry.reference}]" if entry.reference else ""
        needs = f" Needs {', '.join(entry.needs)}." if entry.needs else ""
        if "family" in entry.metadata:
            needs = f" Family: {entry.metadata['family']}."
        if "direction" in entry.metadata:
            way = entry.metadata["direction"]
            ways = way if isinstance(way, str) else ", ".join(f"{k} {v}" for k, v in way.items())
            needs = f" Category: {entry.metadata['category']}. Better: {ways}."
        if "requires" in entry.metadata:
            needs += f" Requires {entry.metadata['requires']}."
        # Plain echo on purpose: rich would wrap or cut the line to the width of a pipe.
        typer.echo(f"{entry.name:{width}}  {entry.about}{reference}{needs}".rstrip())
