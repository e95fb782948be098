"""Raw attention: what the read-out token attends to in one layer."""

from __future__ import annotations

from torch import Tensor

from relmap.algebra import head_mean
from relmap.methods import METHODS
from relmap.propagate import RecordedPass
from relmap.single_layer import read_layer


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
