"""Tables: what the rows say, method by method, with intervals and paired differences.

A number of a data set is the mean of its examples, unless the metric says how it is summed up
(counts of pixels that are added before they are divided). Its interval is a percentile bootstrap
over examples; the difference to a reference method is taken example by example first, which is why
it may be sure where both intervals overlap.
"""

from __future__ import annotations

import csv
import io
import warnings
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from relmap.errors import InputError, MissingExtraError
from relmap.evaluation.bugs import read_bug
from relmap.evaluation.plan import Plan
from relmap.evaluation.rows import Row, parts, read_part
from relmap.evaluation.specification import Specification
from relmap.metrics import METRICS
from relmap.metrics.trial import Curve

__all__ = [
    "Cell",
    "Measurements",
    "collect",
    "directions",
    "summarise",
    "to_csv",
    "to_latex",
    "to_markdown",
]

Values = dict[str, np.ndarray]
Summary = Callable[[Mapping[str, np.ndarray]], float]


@dataclass(frozen=True)
class Cell:
    """One number of a table: of a method, by a quantity of a metric.

    `low` and `high` bound 95 % of the bootstrap; `difference` is to the reference method on the
    examples that both could be judged on. None is not known.
    """

    method: str
    metric: str
    quantity: str
    direction: str
    examples: int
    errors: int
    value: float | None
    low: float | None
    high: float | None
    difference: float | None
    difference_low: float | None
    difference_high: float | None


@dataclass(frozen=True, eq=False)
class Columns:
    """Examples by number, and what was measured of each; NaN where that is not known."""

    index: np.ndarray
    values: Values

    def take(self, wanted: np.ndarray) -> Values:
        """The values of some of the examples."""
        places = np.searchsorted(self.index, wanted)
        return {name: column[places] for name, column in self.values.items()}


