"""AttCAT: tokens' Input x Gradient in every layer, weighted by the attention they receive.

    CAT^l_j = sum_d h^l_jd dy/dh^l_jd
    AttCAT_j = sum_l mean_{h,i}(A^l_hij) CAT^l_j                     (Qiang et al. 2022, eq. 7-9)

with h^l the residual stream that enters layer l.
"""

from __future__ import annotations

import torch
from torch import Tensor

from relmap.methods import METHODS
from relmap.relevance.attention_maps import Tile, head_mean, per_token
from relmap.relevance.join_weights import residual_alone
from relmap.relevance.rows import (
    PropagationRule,
    RecordedPass,
    mixing,
    moved,
    on_keys,
    push_rows,
    skipped_joins,
)
from relmap.trace.graph import Attention, State


@METHODS.register(
    "attcat",
    aliases=("att-cat", "attentive-class-activation-tokens"),
    reference="Qiang et al., NeurIPS 2022, eq. 7-9",
    needs=("attention", "attention-gradient", "stream-gradient"),
    target_dependent=True,
)
def attcat(
    passed: RecordedPass, *, attention: bool = True, start_layer: int = 0
) -> dict[int, Tensor]:
    """Input x Gradient of every layer times the mean attention to the token, summed with its sign.

    R_j = sum_l mean_{h,i}(A^l_hij) <h^l_j, dy/dh^l_j>, the means over heads and over the queries
    that share a softmax with j (a window's, say). `attention=False` leaves A out (the paper's CAT),
    `start_layer` skips the first layers of each stream. In cross-attention, of which the paper does
    not speak, the keys belong to no layer input; there the values v_j take the place of h_j. Use it
    for text classifiers and, with `backward="libra"`, for images; under the plain gradient it is
    noisy on deep image models.
    """
    graph = passed.graph
    skipped = skipped_joins(graph, start_layer)
    rows: dict[int, Tensor] = {}
    for state in graph.states:
        if state.kind != "join" or state.index in skipped:
            continue
        entering = _entering(passed, state)
        for index in state.attentions:
            call = graph.attentions[index]
            received = _received(passed, call) if attention else None
            if entering is not None and state.links[0].parent == call.key_state:
                product = entering
            else:
                product = _values(passed, call)
            row = product if received is None else product * received
            known = rows.get(call.key_state)
            rows[call.key_state] = row if known is None else known + row
    return push_rows(passed, PropagationRule(head_mean, residual_alone, None, gradient=False), rows)


def _entering(passed: RecordedPass, state: State) -> Tensor | None:
    """CAT: Input x Gradient of the stream that enters a layer, on the tokens of its parent."""
    if not state.links:
        return None
    product = passed.input_x_gradient(state.residual)
    if product is None or state.residual is None:
        return torch.zeros(
            passed.graph.states[state.links[0].parent].tokens, device=passed.graph.device()
        )
    row = per_token(product, state.residual, state.tokens)
    return moved(state.links[0], row, passed.graph.states)


def _received(passed: RecordedPass, call: Attention) -> Tensor:
    """Attention that every key receives: mean over heads and over the queries of its group."""
    rule = PropagationRule(head_mean, residual_alone, None, gradient=False)
    parts = [part.sum(dim=1) for _, part in mixing(passed, rule, call)]
    queries = (call.row_tokens >= 0).sum(dim=1, keepdim=True).clamp_min(1)
    total = torch.stack(parts).sum(dim=0)
    return _mean_on_keys(call, total / queries.to(total.device))


def _mean_on_keys(call: Attention, values: Tensor) -> Tensor:
    """Values of the keys of a call on their tokens; a token that is a key several times: mean."""
    counts = on_keys(call, torch.ones_like(values))
    return on_keys(call, values) / counts.clamp_min(1)


def _values(passed: RecordedPass, call: Attention) -> Tensor:
    """<v_j, dy/dv_j> = sum_{h,i} A_hij dA_hij, since dA = dO v^T."""
    rule = PropagationRule(_signed, residual_alone, None)
    parts = [part.sum(dim=1) for _, part in mixing(passed, rule, call)]
    return on_keys(call, torch.stack(parts).sum(dim=0))


def _signed(tile: Tile) -> Tensor:
    assert tile.gradient is not None
    return (tile.probabilities * tile.gradient).sum(dim=1)
