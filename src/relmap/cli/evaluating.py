"""Many explanations judged on a data set: tables on the screen, everything else in a folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from relmap.cli.application import app
from relmap.errors import InputError
from relmap.registry import read_option

if TYPE_CHECKING:
    from relmap.evaluation.run import Progress


@app.command()
def evaluate(
    model: Annotated[str, typer.Option(help="Hub id, folder, 'demo:...', 'timm:...', ...")],
    data: Annotated[str, typer.Option(help="Path or name of the data.")],
    format: Annotated[str, typer.Option(help="See 'relmap list data'.")],
    method: Annotated[
        list[str],
        typer.Option(
            help="'genatt', 'wra:weights=equal', 'all'; repeatable. centre-blob: control."
        ),
    ],
    metric: Annotated[
        list[str],
        typer.Option(help="'energy', 'perturbation:preset=chefer-vit', ...; repeatable."),
    ],
    output: Annotated[Path, typer.Option(help="Folder for rows, tables, curves, protocol.")],
    data_option: Annotated[
        list[str] | None, typer.Option(help="Option of the format, such as split=val; repeatable.")
    ] = None,
    target: Annotated[str, typer.Option(help="Explain what is 'predicted', or the 'label'.")] = (
        "predicted"
    ),
    limit: Annotated[int | None, typer.Option(min=1, help="How many examples.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Examples at once.")] = 16,
    reference: Annotated[str, typer.Option(help="Method the others are compared with.")] = "",
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
    engine: Annotated[str, typer.Option(help="local or ray.")] = "local",
    address: Annotated[str | None, typer.Option(help="Of a Ray cluster; without: here.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Ray workers.")] = 2,
    device: Annotated[str | None, typer.Option(help="For example cuda:0.")] = None,
    dtype: Annotated[str | None, typer.Option(help="For example bfloat16.")] = None,
) -> None:
    """Judge methods by metrics on a data set; a run that was stopped goes on where it was."""
    import relmap
    from relmap.evaluation import Plan, Settings, Source, read_method, read_metric, run
    from relmap.methods import METHODS

    names = [name for one in method for name in (METHODS.names() if one == "all" else [one])]
    settings = Settings(
        target=target, batch_size=batch_size, limit=limit, seed=seed, reference=reference
    )
    plan = Plan(tuple(map(read_method, names)), tuple(map(read_metric, metric)), settings)
    source = Source(data, format, dict(_pair(one) for one in data_option or []))
    loaded = relmap.load(model, device=device, dtype=dtype)
    with _progress(limit) as progress:
        found = run(loaded, source, plan, output, _engine(engine, address, workers), progress)
    typer.echo(str(found))
    for sample, error in list(found.measurements.lost.items())[:3]:
        typer.echo(f"left out: {sample}: {error}", err=True)
    for (name, judged), errors in found.measurements.errors.items():
        for error, number in errors.items():
            where = name if judged == "-" else f"{name}, {judged}"
            typer.echo(f"{where}: {number} examples failed: {error}", err=True)
    typer.echo(f"wrote {output}/table.csv, table.md, table.tex, protocol.json, rows/ and curves")


def _engine(name: str, address: str | None, workers: int) -> Any:
    from relmap.evaluation.engine import run_here
    from relmap.evaluation.ray_engine import on_ray

    if name not in ("local", "ray"):
        raise InputError(f"--engine {name!r} is local or ray")
    return on_ray(address, workers=workers) if name == "ray" else run_here


@contextmanager
def _progress(limit: int | None) -> "Iterator[Progress]":
    """A bar on stderr with the time left, where the number of examples is known."""
    from rich import progress as bars

    columns = (
        bars.TextColumn("{task.completed:.0f} examples"), bars.BarColumn(),
        bars.TimeElapsedColumn(), bars.TimeRemainingColumn(),
    )  # fmt: skip
    with bars.Progress(*columns, console=Console(stderr=True)) as shown:
        task = shown.add_task("", total=limit)

        def advance(examples: int, known: bool) -> None:
            shown.advance(task, examples)

        yield advance


def _pair(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"--data-option {text!r} is not name=value")
    return name, read_option(value)
