"""Methods that read one attention layer alone, as raw attention and attention Grad-CAM do.

The layer is counted along the residual stream of each final state, self-attention and
cross-attention apart. Its keys stand for the inputs at the same places: from the layer down,
relevance follows the residual stream only.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from relmap.errors import InputError
from relmap.relevance.attention_maps import Tile, head_mean
from relmap.relevance.join_weights import residual_alone
from relmap.relevance.rows import (
    PropagationRule,
    RecordedPass,
    link_weights,
    mixing,
    moved,
    on_keys,
    push_rows,
    row_relevance,
)
from relmap.relevance.streams import crosses, own_leaves, residual_chain
from relmap.trace.graph import Attention, State, TokenGraph

LayerMix = Callable[[RecordedPass, Attention], Callable[[Tile], Float[Tensor, "group row key"]]]
"""From a call to the function that gives its rows of E."""


def read_layer(
    passed: RecordedPass, layer: int, mix: LayerMix, gradient: bool, crossing: bool = False
) -> dict[int, Tensor]:
    """Relevance of the rows that the target reads in one layer.

    With `crossing`, of cross-attention alone.

    Raises:
        InputError: the layer does not exist in any stream.
    """
    keys: dict[int, Tensor] = {}
    has_layer = False
    most = 0
    for final, row in passed.readout.items():
        for read, sublayers in _groups(passed, final, row).items():
            if crossing and not read:
                continue
            most = max(most, len(sublayers))
            if not -len(sublayers) <= layer < len(sublayers):
                continue
            has_layer = True
            state, here = sublayers[layer]
            for index in state.attentions:
                call = passed.graph.attentions[index]
                pushed = _read(passed, state, call, here, mix, gradient)
                known = keys.get(call.key_state)
                keys[call.key_state] = pushed if known is None else known + pushed
    if not has_layer:
        raise InputError(
            f"layer={layer} does not exist: the deepest stream of this network has {most} "
            f"attention layers (0 to {most - 1}, or -{most} to -1)"
        )
    identity = PropagationRule(head_mean, residual_alone, None, gradient=False)
    return push_rows(passed, identity, keys)


def _groups(
    passed: RecordedPass, final: int, row: Tensor
) -> dict[tuple[int, ...], list[tuple[State, Tensor]]]:
    """Attention sub-layers of a stream, oldest first, by what they read: itself or another."""
    graph = passed.graph
    groups: dict[tuple[int, ...], list[tuple[State, Tensor]]] = {}
    for state, here in _down_the_stream(passed, final, row):
        if state.kind == "join":
            key = graph.attentions[state.attentions[0]].key_state
            groups.setdefault(_reads(graph, state, key), []).insert(0, (state, here))
    return groups


def _reads(graph: TokenGraph, state: State, key: int) -> tuple[int, ...]:
    return own_leaves(graph, key) if crosses(graph, state.index, key) else ()


def _down_the_stream(passed: RecordedPass, final: int, row: Tensor) -> list[tuple[State, Tensor]]:
    chain = residual_chain(passed.graph, final)
    reached = [(chain[0], row)]
    for state, parent in itertools.pairwise(chain):
        here = torch.zeros(parent.tokens, dtype=row.dtype, device=row.device)
        ones = [1.0] if state.kind == "join" else link_weights(passed, state)
        for link, weight in zip(state.links, ones, strict=True):
            if link.parent == parent.index:
                here = here + moved(link, reached[-1][1] * weight, passed.graph.states)
        reached.append((parent, here))
    return reached


def _read(
    passed: RecordedPass, state: State, call: Attention, row: Tensor, mix: LayerMix, gradient: bool
) -> Tensor:
    queries = row if state.rows is None else moved(state.rows, row, passed.graph.states)
    rule = PropagationRule(mix(passed, call), residual_alone, None, gradient)
    pushed = torch.zeros(
        call.column_tokens.shape, dtype=torch.float32, device=passed.graph.device()
    ).to(call.value.dtype if call.value.dtype == torch.float64 else torch.float32)
    for rows, values in mixing(passed, rule, call, queries):
        tokens = call.row_tokens[:, rows].to(queries.device)
        weight = row_relevance(call, tokens, queries).to(values.dtype)
        pushed = pushed + torch.einsum("gr,grk->gk", weight, values)
    return on_keys(call, pushed)
