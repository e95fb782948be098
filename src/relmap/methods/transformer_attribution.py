"""Transformer Attribution (Chefer, Gur & Wolf, CVPR 2021).

Every attention map is weighted by its relevance and its gradient, and the layers are multiplied as
in rollout:

    E = E_h[(dA * R_A)+],    C = (I + E_L) ... (I + E_s)                  (eq. 13, 14)

with R_A from Deep Taylor rules (backward `deep-taylor`). With cross-attention the streams' own
tokens follow their self-attentions, and the other stream is read off the last cross-attention
alone, as the code of ICCV 2021 compares itself with this method on LXMERT and DETR.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from relmap.methods import METHODS
from relmap.relevance.attention_maps import Tile, attention_rows, mean_over_heads
from relmap.relevance.join_weights import added_up, row_normalized
from relmap.relevance.one_layer import read_layer
from relmap.relevance.rows import PropagationRule, RecordedPass, push_rows, stream_layers
from relmap.relevance.streams import crosses, has_cross_attention
from relmap.trace.graph import TokenGraph


@METHODS.register(
    "transformer-attribution",
    aliases=("tiba", "transatt", "chefer-2021a"),
    reference="Chefer, Gur & Wolf, CVPR 2021, eq. 13-14",
    needs=("attention", "attention-gradient", "attention-relevance"),
    target_dependent=True,
    backward="deep-taylor",
    renamed={"blocks": "layers"},
)
def transformer_attribution(
    passed: RecordedPass,
    *,
    start_layer: int = 0,
    normalize: bool = False,
    layers: Literal["all", "first", "last"] = "all",
    gradient: bool = True,
    relevance: bool = True,
) -> dict[int, Tensor]:
    """Relevance-weighted, gradient-weighted attention, multiplied over the layers.

    `start_layer` skips the first layers: the authors evaluate ViT at 1 and BERT-base at 11 (its
    last layer). `normalize` divides the rows of I + E by their sum (their BERT code; ViT and
    VisualBERT have it off). The ablations of the paper: `layers` takes one layer alone, "first"
    next to the input or "last" next to the output; `gradient=False` drops dA; `relevance=False`
    has A in the place of R_A. Use it for image and text classifiers with one read-out token; it
    costs two and a half times GenAtt, to which it is close in faithfulness.
    """
    graph = passed.graph
    chosen = _calls_of(graph, layers)

    def weighted(tile: Tile) -> Tensor:
        if tile.attention.index not in chosen:
            return tile.probabilities.new_zeros(tile.probabilities.mean(dim=1).shape)
        own = tile.probabilities if relevance else attention_rows(tile.attention, tile.rows)
        if gradient:
            assert tile.gradient is not None
            own = own * tile.gradient
        return mean_over_heads(tile, own.clamp_min(0))

    def within_streams(tile: Tile) -> Tensor:
        call = tile.attention
        found = weighted(tile)
        return found * 0 if crosses(graph, call.query_state, call.key_state) else found

    weigh = row_normalized if normalize else added_up
    if not has_cross_attention(graph):
        return push_rows(passed, PropagationRule(weighted, weigh, None, gradient, start_layer))
    found = push_rows(passed, PropagationRule(within_streams, weigh, None, gradient, start_layer))
    across = read_layer(passed, -1, lambda one, call: weighted, gradient, crossing=True)
    for state, part in across.items():
        found[state] = found[state] + part if state in found else part
    return found


def _calls_of(graph: TokenGraph, which: str) -> set[int]:
    """The attention calls of every layer, or of each stream's first or last."""
    if which == "all":
        return {call.index for call in graph.attentions}
    layers = stream_layers(graph)
    depth: dict[int, int] = {}
    for root, layer in layers.values():
        depth[root] = max(depth.get(root, 0), layer)
    return {
        index
        for state, (root, layer) in layers.items()
        if layer == (0 if which == "first" else depth[root])
        for index in graph.states[state].attentions
    }
