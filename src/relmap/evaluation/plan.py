"""What an evaluation does: which methods and metrics, on what target, in which batches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from relmap.errors import InputError
from relmap.evaluation.specification import Specification

__all__ = ["Plan", "Settings"]


@dataclass(frozen=True)
class Settings:
    """How an evaluation is run; each of these may change a number, and is in its record.

    Attributes:
        target: "predicted" explains what the model says, "label" what is right.
        batch_size: Examples in a batch, and perturbed inputs run at once.
        limit: How many examples at most, the first ones; None for all.
        seed: Of bootstrap intervals.
        reference: The method that the others are compared with, as it is written; the first one
            if empty.
        resamples: Of the bootstrap.
    """

    target: str = "predicted"
    batch_size: int = 16
    limit: int | None = None
    seed: int = 0
    reference: str = ""
    resamples: int = 2000

    def __post_init__(self) -> None:
        """Refuse what no run can mean."""
        if self.target not in ("predicted", "label"):
            raise InputError(f"target={self.target!r} is 'predicted' or 'label'")
        if self.batch_size < 1 or (self.limit is not None and self.limit < 1):
            raise InputError("batch_size and limit are at least 1")


@dataclass(frozen=True)
class Plan:
    """Methods, metrics and settings: all that a worker needs beside a model and a batch."""

    methods: tuple[Specification, ...]
    metrics: tuple[Specification, ...]
    settings: Settings = field(default_factory=Settings)

    def __post_init__(self) -> None:
        """Refuse a comparison with a method that is not there, and a method that is there twice."""
        names = [str(one) for one in self.methods]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice:
            raise InputError(f"the method {twice!r} is named twice")
        if self.settings.reference and self.settings.reference not in names:
            raise InputError(
                f"reference={self.settings.reference!r} is none of the methods: {', '.join(names)}"
            )

    def record(self) -> dict[str, Any]:
        """The plan in words that JSON can hold."""
        return {
            "methods": [str(one) for one in self.methods],
            "metrics": [str(one) for one in self.metrics],
            "settings": _plain(self.settings),
        }


def _plain(settings: Settings) -> Mapping[str, Any]:
    return {name: getattr(settings, name) for name in settings.__dataclass_fields__}
