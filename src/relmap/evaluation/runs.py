"""evaluate: from a model and data to tables of how true each method's explanations are.

Batches are judged one after another and written as they are done; what is written is never
computed again. The tables are made from what is written, so that a run which was killed and begun
again ends with the same tables, byte by byte.
"""

from __future__ import annotations

import importlib.util
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from relmap.data.example import Example
from relmap.errors import InputError
from relmap.evaluation.engine import Engine, run_here
from relmap.evaluation.fingerprint import Fingerprint
from relmap.evaluation.plan import Plan, Settings
from relmap.evaluation.protocol import (
    check_record,
    read_record,
    record_of,
    run_of,
    write_record,
)
from relmap.evaluation.reading import numbered_batches, read_examples
from relmap.evaluation.resuming import Resumed
from relmap.evaluation.rows import parts
from relmap.evaluation.specification import read_method, read_metric
from relmap.evaluation.tables import (
    Cell,
    Measurements,
    collect,
    summarise,
    to_csv,
    to_latex,
    to_markdown,
)
from relmap.files import make_folder, write_whole
from relmap.models import describe, load
from relmap.plain_text import visible

__all__ = ["Evaluation", "evaluate"]

TRACEBACKS = "tracebacks"

Progress = Callable[[int, int | None], None]
"""(examples of a batch, examples in all where that is known); called after every batch."""


