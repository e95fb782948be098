"""Backwards: which rule each operation uses on the way back. One file each, found by themselves.

A registered function takes the options of its backward and returns the table; in code they are
found beside their registry, as `relmap.backwards.deep_taylor(rescale_linear=True)`.
"""

from __future__ import annotations

from collections.abc import Callable

from relmap.backwards.operation_rules import Backward
from relmap.registry import Registry

BACKWARDS: Registry[Callable[..., Backward]] = Registry("backward", "relmap.backwards")

__all__ = ["BACKWARDS", "Backward"]


def __getattr__(name: str) -> Callable[..., Backward]:
    # `relmap.backwards.deep_taylor(...)` without a line here for every file of the room
    if name.startswith("_") or name not in BACKWARDS:
        raise AttributeError(f"module 'relmap.backwards' has no attribute {name!r}")
    return BACKWARDS.get(name).function
