"""What there is, by name."""

import importlib
from typing import Annotated

import typer

from relmap.cli.application import app
from relmap.errors import InputError

REGISTRIES = {
    "methods": ("relmap.methods", "METHODS"),
    "models": ("relmap.models", "SOURCES"),
    "targets": ("relmap.targets", "TARGETS"),
    "metrics": ("relmap.metrics", "METRICS"),
    "data": ("relmap.data", "DATA"),
    "backwards": ("relmap.backwards", "BACKWARDS"),
    "scoring": ("relmap.scoring", "SCORES"),
    "operations": ("relmap.trace.operations", "OPERATIONS"),
}


@app.command(name="list")
def list_(
    kind: Annotated[str, typer.Argument(help=", ".join(REGISTRIES))],
) -> None:
    """Print every name of one kind with a sentence, its reference and needs."""
    if kind not in REGISTRIES:
        raise InputError(f"there is no list of {kind!r}; there are {', '.join(REGISTRIES)}")
    module, registry = REGISTRIES[kind]
    entries = getattr(importlib.import_module(module), registry).entries()
    width = max((len(entry.name) for entry in entries), default=0)
    for entry in entries:
        reference = f" [{entry.reference}]" if entry.reference else ""
        # Plain echo on purpose: rich would wrap or cut the line to the width of a pipe.
        typer.echo(f"{entry.name:{width}}  {entry.about}{reference}{entry.notes()}".rstrip())
