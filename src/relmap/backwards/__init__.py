"""Backwards: which rule each operation uses on the way back. One file each, found by themselves.

A registered function takes the options of its backward and returns the table; in code they are
found beside their registry, as `relmap.backwards.deep_taylor(rescale_linear=True)`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from relmap.backwards.operation_rules import Backward
from relmap.errors import InputError
from relmap.registry import Entry, Registry

__all__ = ["BACKWARDS", "Backward", "BackwardEntry"]


@dataclass(frozen=True, kw_only=True)
class BackwardEntry(Entry[Callable[..., Backward]]):
    """A backward and what it declares: the `family`, "gradient" or "relevance"."""

    operands = ()

    family: str

    def __post_init__(self) -> None:
        if self.family not in ("gradient", "relevance"):
            raise InputError(f"family={self.family!r} is neither 'gradient' nor 'relevance'")

    def notes(self) -> str:
        """Its family."""
        return f" Family: {self.family}."


BACKWARDS = Registry("backward", "relmap.backwards", BackwardEntry)


def __getattr__(name: str) -> Callable[..., Backward]:
    # `relmap.backwards.deep_taylor(...)` without a line here for every file of the room
    if name.startswith("_") or name not in BACKWARDS:
        raise AttributeError(f"module 'relmap.backwards' has no attribute {name!r}")
    return BACKWARDS.get(name).function
