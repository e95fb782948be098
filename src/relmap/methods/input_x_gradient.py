"""Input x Gradient at the tokens that enter the first attention."""

from __future__ import annotations

from torch import Tensor

from relmap.methods import METHODS
from relmap.relevance.entering_tokens import read_entrance
from relmap.relevance.traced_pass import RecordedPass


@METHODS.register(
    "input-x-gradient",
    aliases=("inputgrad", "ixg", "gradient-x-input"),
    reference="Shrikumar et al. 2016; Liu et al., ICML 2022 (InputGrad)",
    needs=("stream-gradient",),
    target_dependent=True,
)
def input_x_gradient(passed: RecordedPass) -> dict[int, Tensor]:
    """Token embedding times its gradient, summed over features, with its sign.

    R_j = sum_d x_jd dy/dx_jd with x the residual stream entering the first attention (embedding,
    position and learned tokens included). Use it as the cheapest signed baseline; noisy on deep
    networks unless the backward is a conserving one.
    """
    return read_entrance(passed, passed.input_x_gradient)
