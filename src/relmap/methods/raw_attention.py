"""Raw attention: what the read-out token attends to in one layer."""

from __future__ import annotations

from torch import Tensor

from relmap.methods import METHODS
from relmap.relevance.attention_maps import head_mean
from relmap.relevance.one_layer import read_layer
from relmap.relevance.rows import RecordedPass


@METHODS.register(
    "raw-attention",
    aliases=("attention", "raw", "attn-last-layer"),
    reference="Chefer, Gur & Wolf, ICCV 2021, baselines (raw attention)",
    needs=("attention",),
    target_dependent=False,
)
def raw_attention(passed: RecordedPass, *, layer: int = -1) -> dict[int, Tensor]:
    """Attention of the read-out token in one layer, averaged over heads.

    R = E_h[A^(layer)], row of the read-out token; in a stream with cross-attention the last
    self-attention scores the stream's own tokens and the last cross-attention the others'. Use it
    as the simplest baseline; it knows nothing of the target class or of other layers.
    """
    return read_layer(passed, layer, lambda one, call: head_mean, gradient=False)
