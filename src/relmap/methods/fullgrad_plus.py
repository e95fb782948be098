"""FullGrad and FullGrad+: what the tokens and the biases contribute to the target.

    R = sum_l sum_d x_ld dy/dx_ld + sum_b sum_d b_d dy/db_d          (LibraGrad, FullGrad+)

with x_l a token in the residual stream that enters layer l and dy/db the gradient at the output of
the operation that adds b, for each token. With the input layer alone it is FullGrad, which is
complete: where every operation is linear but for its biases (as a piecewise linear network is, and
any transformer under the backward `libra`), its sum is the target.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from relmap._torch_private import autograd_order
from relmap.errors import TraceError
from relmap.methods import METHODS
from relmap.relevance.attention_maps import head_mean, per_token
from relmap.relevance.join_weights import residual_alone
from relmap.relevance.rows import PropagationRule, RecordedPass, moved, push_rows
from relmap.relevance.streams import made_of_flagged
from relmap.trace.graph import Activation, State, TokenGraph


@METHODS.register(
    "fullgrad-plus",
    aliases=("fullgrad+", "full-grad-plus", "fullgrad"),
    reference="Mehri et al., CVPR 2025 (LibraGrad), FullGrad+; Srinivas & Fleuret 2019, eq. 3",
    needs=("stream-gradient", "bias-gradient"),
    target_dependent=True,
)
def fullgrad_plus(
    passed: RecordedPass, *, layers: Literal["all", "input"] = "all", biases: bool = True
) -> dict[int, Tensor]:
    """Input x Gradient of the inputs of all layers and of all biases, added up with their sign.

    R_j = sum_l <x_lj, dy/dx_lj> + sum_b <b, dy/db_j>. `layers="input"` takes the first layer's
    input alone, which with the biases is FullGrad and sums to the target under a backward that
    keeps completeness; a bias before that layer (of the patch embedding, say) is part of its input.
    `biases=False` leaves the second sum out. Biases are those of linear layers, convolutions and
    normalisations, the shift of a batch normalisation, and constant tensors that are added. A
    token's relevance in a deep layer is that of the inputs on its residual path, merged tokens
    share it equally; learned queries keep what reaches them, so sums without it are smaller. Use it
    with `backward="libra"`, where it is among the most faithful maps; under the plain gradient it
    is noisy.
    """
    if passed.graph.lost and (biases or layers == "all"):
        raise TraceError(
            f"{passed.graph.lost}; layers='input', biases=False asks for the part of fullgrad-plus "
            "that needs no more than the tokens that enter"
        )
    rows: dict[int, Tensor] = {}
    entered = _entered(passed.graph)
    for state, activation, tokens in _inputs(passed.graph):
        product = passed.input_x_gradient(activation)
        if product is None:
            continue
        row = per_token(product, activation, tokens)
        if state.kind == "join":
            row = moved(state.links[0], row, passed.graph.states)
            state = passed.graph.states[state.links[0].parent]
        if layers == "input":
            row = torch.where(entered[state.index].to(row.device), 0, row)
        _add(rows, state.index, row)
    if biases:
        _add_biases(passed, entered, rows)
    return push_rows(passed, PropagationRule(head_mean, residual_alone, None, gradient=False), rows)


def _add(rows: dict[int, Tensor], index: int, row: Tensor) -> None:
    known = rows.get(index)
    rows[index] = row if known is None else known + row


def _inputs(graph: TokenGraph) -> Iterator[tuple[State, Activation, int]]:
    """What enters every layer, once; tokens that only serve as keys count where they appear."""
    parents = {link.parent for state in graph.states for link in state.links}
    seen = set()
    for state in graph.states:
        joins = state.kind == "join" and state.links
        found = state.residual if joins else state.stream
        if found is None or found.edge is None or not (joins or _is_only_read(state, parents)):
            continue
        place = (found.edge.node, found.edge.output_nr)
        if place not in seen:
            seen.add(place)
            yield state, found, state.tokens


def _is_only_read(state: State, parents: set[int]) -> bool:
    return state.kind in ("source", "concatenation") and state.index not in parents


def _entered(graph: TokenGraph) -> list[Tensor]:
    """For every state, which tokens have already been through a layer."""
    entered: list[Tensor] = []
    for state in graph.states:
        joined = torch.full((state.tokens,), state.kind == "join")
        entered.append(joined | made_of_flagged(state, entered))
    return entered


def _add_biases(passed: RecordedPass, entered: list[Tensor], rows: dict[int, Tensor]) -> None:
    graph = passed.graph
    entries = _entries(graph)
    for bias in passed.biases:
        gradient = passed.gradient(bias.output)
        if gradient is None:
            continue
        value = bias.value.to(gradient.device)
        row = per_token(value * gradient, bias.output, bias.tokens) / len(bias.links)
        for link in bias.links:
            part = moved(link, row, graph.states)
            if _when(bias.output) <= entries[link.parent]:
                part = torch.where(entered[link.parent].to(part.device), part, 0)
            _add(rows, link.parent, part)


def _entries(graph: TokenGraph) -> list[float]:
    """When the tokens of every state became the input of a layer; what came before made them."""
    found: list[float | None] = [None] * len(graph.states)
    for state in reversed(graph.states):
        children = [one for one in graph.states if any(k.parent == state.index for k in one.links)]
        joins = [one.residual for one in children if one.kind == "join" and one.residual]
        later = [when for one in children if (when := found[one.index]) is not None]
        if state.kind == "join":
            found[state.index] = -math.inf
        elif joins:
            found[state.index] = min(_when(one) for one in joins)
        elif later and not all(one.kind == "join" for one in children):
            found[state.index] = min(later)
        elif state.stream is not None and state.kind in ("source", "learned", "concatenation"):
            found[state.index] = _when(state.stream)
    for state in graph.states:
        if found[state.index] is None:
            above = [when for link in state.links if (when := found[link.parent]) is not None]
            found[state.index] = max(above, default=-math.inf)
    return [-math.inf if when is None else when for when in found]


def _when(activation: Activation) -> float:
    """The place of an activation in the order in which autograd saw the forward pass."""
    if activation.edge is None:
        return -math.inf
    order = autograd_order(activation.edge.node)
    return -math.inf if order is None else float(order)
