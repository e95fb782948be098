"""What a method reads of a recorded pass, by name.

A pass keeps and computes only what the method asked for when it was registered. What was not asked
for is not there: reading it is an error that names the need, and never a tensor of zeros.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from relmap.errors import InputError
from relmap.options import suggestion

__all__ = ["Need", "read_needs"]


class Need(StrEnum):
    """What a method declares that it reads; the strings stand for the members.

    Example:
        >>> Need("attention-gradient") is Need.ATTENTION_GRADIENT
        True
    """

    GRAPH = "graph"
    """The token graph behind its sources; whatever reads attention reads it, too."""
    ATTENTION = "attention"
    """Attention maps A, and under a relevance backward R_A in their place."""
    ATTENTION_GRADIENT = "attention-gradient"
    """dA: the gradient of every attention's output, of which it is made."""
    ATTENTION_RELEVANCE = "attention-relevance"
    """R_A: the relevance of every attention's output, of which it is made."""
    CONTRIBUTION = "contribution"
    """A * dA as one, so that what a mixer's tokens contribute can take its place."""
    JOIN_GRADIENT = "join-gradient"
    """Value and gradient of both addends of every residual join."""
    STREAM_GRADIENT = "stream-gradient"
    """Value and gradient of what enters every residual stream."""
    TOKEN_RELEVANCE = "token-relevance"
    """Relevance of what enters every residual stream, and of the forward's own arguments."""
    BIAS_GRADIENT = "bias-gradient"
    """Every bias that was added to tokens, with the gradient there."""
    OUTPUT = "output"
    """The output that the target reads."""
    REPLAY = "replay"
    """The network once more, with some of its activations replaced."""


GRADIENTS = frozenset(
    [Need.ATTENTION_GRADIENT, Need.JOIN_GRADIENT, Need.STREAM_GRADIENT, Need.BIAS_GRADIENT]
)
"""Needs that a backward of the gradient family changes."""

RELEVANCES = frozenset([Need.ATTENTION_RELEVANCE, Need.TOKEN_RELEVANCE])
"""Needs that only a backward of the relevance family fills."""


GRAPHS = frozenset(
    [Need.GRAPH, Need.ATTENTION, Need.ATTENTION_GRADIENT, Need.ATTENTION_RELEVANCE,
     Need.JOIN_GRADIENT]
)  # fmt: skip
"""Needs that only a trace from the sources to the output can fill."""


def reads_graph(needs: Iterable[str]) -> bool:
    """Whether a method reads more of a trace than the tokens that enter.

    Example:
        >>> reads_graph([Need.ATTENTION]), reads_graph([Need.STREAM_GRADIENT, Need.REPLAY])
        (True, False)
    """
    return bool(GRAPHS & set(needs))


def read_needs(needs: Iterable[str]) -> tuple[Need, ...]:
    """Needs by their names, in the order given.

    Raises:
        InputError: There is no such need.

    Example:
        >>> read_needs(["attention-gradeint"])
        Traceback (most recent call last):
        relmap.errors.InputError: ... no need 'attention-gradeint'. Did you mean ...
    """
    known = [str(one) for one in Need]
    if isinstance(needs, str):
        raise InputError(f"needs={needs!r} is one string: write needs=({needs!r},)")
    for need in needs:
        if need not in known:
            raise InputError(
                f"there is no need {need!r}.{suggestion(str(need), known)} Known: "
                + ", ".join(known)
            )
    return tuple(Need(need) for need in needs)
