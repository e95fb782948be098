"""Many explanations judged on a data set: tables on the screen, everything else in a folder."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from relmap.cli.application import app
from relmap.errors import InputError
from relmap.options import read_options
from relmap.plain_text import visible

if TYPE_CHECKING:
    from relmap.evaluation.runs import Progress
    from relmap.evaluation.tables import Measurements

REASONS = 3  # told of everything that failed


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
    from relmap.evaluation import DataSource, Plan, Settings, read_method, read_metric, run
    from relmap.explanation import all_methods

    names = [name for given in method for name in (all_methods() if given == "all" else [given])]
    settings = Settings(
        target=target, batch_size=batch_size, limit=limit, seed=seed, reference=reference
    )
    plan = Plan(tuple(map(read_method, names)), tuple(map(read_metric, metric)), settings)
    source = DataSource(data, format, read_options(data_option or [], "--data-option"))
    loaded = relmap.load(model, device=device, dtype=dtype)
    with _progress() as progress:
        evaluation = run(loaded, source, plan, output, _engine(engine, address, workers), progress)
    _say(str(evaluation), err=False)
    _tell_errors(evaluation.measurements)
    _say(
        f"wrote {output}/table.csv, table.md, table.tex, protocol.json, rows/ and curves", err=False
    )
    if all(cell.value is None for cell in evaluation.cells):
        typer.echo("error: nothing could be measured, for the reasons above", err=True)
        raise typer.Exit(1)


def _say(text: str, err: bool = True) -> None:
    typer.echo(visible(text), err=err)


def _tell_errors(measurements: "Measurements") -> None:
    """What failed and why, the most frequent reasons first; the rest stands in the rows."""

    def tell(what: str, errors: Mapping[str, int]) -> None:
        ordered = sorted(errors.items(), key=lambda one: -one[1])
        for error, number in ordered[:REASONS]:
            _say(f"{what}: {number} examples failed: {error}")
        others = sum(number for _, number in ordered[REASONS:])
        if others:
            _say(f"{what}: {others} more failed for other reasons: see rows/")

    for sample, error in list(measurements.lost.items())[:REASONS]:
        _say(f"left out: {sample}: {error}")
    if len(measurements.lost) > REASONS:
        _say(f"left out: {len(measurements.lost) - REASONS} more examples: see rows/")
    for (name, judged), errors in measurements.errors.items():
        tell(name if judged == "-" else f"{name}, {judged}", errors)


def _engine(name: str, address: str | None, workers: int) -> Any:
    from relmap.evaluation.engine import run_here
    from relmap.evaluation.ray_engine import on_ray

    if name not in ("local", "ray"):
        raise InputError(f"--engine {name!r} is local or ray")
    return on_ray(address, workers=workers) if name == "ray" else run_here


@contextmanager
def _progress() -> "Iterator[Progress]":
    """A bar on stderr with the time left, where the number of examples is known."""
    from rich import progress as bars

    columns = (
        bars.MofNCompleteColumn(), bars.TextColumn("examples"), bars.BarColumn(),
        bars.TimeElapsedColumn(), bars.TextColumn("left:"), bars.TimeRemainingColumn(),
    )  # fmt: skip
    with bars.Progress(*columns, console=Console(stderr=True)) as shown:
        task = shown.add_task("", total=None)

        def advance(examples: int, total: int | None) -> None:
            shown.update(task, advance=examples, total=total)

        yield advance
