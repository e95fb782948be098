"""Engines: where batches are judged. Here, one after another; or elsewhere, many at once.

An engine takes batches without rows and gives them back with rows, in any order: each batch is a
file of its own, numbered by its place in the data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from relmap.evaluation.judging import Numbered, judge
from relmap.evaluation.plan import Plan
from relmap.evaluation.rows import Row
from relmap.models import Model

__all__ = ["Engine", "Part", "run_here"]


@dataclass(frozen=True)
class Part:
    """One batch: its number, how many examples it has, these, and what was measured on them.

    `known` are the methods and metrics, in pairs, whose rows are there already.
    """

    number: int
    examples: int
    numbered: Sequence[Numbered] = ()
    rows: Sequence[Row] = field(default=(), repr=False)
    known: frozenset[tuple[str, str]] = frozenset()


Engine: TypeAlias = Callable[[Model, Iterable[Part], Plan], Iterator[Part]]


def run_here(model: Model, waiting: Iterable[Part], plan: Plan) -> Iterator[Part]:
    """Judge batches one after another in this process."""
    for part in waiting:
        yield replace(part, rows=judge(model, part.numbered, plan, part.known), numbered=())
