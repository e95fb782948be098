"""Attention rollout: attention maps multiplied from layer to layer.

Every layer mixes tokens by the head-mean attention and keeps half by its residual connection,

    A' = (I + E_h A) / rowsum,    R <- A' R        (Abnar & Zuidema 2020, eq. 1),

and between modalities the last cross-attention alone counts, R_mn = R_mm^T (E_h A) R_nn (WRA,
eq. 24-26, after GenAtt's LXMERT and DETR code).
"""

from __future__ import annotations

import torch
from torch import Tensor

from relmap.methods import METHODS
from relmap.relevance.attention_maps import clamped_head_mean
from relmap.relevance.join_weights import added_up, row_normalized
from relmap.relevance.maps import Maps, carry_maps, read_rows
from relmap.relevance.rows import PropagationRule, RecordedPass, push_rows
from relmap.relevance.streams import crosses, has_cross_attention, own_leaves
from relmap.trace.graph import State


def rollout_maps(passed: RecordedPass, normalize: bool, start_layer: int) -> Maps:
    """The whole map R of every state, with the options of `rollout`."""
    rule = _rule(normalize, start_layer)
    if not has_cross_attention(passed.graph):
        return carry_maps(passed, rule)

    def update(
        maps: Maps, state: State, residual: dict[int, Tensor], calls: list[tuple[int, Tensor]]
    ) -> dict[int, Tensor]:
        return _update(maps, rule, state, residual, calls)

    return carry_maps(passed, rule, update)


@METHODS.register(
    "rollout",
    aliases=("attention-rollout",),
    reference="Abnar & Zuidema, ACL 2020, eq. 1; Huang et al. 2023 (WRA), eq. 24-26",
    needs=("attention",),
    target_dependent=False,
    maps=rollout_maps,
)
def rollout(
    passed: RecordedPass, *, normalize: bool = True, start_layer: int = 0
) -> dict[int, Tensor]:
    """Attention maps with half an identity each, multiplied over the layers.

    R <- (I + E_h A) R, rows divided by their sum with `normalize` (False: GenAtt's VisualBERT
    setting). `start_layer` skips the first layers of each stream (1: the ViT evaluation of Chefer
    et al. 2021). Use it as a baseline that knows nothing of the target; it cannot tell classes
    apart.
    """
    if has_cross_attention(passed.graph):
        return read_rows(rollout_maps(passed, normalize, start_layer))
    return push_rows(passed, _rule(normalize, start_layer))


def _rule(normalize: bool, start_layer: int) -> PropagationRule:
    return PropagationRule(
        clamped_head_mean, row_normalized if normalize else added_up, None, False, start_layer
    )


def _update(
    maps: Maps, rule: PropagationRule, state: State, residual: dict[int, Tensor],
    calls: list[tuple[int, Tensor]],
) -> dict[int, Tensor]:  # fmt: skip
    """Self-attention multiplies the stream's own block; cross-attention replaces the other's."""
    own = own_leaves(maps.graph, state.index)
    blocks = dict(residual)
    inside = [(key, mixed) for key, mixed in calls if not crosses(maps.graph, state.index, key)]
    if inside:
        sums = torch.stack([mixed.sum(-1) for _, mixed in inside]).sum(0)
        kept, taken = rule.weigh(sums, None)
        for leaf in own:
            if leaf not in residual:
                continue
            blocks[leaf] = residual[leaf] * kept[..., None] + sum(
                (mixed * taken[..., None]) @ maps.block(key, leaf) for key, mixed in inside
            )
    for key, mixed in calls:
        if not crosses(maps.graph, state.index, key):
            continue
        root = maps.units[state.index]
        mine = _on_own_tokens(residual, root, own)
        for leaf in own_leaves(maps.graph, key):
            blocks[leaf] = mine.transpose(-1, -2) @ (mixed @ maps.block(key, leaf))
    return blocks


def _on_own_tokens(
    residual: dict[int, Tensor], root: dict[int, Tensor], own: tuple[int, ...]
) -> Tensor:
    """The map of a stream onto its own tokens, as a square matrix."""
    parts = [residual[leaf] @ root[leaf].transpose(-1, -2) for leaf in own if leaf in root]
    return torch.stack(parts).sum(0)