@dataclass(frozen=True)
class DataSource:
    """Where examples come from: a path or name with its format, or a sequence of examples."""

    data: Any
    form: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What an evaluation found.

    Attributes:
        cells: Every number of the tables.
        measurements: Curves, errors, and the values of single examples.
        folder: Where rows, tables, curves and the protocol record lie; gone if none was named.
        plan: What was done.
        notes: What stands out in the data: equal names, examples that went in before.
    """

    cells: list[Cell]
    measurements: Measurements
    folder: Path
    plan: Plan
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """The tables as Markdown, and where the traceback of each bug is."""
        lines = [
            f"{kind} is a bug in a method, a metric or a reader: its first traceback is "
            + (f"in {file}" if (file := self.traceback(kind)).exists() else "in measurements.bugs")
            for kind in self.measurements.bugs
        ]
        return "\n".join([to_markdown(self.cells), *self.notes, *lines])

    def traceback(self, kind: str) -> Path:
        """The file of the first traceback of a kind of bug."""
        return self.folder / TRACEBACKS / f"{kind}.txt"

    def value(self, method: str, metric: str, quantity: str = "") -> float | None:
        """One number of the table; `quantity` may be left out where the metric has one."""
        wanted = (str(read_method(method)), str(read_metric(metric)))
        for cell in self.cells:
            if (cell.method, cell.metric) == wanted and quantity in ("", cell.quantity):
                return cell.value
        return None


def evaluate(
    model: Any,
    data: Any,
    methods: Sequence[str],
    metrics: Sequence[str],
    *,
    output: str | os.PathLike[str] | None = None,
    settings: Settings | None = None,
    engine: Engine = run_here,
) -> Evaluation:
    """How true the explanations of a model are: methods judged by metrics on a data set.

    `model` is what `relmap.explain` takes, or the name of one to load. `data` is a sequence of
    `Example`s (or samples of a data format), or `DataSource(path, form)`. `methods` and `metrics`
    are names with options, such as "genatt:start_layer=1" and "perturbation:preset=wra-text".
    `output` is a folder for rows, tables, curves and the protocol record; a run that finds its own
    rows there goes on, and one with more methods, metrics or examples computes what is new.
    `engine` says where batches are judged: here, or on a Ray cluster
    (`relmap.evaluation.ray_engine.on_ray`).

    Raises:
        InputError: A name or option is unknown, the data cannot be read, or the folder holds
            another evaluation.
        MissingExtraError: pyarrow or scipy is not installed.

    Example:
        >>> import torch, relmap
        >>> from transformers import ViTConfig, ViTForImageClassification
        >>> config = ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        ...     intermediate_size=8, image_size=8, patch_size=4, num_labels=3)
        >>> network = ViTForImageClassification(config)
        >>> examples = [relmap.Example(str(at), image=torch.rand(3, 8, 8)) for at in range(4)]
        >>> found = evaluate(network, examples, ["genatt", "random"],
        ...     ["perturbation:fill=image-mean,measure=probability"])
        >>> [(cell.method, cell.quantity) for cell in found.cells][:2]
        [('genatt', 'positive'), ('random', 'positive')]
    """
    plan = Plan(
        tuple(read_method(one) for one in methods),
        tuple(read_metric(one) for one in metrics),
        settings or Settings(),
    )
    if output is None:
        with tempfile.TemporaryDirectory() as folder:
            return run(model, data, plan, Path(folder), engine)
    return run(model, data, plan, Path(output), engine)


def run(
    model: Any, data: Any, plan: Plan, folder: Path, engine: Engine = run_here,
    progress: Progress | None = None,
) -> Evaluation:  # fmt: skip
    """Judge what has no rows yet, then make the tables of all rows; see `evaluate`."""
    if not plan.methods or not plan.metrics:
        raise InputError("an evaluation needs at least one method and one metric")
    source = data if isinstance(data, DataSource) else DataSource(data)
    make_folder(folder / "rows")
    described = load(model) if isinstance(model, str | os.PathLike) else describe(model)
    examples = read_examples(source.data, source.form, source.options)
    seen = Fingerprint()
    record = record_of(described, _about(source, examples, plan.settings.limit, seen), plan)
    _begin(folder, record, seen.examples if isinstance(examples, list) else None)
    resumed = Resumed(folder / "rows", run_of(record), plan, seen)
    batches = numbered_batches(examples, plan.settings.batch_size, plan.settings.limit)
    limit = plan.settings.limit
    total = len(examples[:limit]) if isinstance(examples, list) else limit

    def report(number: int) -> None:
        if progress is not None:
            progress(number, total)

    for part in engine(described, resumed.waiting(batches, report), plan):
        resumed.write(part)
        report(part.examples)
    record["data"] |= {"examples": seen.number, "fingerprint": seen.hexdigest()}
    check_record(folder, record, seen.examples)  # a stream is known at its end only
    write_record(folder, record)
    return replace(finish(folder, plan), notes=tuple(seen.notes()))


def _begin(folder: Path, record: dict[str, Any], examples: Sequence[str] | None) -> None:
    """Write the record before the first number; what is known of a stream stays in it.

    Raises:
        InputError: The folder holds another evaluation, or rows that nothing is known of.
    """
    if check_record(folder, record, examples):
        known = read_record(folder)
        assert known is not None
        write_record(folder, {**record, "data": {**known["data"], **record["data"]}})
        return
    if parts(folder / "rows"):
        raise InputError(
            f"{folder} holds rows of an evaluation but no protocol.json, which says what they are "
            "of: put it back, give another --output, or remove the folder"
        )
    write_record(folder, record)


def finish(folder: Path, plan: Plan) -> Evaluation:
    """The tables and curves of the rows in a folder."""
    found = collect(folder / "rows")
    cells = summarise(found, plan)
    for name, write in (("csv", to_csv), ("md", to_markdown), ("tex", to_latex)):
        write_whole(folder / f"table.{name}", visible(write(cells)).encode())
    _draw(found, folder, plan)
    result = Evaluation(cells, found, folder, plan)
    for kind, text in found.bugs.items():
        result.traceback(kind).parent.mkdir(exist_ok=True)
        write_whole(result.traceback(kind), text.encode())
    return result


def _draw(found: Measurements, folder: Path, plan: Plan) -> None:
    """One figure for every curve, every method a line; without matplotlib the rows hold them."""
    drawn = found.curves()
    if not drawn or importlib.util.find_spec("matplotlib") is None:
        return
    from relmap.drawing.curves import curves

    methods = [str(method) for method in plan.methods]
    for (metric, quantity), known in drawn.items():
        lines = {method: known[method] for method in methods if method in known}
        name = re.sub(r"[^a-z0-9.]+", "-", f"{metric} {quantity}".lower())
        for ending in ("png", "svg"):
            curves(
                lines, f"{metric}: {quantity.removesuffix('-curve')}", folder / f"{name}.{ending}"
            )


def _about(
    source: DataSource, examples: Iterable[Example], limit: int | None, seen: Fingerprint
) -> dict[str, Any]:
    """What the record says of the data; a list is `seen` at once, a stream as it is read."""
    named = isinstance(source.data, str | os.PathLike)
    name = os.path.basename(os.path.normpath(source.data)) if named else "given"
    about = {"name": name, "format": source.form, "options": dict(source.options)}
    if not isinstance(examples, list):
        return about
    for example in examples[:limit]:
        seen.add(example)
    return about | {"examples": seen.number, "fingerprint": seen.hexdigest()}
