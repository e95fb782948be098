"""What enters the first attention: the tokens at which relevance of features is read.

A token is embedded, given its position, perhaps normalised, and then enters the residual stream
of the first attention. Input x Gradient and full LRP are read there, so that a score counts
everything that the token brings, its position included.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from relmap.relevance.attention_maps import per_token
from relmap.relevance.rows import moved
from relmap.relevance.traced_pass import RecordedPass
from relmap.trace.graph import Activation, State

Reading = Callable[[Activation], Tensor | None]
"""What is read at an activation, of its shape; None where nothing arrives."""


def read_entrance(passed: RecordedPass, read: Reading) -> dict[int, Tensor]:
    """What `read` gives where tokens enter the first attention, summed over features.

    Tokens that reach it through states without a residual hand on what was read there.
    """
    relevance: dict[int, Tensor] = {}
    for state in reversed(passed.graph.states):
        found = _at_state(passed, state, relevance, read)
        if found is not None:
            relevance[state.index] = found
    return relevance


def _at_state(
    passed: RecordedPass, state: State, relevance: dict[int, Tensor], read: Reading
) -> Tensor | None:
    """The reading where the state enters a residual stream, else what its children had."""
    graph = passed.graph
    if state.kind == "join":
        return None
    children = [s for s in graph.states if any(link.parent == state.index for link in s.links)]
    for child in children:
        if child.kind == "join" and child.residual is not None:
            return _summed(passed, child.residual, state.tokens, read)
    total: Tensor | None = None
    for child in children:
        if child.index not in relevance or child.kind == "join":
            continue
        for link in child.links:
            if link.parent == state.index:
                part = moved(link, relevance[child.index], graph.states)
                total = part if total is None else total + part
    if total is not None:
        return total
    return None if state.stream is None else _summed(passed, state.stream, state.tokens, read)


def _summed(passed: RecordedPass, activation: Activation, tokens: int, read: Reading) -> Tensor:
    found = read(activation)
    if found is None:
        return torch.zeros(tokens, device=passed.graph.device())
    return per_token(found, activation, tokens)
