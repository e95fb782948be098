"""Attention Grad-CAM: the attention heads of one layer, weighted by their mean gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor

from relmap.methods import METHODS
from relmap.relevance.attention_maps import Tile, require_all_heads, wide
from relmap.relevance.one_layer import read_layer
from relmap.relevance.rows import RecordedPass
from relmap.relevance.streams import made_by_inputs
from relmap.trace.graph import Attention


@METHODS.register(
    "attention-gradcam",
    aliases=("gradcam", "grad-cam", "attn-gradcam"),
    reference="Selvaraju et al. 2017 on attention, as Chefer et al. CVPR and ICCV 2021 compute it",
    needs=("attention", "attention-gradient"),
    target_dependent=True,
)
def attention_gradcam(
    passed: RecordedPass, *, layer: int = -1, pool: Literal["matrix", "row"] = "matrix"
) -> dict[int, Tensor]:
    """Head maps of one layer weighted by their mean gradient, clamped.

    R = max(E_h[w_h A_h], 0) with w_h the mean of dA_h over the whole matrix (`pool="matrix"`: the
    BERT, LXMERT, VisualBERT and DETR code), or over the read-out row and the input-made columns
    (`pool="row"`: the ViT code). Use it as the classic baseline; it often fails on transformers.
    """
    made = made_by_inputs(passed.graph)

    def mix(one: RecordedPass, call: Attention) -> Callable[[Tile], Tensor]:
        require_all_heads(call)
        if pool == "row":
            return _row_pool(call, made[call.key_state])
        return _matrix_pool(one, call)

    return read_layer(passed, layer, mix, gradient=True)


def _matrix_pool(passed: RecordedPass, call: Attention) -> Callable[[Tile], Tensor]:
    """w_h = mean_qk dA = (mean_q dO_q) . (mean_k v_k), since dA = dO v^T."""
    gradient = passed.gradient(call.output)
    if gradient is None:
        gradient = call.value.new_zeros(call.output.shape)
    rows = wide(call.output_arrangement.apply(gradient)).mean(dim=2)
    keys = wide(call.value).mean(dim=2)
    keys = keys.repeat_interleave(rows.shape[1] // keys.shape[1], dim=1)
    weights = (rows * keys).sum(dim=-1)[:, :, None, None]
    return lambda tile: (weights * tile.probabilities).mean(dim=1).clamp_min(0)


def _row_pool(call: Attention, made: Tensor) -> Callable[[Tile], Tensor]:
    columns = call.column_tokens.to(made.device)
    content = (made[columns.clamp_min(0)] & (columns >= 0))[:, None, None, :]

    def mix(tile: Tile) -> Tensor:
        assert tile.gradient is not None
        kept = content.to(tile.gradient.device)
        count = kept.sum(dim=-1, keepdim=True).clamp_min(1)
        weights = (tile.gradient * kept).sum(dim=-1, keepdim=True) / count
        return (weights * tile.probabilities).mean(dim=1).clamp_min(0)

    return mix
