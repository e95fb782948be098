"""Explanation methods: one file each, found by themselves.

A method is a function from a recorded pass to the relevance that reached every state (token
numbers of that state); its keyword-only parameters are its options. What it reads of the pass it
declares as its `needs` (see `Need`): what is not declared is not there, and asking for it an error.

Options about layers have three names: `start_layer` is the first that counts, `layer` a single one,
`layers` says which. Numbers count attention layers within a stream, negative ones from its end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from relmap.errors import InputError
from relmap.registry import Entry, Registry
from relmap.relevance.needs import Need, read_needs

__all__ = ["METHODS", "MethodEntry", "Need"]

FAMILIES = ("gradient", "relevance")


@dataclass(frozen=True, kw_only=True)
class MethodEntry(Entry[Callable[..., Any]]):
    """A method and what it declares.

    Attributes:
        needs: What it reads of the pass: members of `Need`, or their names.
        target_dependent: Whether its map depends on the target.
        requires: What a network must have to be explained by it, in words; empty for every one.
        backward: The backward it uses if none is named.
        families: The families of backwards it is defined for; None for all that its needs allow.
        maps: A function of the pass and the same options that carries the whole relevance map of
            every state, for the rules that have one.
        pixels: A function of the pass that gives the relevance of pixels, by source.
    """

    operands = ("passed",)

    needs: tuple[Need, ...] = ()
    target_dependent: bool = True
    requires: str = ""
    backward: str = "gradient"
    families: tuple[str, ...] | None = None
    maps: Callable[..., Any] | None = None
    pixels: Callable[..., Any] | None = None

    @classmethod
    def read(cls, declared: Mapping[str, Any]) -> dict[str, Any]:
        """Names of needs become members of `Need`."""
        return {**declared, "needs": read_needs(declared.get("needs", ()))}

    def __post_init__(self) -> None:
        wrong = [family for family in self.families or () if family not in FAMILIES]
        if wrong or isinstance(self.families, str):
            raise InputError(f"families={self.families!r} is no tuple of {', '.join(FAMILIES)}")

    def notes(self) -> str:
        """What it reads and requires."""
        reads = f" Needs {', '.join(self.needs)}." if self.needs else ""
        return reads + (f" Requires {self.requires}." if self.requires else "")


METHODS = Registry("method", "relmap.methods", MethodEntry)
