"""Backwards: which rule each operation uses on the way back. One file each, found by themselves.

A registered function takes the options of its backward and returns the table; in code they are
found beside their registry, as `relmap.backwards.deep_taylor(rescale_linear=True)`.
"""

from __future__ import annotations

from relmap.registry import Registry
from relmap.rules import Backward

BACKWARDS = Registry("backward", "relmap.backwards")

__all__ = ["BACKWARDS", "Backward"]

# A file and its function share a name; after this the name means the function.
globals().update({entry.function.__name__: entry.function for entry in BACKWARDS.entries()})