class Measurements:
    """All rows of a run, in the little that tables and curves need of them: 16 bytes a number."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, str], dict[str, tuple[array[int], array[float]]]] = {}
        self.details: dict[tuple[str, str], dict[int, str]] = {}
        self.errors: dict[tuple[str, str], dict[str, int]] = {}
        self.sums: dict[tuple[str, str, str], dict[float, tuple[float, int]]] = {}
        self.lost: dict[str, str] = {}
        self.bugs: dict[str, str] = {}

    def add(self, row: Row) -> None:
        """Take one row in."""
        key = (_label(row.method, row.method_settings), _label(row.metric, row.metric_settings))
        if row.error is not None:
            if row.method == "-":
                self.lost[row.sample] = row.error
            else:
                said = self.errors.setdefault(key, {})
                said[row.error] = said.get(row.error, 0) + 1
            if row.detail is not None:
                bug = read_bug(row.detail)
                self.bugs.setdefault(bug.kind, bug.traceback)
            return
        if row.step is None and row.detail is None:
            known = self.values.setdefault(key, {})
            # a quantity that no example has is known by its name: a summary may read it
            index, values = known.setdefault(row.quantity, (array("q"), array("d")))
            if row.value is not None:
                index.append(row.index)
                values.append(row.value)
        elif row.value is not None and row.step is not None:
            steps = self.sums.setdefault((*key, row.quantity), {})
            total, number = steps.get(row.step, (0.0, 0))
            steps[row.step] = (total + row.value, number + 1)
        if row.detail is not None:
            self.details.setdefault(key, {})[row.index] = row.detail

    def failed(self, method: str, metric: str) -> int:
        """On how many examples a method or this metric of it failed."""
        keys = [(method, "-"), (method, metric)]
        return sum(sum(self.errors.get(key, {}).values()) for key in keys)

    def curves(self) -> dict[tuple[str, str], dict[str, Curve]]:
        """The mean curves: (metric, quantity) -> method -> curve."""
        import torch

        found: dict[tuple[str, str], dict[str, Curve]] = {}
        for (method, metric, quantity), steps in self.sums.items():
            means = torch.tensor([[total / number for total, number in steps.values()]])
            found.setdefault((metric, quantity), {})[method] = Curve(tuple(steps), means)
        return found


def collect(folder: Path) -> Measurements:
    """The rows of all parts, in their order.

    Raises:
        InputError: There is none.
    """
    files = parts(folder)
    if not files:
        raise InputError(f"{folder} holds no rows of an evaluation")
    found = Measurements()
    for file in files:
        for row in read_part(file):
            found.add(row)
    return found


def directions(metric: Specification) -> dict[str, str]:
    """The quantities of a metric that a table shows, and in which direction each improves."""
    return METRICS.get(metric.name).directions


def summarise(found: Measurements, plan: Plan) -> list[Cell]:
    """Every number of the table: metric by metric, quantity by quantity, method by method.

    Raises:
        MissingExtraError: scipy, which draws the intervals, is not installed.
    """
    methods = [str(one) for one in plan.methods]
    reference = plan.settings.reference or methods[0]
    cells: list[Cell] = []
    for metric in plan.metrics:
        summaries = METRICS.get(metric.name).summary
        for quantity, direction in directions(metric).items():
            summary = summaries.get(quantity)
            known = {
                method: _columns(found, (method, str(metric)), quantity, summary)
                for method in methods
            }
            for method in methods:
                errors = found.failed(method, str(metric))
                if len(known[method].index) or errors:
                    head = (method, str(metric), quantity, direction)
                    other = known[reference] if method != reference else None
                    cells.append(_cell((*head, errors), known[method], other, summary, plan))
    return _without_empty(cells)


def _without_empty(cells: Sequence[Cell]) -> list[Cell]:
    """No quantity that nobody has, such as those of other presets, where the metric has others."""
    measured = {(cell.metric, cell.quantity) for cell in cells if cell.value is not None}
    metrics = {metric for metric, _ in measured}
    return [
        cell for cell in cells
        if (cell.metric, cell.quantity) in measured or cell.metric not in metrics
    ]  # fmt: skip


def _columns(
    found: Measurements, key: tuple[str, str], quantity: str, summary: Summary | None
) -> Columns:
    """What the number of a data set is made of: one quantity, or all that a summary may read.

    A summary is also given the texts (JSON) of a metric that says more than numbers, as "detail".
    """
    known = found.values.get(key, {})
    names = list(known) if summary else [name for name in known if name == quantity]
    numbers = {name: (np.array(known[name][0]), np.array(known[name][1])) for name in names}
    details = found.details.get(key, {}) if summary else {}
    told = np.array(sorted(details), dtype=np.int64)
    index = np.unique(np.concatenate([told, *(at for at, _ in numbers.values())]))
    columns: Values = {}
    for name, (at, values) in numbers.items():
        columns[name] = np.full(len(index), np.nan)
        columns[name][np.searchsorted(index, at)] = values
    if details:
        columns["detail"] = np.array([details.get(int(at)) for at in index], dtype=object)
    return Columns(index, columns)


def _cell(
    head: tuple[str, str, str, str, int], known: Columns, other: Columns | None,
    summary: Summary | None, plan: Plan,
) -> Cell:  # fmt: skip
    method, metric, quantity, direction, errors = head
    number = len(known.index)
    blank = Cell(method, metric, quantity, direction, number, errors, *[None] * 6)
    if not number:
        return blank
    whole = summary or partial(_mean, quantity)
    low, high = _interval([known.values], whole, plan, summary is None)
    found = replace(blank, value=_known(whole(known.values)), low=_known(low), high=_known(high))
    shared = np.intersect1d(known.index, other.index) if other else known.index[:0]
    if other is None or not len(shared):
        return found
    pair = [one.take(shared) for one in (known, other)]
    low, high = _interval(pair, whole, plan, summary is None)
    difference = _known(whole(pair[0]) - whole(pair[1]))
    return replace(
        found, difference=difference, difference_low=_known(low), difference_high=_known(high)
    )


def _known(value: float | None) -> float | None:
    return None if value is None or np.isnan(value) else value


def _mean(quantity: str, values: Mapping[str, np.ndarray]) -> float:
    return float(values[quantity].mean())


def _interval(
    samples: Sequence[Values], whole: Summary, plan: Plan, mean: bool
) -> tuple[float | None, float | None]:
    """The percentile interval of a number, or of the difference of two on the same examples."""
    number = len(next(iter(samples[0].values())))
    if number < 2:
        return None, None
    try:
        from scipy.stats import DegenerateDataWarning, bootstrap
    except ImportError as error:
        raise MissingExtraError("evaluate") from error
    generator = np.random.default_rng(plan.settings.seed)
    options: dict[str, Any] = {
        "n_resamples": plan.settings.resamples, "method": "percentile", "rng": generator,
        "batch": 64,
    }  # fmt: skip
    if mean:
        columns = [next(iter(one.values())) for one in samples]
        each = columns[0] if len(columns) == 1 else columns[0] - columns[1]
        if np.ptp(each) == 0:  # every resample has this one mean
            return float(each[0]), float(each[0])
        found = bootstrap((each,), np.mean, **options)
    else:

        def statistic(drawn: np.ndarray) -> float:
            values = [
                whole({name: one[drawn] for name, one in sample.items()}) for sample in samples
            ]
            return values[0] if len(values) == 1 else values[0] - values[1]

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DegenerateDataWarning)
            found = bootstrap((np.arange(number),), statistic, vectorized=False, **options)
        drawn = found.bootstrap_distribution
        known = drawn[~np.isnan(drawn)]
        if not len(known):
            return None, None
        if len(known) < len(drawn):  # some resamples hold nothing that the number is about
            low, high = np.quantile(known, [0.025, 0.975])
            return float(low), float(high)
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def _label(name: str, settings: str) -> str:
    return f"{name}:{settings}" if settings else name


def to_csv(cells: Sequence[Cell]) -> str:
    """One line for every number, all digits."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Cell)], lineterminator="\n")
    writer.writeheader()
    for cell in cells:
        writer.writerow(asdict(cell))
    return text.getvalue()


