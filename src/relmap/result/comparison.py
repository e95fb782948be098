"""Several methods on the same prediction, and why some could not explain it."""

from __future__ import annotations

from dataclasses import dataclass

from relmap.result.attribution import Attribution

__all__ = ["Comparison"]


@dataclass(frozen=True, eq=False)
class Comparison:
    """Attributions of the same inputs by method, and why some methods gave none."""

    found: dict[str, Attribution]
    refused: dict[str, str]
