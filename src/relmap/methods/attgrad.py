"""AttGrad: attention times its gradient in one layer, signed."""

from __future__ import annotations

from torch import Tensor

from relmap.methods import METHODS
from relmap.relevance.attention_maps import Tile
from relmap.relevance.one_layer import read_layer
from relmap.relevance.rows import RecordedPass


@METHODS.register(
    "attgrad",
    aliases=("attention-x-gradient", "att-grad"),
    reference="Liu et al., ICML 2022 (Faithfulness Violation Test); Barkan et al. 2021",
    needs=("attention", "attention-gradient", "contribution"),
    target_dependent=True,
)
def attgrad(passed: RecordedPass, *, layer: int = -1) -> dict[int, Tensor]:
    """Attention times its gradient in one layer, summed over heads, with its sign.

    R = sum_h A_h * dA_h, row of the read-out token. Use it where the sign matters (which tokens
    speak against the target); it sees a single layer.
    """
    return read_layer(passed, layer, lambda one, call: _signed, gradient=True)


def _signed(tile: Tile) -> Tensor:
    assert tile.gradient is not None
    return (tile.probabilities * tile.gradient).sum(dim=1)
