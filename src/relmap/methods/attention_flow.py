"""Attention flow: how much can flow from the read-out token to each input over the attentions.

Tokens of all layers are nodes, every attention and every residual connection is an edge with the
capacity it has in A' = (I + E_h A) / rowsum, which is 0.5 I + 0.5 E_h A (Abnar & Zuidema 2020,
section 3). The relevance of an input is the maximum flow to it, divided by the sum over all inputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Literal

import torch
from torch import Tensor

from relmap.errors import InputError
from relmap.methods import METHODS
from relmap.relevance.attention_maps import Tile, gradient_weighted, head_mean, mean_over_heads
from relmap.relevance.join_weights import row_normalized
from relmap.relevance.rows import PropagationRule, RecordedPass, mixing
from relmap.trace.graph import Attention, Link, State, TokenGraph

EDGES = 20_000
"""Most edges of the graph of one example; beyond that the flows would take minutes."""

_WHOLE = 1 << 40  # capacities are integers of this unit: flows of floats may never end
Node = tuple[int, int]


@METHODS.register(
    "attention-flow",
    aliases=("flow", "max-flow"),
    reference="Abnar & Zuidema, ACL 2020, section 3; GF and AGF as in GMAR (2025)",
    needs=("attention", "attention-gradient"),
    target_dependent=False,
    requires="small inputs: at most 20 000 pairs of attending tokens in all layers together",
)
def attention_flow(
    passed: RecordedPass,
    *,
    capacities: Literal["attention", "gradient", "attention-gradient"] = "attention",
) -> dict[int, Tensor]:
    """Maximum flow through the attentions from the read-out token to every input, normalised.

    R_j = maxflow(read-out -> j) / sum_j' maxflow(read-out -> j'), on edges of capacity
    0.5 E_h A + 0.5 I; a join without residual has E_h A alone. `capacities` takes E_h(dA)+
    ("gradient", GF) or E_h(A * dA)+ ("attention-gradient", AGF) in the place of E_h A; both depend
    on the target, where the original does not. Where the target reads several tokens, each lets
    through its share. Use it on single sentences and tiny images, where it is smoother than
    rollout; a flow for every token costs too much for more, and the method then refuses.

    Raises:
        InputError: an example has too many pairs of attending tokens.
    """
    _check_size(passed.graph)
    edges = _edges(passed, _MIXES[capacities], capacities != "attention")
    dtype = next(iter(passed.readout.values())).dtype
    relevance = {
        source.state: torch.zeros(passed.graph.states[source.state].tokens, dtype=dtype)
        for source in passed.graph.sources
    }
    for starts in _starts(passed):
        flows = _flows(edges, starts, relevance.keys())
        total = sum(flows.values())
        for (state, token), flow in flows.items():
            relevance[state][token] += flow / total if total else 0.0
    return {state: values.to(passed.graph.device()) for state, values in relevance.items()}


def _gradient(tile: Tile) -> Tensor:
    assert tile.gradient is not None
    return mean_over_heads(tile, tile.gradient.clamp_min(0))


_MIXES: dict[str, Callable[[Tile], Tensor]] = {
    "attention": head_mean, "gradient": _gradient, "attention-gradient": gradient_weighted
}  # fmt: skip


def _check_size(graph: TokenGraph) -> None:
    pairs = sum(call.row_tokens.numel() * call.column_tokens.shape[1] for call in graph.attentions)
    if pairs > EDGES * graph.batch:
        raise InputError(
            f"attention-flow solves a maximum flow for every token, here over "
            f"{pairs // graph.batch} pairs of attending tokens for each example; it takes at most "
            f"{EDGES}. Shorten the input, or use method='rollout', which approximates it."
        )


def _starts(passed: RecordedPass) -> list[dict[Node, float]]:
    """The tokens that the target reads, for every example and every group of final states."""
    graph, found = passed.graph, []
    for group in graph.finals:
        for example in range(graph.batch):
            starts: dict[Node, float] = {}
            for index in group:
                row = passed.readout[index].cpu()
                tokens = torch.nonzero((row > 0) & (graph.examples[index] == example)).flatten()
                starts |= {(index, token): float(row[token]) for token in tokens.tolist()}
            if starts:
                found.append(starts)
    return found


def _edges(
    passed: RecordedPass, mix: Callable[[Tile], Tensor], gradient: bool
) -> dict[Node, dict[Node, float]]:
    """Where every token may send its relevance, and how much; None of a link is limited."""
    graph, edges = passed.graph, {}
    reported = {source.state for source in graph.sources}
    for state in graph.states:
        if state.kind == "join":
            _add_join(passed, state, PropagationRule(mix, row_normalized, None, gradient), edges)
        elif state.index not in reported:
            for link in state.links:
                for child, parent in _pairs(link, state.tokens):
                    _add(edges, (state.index, child), (link.parent, parent), math.inf)
    return edges


def _add_join(
    passed: RecordedPass, state: State, rule: PropagationRule, edges: dict[Node, dict[Node, float]]
) -> None:
    """(I + E) / rowsum of one join; rows of several calls are rows of one map."""
    calls = [passed.graph.attentions[index] for index in state.attentions]
    whole = [(call, _matrix(passed, rule, call, state)) for call in calls]
    totals = torch.stack([matrix.sum(dim=1) for _, matrix in whole]).sum(dim=0)
    own = list(range(state.tokens)) if state.rows is None else [-1] * state.tokens
    for child, row in () if state.rows is None else _pairs(state.rows, state.tokens):
        own[child] = row
    kept = 1.0 if state.links else 0.0
    for child, row in enumerate(own):
        total = kept + (float(totals[row]) if row >= 0 else 0.0)
        for call, matrix in whole if row >= 0 and total else ():
            for key in torch.nonzero(matrix[row]).flatten().tolist():
                capacity = float(matrix[row, key]) / total
                _add(edges, (state.index, child), (call.key_state, key), capacity)
        for link in state.links[:1]:
            for _, parent in (pair for pair in _pairs(link, state.tokens) if pair[0] == child):
                _add(edges, (state.index, child), (link.parent, parent), kept / total)


def _matrix(passed: RecordedPass, rule: PropagationRule, call: Attention, state: State) -> Tensor:
    """E of a call between the tokens of its query state and those of its key state."""
    count = max(int(call.row_tokens.max()) + 1, state.tokens)
    matrix = torch.zeros(count, call.key_tokens, dtype=torch.float64)
    columns = call.column_tokens
    for rows, values in mixing(passed, rule, call):
        tokens = call.row_tokens[:, rows]
        both = (tokens[:, :, None] >= 0) & (columns[:, None, :] >= 0)
        at = (tokens[:, :, None] * call.key_tokens + columns[:, None, :])[both]
        matrix.view(-1).index_add_(0, at.cpu(), values.double().cpu()[both.cpu()])
    if call.row_copies is not None:
        matrix[: len(call.row_copies)] /= call.row_copies.cpu()[:, None]
    return matrix


def _pairs(link: Link, tokens: int) -> list[Node]:
    if link.child_tokens is None or link.parent_tokens is None:
        return [(token, token) for token in range(tokens)]
    return list(zip(link.child_tokens.tolist(), link.parent_tokens.tolist(), strict=True))


def _add(edges: dict[Node, dict[Node, float]], start: Node, end: Node, capacity: float) -> None:
    known = edges.setdefault(start, {})
    known[end] = known.get(end, 0.0) + capacity


def _flows(
    edges: Mapping[Node, Mapping[Node, float]], starts: Mapping[Node, float],
    sinks: Collection[int],
) -> dict[Node, float]:  # fmt: skip
    """The maximum flow from the tokens that are read to every token of the given states."""
    from networkx import DiGraph, maximum_flow_value
    from networkx.algorithms.flow import build_residual_network, shortest_augmenting_path

    network, origin = DiGraph(), (-1, -1)
    waiting, seen = list(starts), set(starts)
    for node, share in starts.items():
        network.add_edge(origin, node, capacity=round(share * _WHOLE))
    while waiting:
        node = waiting.pop()
        for end, capacity in edges.get(node, {}).items():
            network.add_edge(
                node, end, capacity=capacity if capacity == math.inf else round(capacity * _WHOLE)
            )
            if end not in seen:
                seen.add(end)
                waiting.append(end)
    residual = build_residual_network(network, "capacity")
    return {
        node: maximum_flow_value(
            network, origin, node, flow_func=shortest_augmenting_path, residual=residual
        ) / _WHOLE
        for node in sorted(seen) if node[0] in sinks
    }  # fmt: skip
