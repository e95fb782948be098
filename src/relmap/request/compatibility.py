"""Which backwards a method works with, read from what the method needs of a recorded pass.

A method that reads gradients works with every backward of the gradient family, one that reads
attention with those of the relevance family too: R_A takes the place of A. Whatever would change
nothing, or mean nothing, is refused by name.
"""

from __future__ import annotations

from relmap.backwards import BACKWARDS, Backward, BackwardEntry
from relmap.errors import InputError
from relmap.methods import METHODS, MethodEntry, Need
from relmap.relevance.needs import GRADIENTS, RELEVANCES

__all__ = ["choose_backward", "default_backward", "fits", "pairs"]


def default_backward(method: MethodEntry) -> str:
    """The backward that a method uses if none is named."""
    return method.backward


def fits(method: MethodEntry, backward: BackwardEntry) -> bool:
    """Whether a method works with a backward."""
    return _objection(method, backward.name, backward.family) is None


def choose_backward(method: MethodEntry, backward: str | Backward | None) -> Backward:
    """The backward that was asked for (with options: "reslrp:gamma=3"), or the method's own.

    Raises:
        InputError: there is no such backward, or the method does not work with it.
    """
    if backward is None:
        backward = default_backward(method)
    if isinstance(backward, str):
        entry, options = BACKWARDS.read(backward)
        backward = entry.function(**entry.check_options(options))
    if not isinstance(backward, Backward):
        raise InputError(
            f"backward={backward!r} is neither a name ({', '.join(BACKWARDS)}) nor what a function "
            "of relmap.backwards returns."
        )
    objection = _objection(method, backward.name, backward.family)
    if objection is not None:
        working = [
            entry.name for entry in BACKWARDS.entries()
            if _objection(method, entry.name, entry.family) is None
        ]  # fmt: skip
        raise InputError(
            f"{method.name} does not work with the backward {backward.name!r}: {objection}. "
            f"It works with {', '.join(working)}."
        )
    return backward


def _objection(method: MethodEntry, name: str, family: str) -> str | None:
    needs = set(method.needs)
    allowed = method.families
    if name == default_backward(method):
        return None
    if allowed is not None:
        return None if family in allowed else f"it is not defined for the {family} family"
    if needs & RELEVANCES:
        return None if family == "relevance" else "it distributes relevance, not a gradient"
    if name == "gradient":
        return None
    if family == "relevance":
        return (
            None
            if Need.ATTENTION in needs
            else "relevance replaces attention, which it does not read"
        )
    if Need.REPLAY in needs:
        return "it runs parts of the network again, with their ordinary gradient"
    return None if needs & GRADIENTS else "it reads no gradient, so nothing would change"


def pairs() -> list[tuple[str, str]]:
    """Every method with every backward it works with, by name."""
    return [
        (method.name, backward.name)
        for method in METHODS.entries() for backward in BACKWARDS.entries()
        if fits(method, backward)
    ]  # fmt: skip
