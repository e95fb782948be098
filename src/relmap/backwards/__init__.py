"""Backwards: which rule each operation uses on the way back. One file each, found by themselves."""

from __future__ import annotations

from relmap.registry import Registry

BACKWARDS = Registry("backward", "relmap.backwards")

__all__ = ["BACKWARDS"]
