"""What enters the first attention: the tokens at which relevance of features is read.

A token is embedded, given its position, perhaps normalised, and then enters the residual stream
of the first attention. Input x Gradient and full LRP are read there, so that a score counts
everything that the token brings, its position included.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from relmap.errors import InputError
from relmap.relevance.attention_maps import per_token
from relmap.relevance.rows import moved
from relmap.relevance.token_rows import from_rows, means, to_rows
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
    values = read(activation)
    if values is None:
        return torch.zeros(tokens, device=passed.graph.device())
    return per_token(values, activation, tokens)


# --- other tokens in their place ---------------------------------------------------------------


def entering_tokens(passed: RecordedPass) -> dict[int, Activation]:
    """For every reported state the activation in which its tokens enter the network.

    Raises:
        InputError: an input became tokens in a way that cannot be repeated with others.
    """
    entered: dict[int, Activation] = {}
    for source in passed.graph.sources:
        stream = passed.graph.states[source.state].stream
        if stream is None or stream.edge is None:
            raise InputError(
                f"the tokens of {source.name!r} cannot be replaced: the network makes them without "
                "gradient, or in several steps at once; use a method that runs the network once"
            )
        entered[source.state] = stream
    return entered


def blank(
    passed: RecordedPass, state: int, activation: Activation, value: Tensor, kind: str
) -> Tensor:
    """What stands for no token: "zero", or the "mean" of the tokens of an example."""
    if kind == "zero":
        return torch.zeros_like(value)
    one = passed.graph.states[state]
    mean, _ = means(passed, one, to_rows(activation, value, one.tokens))
    examples = passed.graph.examples[state].to(value.device).clamp_min(0)
    return from_rows(activation, mean[examples], value)
