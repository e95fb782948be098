"""Partial LRP: the relevance of one attention layer (Voita et al., ACL 2019)."""

from __future__ import annotations

from torch import Tensor

from relmap.methods import METHODS
from relmap.relevance.attention_maps import Tile, mean_over_heads
from relmap.relevance.one_layer import read_layer
from relmap.relevance.rows import RecordedPass


@METHODS.register(
    "partial-lrp",
    aliases=("lrp-last-layer",),
    reference="Voita et al., ACL 2019; as a baseline in Chefer, Gur & Wolf, CVPR 2021",
    needs=("attention", "attention-gradient", "attention-relevance"),
    target_dependent=True,
    backward="lrp",
)
def partial_lrp(
    passed: RecordedPass, *, layer: int = -1, clamp: bool = True, gradient: bool = False
) -> dict[int, Tensor]:
    """Relevance of the attention maps of one layer, averaged over heads.

    R = E_h[R_A+], row of the read-out token; `clamp=False` keeps the sign (with the backward
    `deep-taylor`: the VisualBERT, LXMERT and DETR baselines), `gradient=True` weighs R_A by dA
    first (the ablation of the ViT code). Use it as a baseline; it sees a single layer.
    """

    def mixed(tile: Tile) -> Tensor:
        own = tile.probabilities
        if gradient:
            assert tile.gradient is not None
            own = own * tile.gradient
        return mean_over_heads(tile, own.clamp_min(0) if clamp else own)

    return read_layer(passed, layer, lambda one, call: mixed, gradient)