def to_markdown(cells: Sequence[Cell]) -> str:
    """One table for every metric: methods down, quantities across, the best of each in bold."""
    lines: list[str] = []
    for metric, quantities, methods in _by_metric(cells):
        head = [f"{name} {'↑' if way == 'higher' else '↓'}" for name, way in quantities]
        lines += [f"**{metric}**", "", f"| method | {' | '.join(head)} | n |"]
        lines.append("|" + "---|" * (len(head) + 2))
        for method, row in methods.items():
            written = [_written(row.get(name), "**{}**", methods) for name, _ in quantities]
            lines.append(f"| {method} | {' | '.join(written)} | {_number(row)} |")
        lines.append("")
    return "\n".join(lines)


def to_latex(cells: Sequence[Cell]) -> str:
    """The same tables for a paper; they need the package booktabs."""
    lines: list[str] = []
    for metric, quantities, methods in _by_metric(cells):
        arrows = {"higher": r"$\uparrow$", "lower": r"$\downarrow$"}
        head = [f"{_escaped(name)} {arrows[way]}" for name, way in quantities]
        lines += [f"% {metric}", rf"\begin{{tabular}}{{l{'r' * len(head)}}}", r"\toprule"]
        lines += [" & ".join(["method", *head]) + r" \\", r"\midrule"]
        for method, row in methods.items():
            written = [_written(row.get(name), r"\textbf{{{}}}", methods) for name, _ in quantities]
            lines.append(" & ".join([_escaped(method), *written]) + r" \\")
        lines += [r"\bottomrule", r"\end{tabular}", ""]
    return "\n".join(lines)


Written = tuple[Cell, bool]


def _by_metric(
    cells: Sequence[Cell],
) -> list[tuple[str, list[tuple[str, str]], dict[str, dict[str, Written]]]]:
    """For every metric its quantities and, by method, each cell with whether it is the best.

    What is measured at many thresholds ("f1@5", "f1@10", ...) is left to the CSV.
    """
    found = []
    for metric in dict.fromkeys(cell.metric for cell in cells):
        mine = [cell for cell in cells if cell.metric == metric and "@" not in cell.quantity]
        quantities = list(dict.fromkeys((cell.quantity, cell.direction) for cell in mine))
        best = {
            name: (max if way == "higher" else min)(
                (c.value for c in mine if c.quantity == name and c.value is not None), default=None
            )
            for name, way in quantities
        }
        methods: dict[str, dict[str, Written]] = {}
        for cell in mine:
            is_best = cell.value is not None and cell.value == best[cell.quantity]
            methods.setdefault(cell.method, {})[cell.quantity] = (cell, is_best)
        found.append((metric, quantities, methods))
    return found


def _written(one: Written | None, bold: str, methods: Mapping[str, Mapping[str, Written]]) -> str:
    """A number with its interval; a column of percentages has one digit, any other three."""
    if one is None or one[0].value is None:
        return "–"
    cell, best = one
    column = [row[cell.quantity][0].value for row in methods.values() if cell.quantity in row]
    digits = 1 if max(abs(value or 0) for value in column) >= 10 else 3
    value = f"{cell.value:.{digits}f}"
    if cell.low is None or cell.high is None:
        return bold.format(value) if best else value
    interval = f" [{cell.low:.{digits}f}, {cell.high:.{digits}f}]"
    return (bold.format(value) if best else value) + interval


def _number(row: Mapping[str, Written]) -> str:
    cell = next(iter(row.values()))[0]
    return f"{cell.examples}" + (f" ({cell.errors} failed)" if cell.errors else "")


def _escaped(text: str) -> str:
    return text.replace("_", r"\_").replace("%", r"\%").replace("&", r"\&")
