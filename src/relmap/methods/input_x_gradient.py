"""Input x Gradient at the tokens that enter the first attention."""

from __future__ import annotations

import torch
from torch import Tensor

from relmap.algebra import per_token
from relmap.graph import Activation, State
from relmap.methods import METHODS
from relmap.propagate import RecordedPass, moved


@METHODS.register(
    "input-x-gradient",
    aliases=("inputgrad", "ixg", "gradient-x-input"),
    reference="Shrikumar et al. 2016; Liu et al., ICML 2022 (InputGrad)",
    needs=("stream-gradient",),
    target_dependent=True,
)
def input_x_gradient(passed: RecordedPass) -> dict[int, Tensor]:
    """Token embedding times its gradient, summed over features, with its sign.

    R_j = sum_d x_jd dy/dx_jd with x the residual stream entering the first attention (embedding,
    position and learned tokens included). Use it as the cheapest signed baseline; noisy on deep
    networks unless the backward is a conserving one.
    """
    relevance: dict[int, Tensor] = {}
    for state in reversed(passed.graph.states):
        found = _at_state(passed, state, relevance)
        if found is not None:
            relevance[state.index] = found
    return relevance


def _at_state(passed: RecordedPass, state: State, relevance: dict[int, Tensor]) -> Tensor | None:
    """Input x Gradient where the state enters a residual stream, else what its children had."""
    graph = passed.graph
    if state.kind == "join":
        return None
    children = [s for s in graph.states if any(link.parent == state.index for link in s.links)]
    for child in children:
        if child.kind == "join" and child.residual is not None:
            return _product(passed, child.residual, state.tokens)
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
    return None if state.stream is None else _product(passed, state.stream, state.tokens)


def _product(passed: RecordedPass, activation: Activation, tokens: int) -> Tensor:
    product = passed.input_x_gradient(activation)
    if product is None:
        return torch.zeros(tokens, device=passed.graph.device())
    return per_token(product, activation, tokens)
