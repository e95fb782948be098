"""Explanation methods: one file each, found by themselves.

A method is a function from a recorded pass to the relevance that reached every state (token
numbers of that state); its keyword-only parameters are its options. `needs` says what it reads of
the pass: "attention", "attention-gradient", "join-gradient" (both addends of every residual join),
"stream-gradient" (what enters every residual stream). The metadata `target_dependent` says whether
the map depends on the target, `maps` is a function of the pass and the same options that carries
the whole relevance map of every state, for the rules that have one.
"""

from __future__ import annotations

from relmap.registry import Registry

METHODS = Registry("method", "relmap.methods")

__all__ = ["METHODS"]
