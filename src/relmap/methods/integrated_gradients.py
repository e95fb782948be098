"""Integrated gradients at the tokens that enter the network.

    R_j = sum_d (x_jd - x'_jd) 1/m sum_k dy/dx_jd (x' + (k - 1/2)/m (x - x'))

(Sundararajan et al. 2017, eq. 1, by the midpoint rule).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from relmap.errors import InputError
from relmap.methods import METHODS
from relmap.relevance.attention_maps import per_token, wide
from relmap.relevance.entering_tokens import blank, entering_tokens
from relmap.relevance.traced_pass import RecordedPass
from relmap.trace.graph import Activation


@METHODS.register(
    "integrated-gradients",
    aliases=("ig", "integrated-gradient", "path-integrated-gradients"),
    reference="Sundararajan, Taly & Yan, ICML 2017, eq. 1",
    needs=("replay",),
    target_dependent=True,
)
def integrated_gradients(
    passed: RecordedPass, *, steps: int = 20, baseline: Literal["zero", "mean"] = "zero"
) -> dict[int, Tensor]:
    """Gradient averaged on the way from a baseline to the tokens, times the way, with its sign.

    R_j = sum_d (x - x')_jd mean_k dy/dx_jd at `steps` points between x' and x, with x the tokens as
    they enter the network (word embeddings, patch embeddings with the class token) and x' zero or,
    with `baseline="mean"`, the mean token of the example; all inputs go the way together, positions
    stay. The scores sum to y(x) - y(x') as `steps` grow. Costs `steps` forward and backward passes.
    Use it where the scores must add up to a change of the prediction.

    Raises:
        InputError: `steps` is below 1, or the tokens cannot be replaced.
    """
    if steps < 1:
        raise InputError(f"steps={steps}: give at least 1")
    replay = passed.replay
    states = entering_tokens(passed)
    ends = {one: replay.value(one) for one in states.values()}
    starts = {one: blank(passed, state, one, ends[one], baseline) for state, one in states.items()}
    sums: dict[Activation, Tensor] = {one: torch.zeros_like(wide(end)) for one, end in ends.items()}
    for step in range(steps):
        share = (step + 0.5) / steps
        with torch.enable_grad():
            given = {
                one: (starts[one] + share * (end - starts[one])).detach().requires_grad_()
                for one, end in ends.items()
            }
            values = replay.target(given)
            found = torch.autograd.grad(values.sum(), list(given.values()), allow_unused=True)
        for one, gradient in zip(given, found, strict=True):
            if gradient is not None:
                sums[one] += wide(gradient)
    return {
        state: per_token(
            wide(ends[one] - starts[one]) * sums[one] / steps, one,
            passed.graph.states[state].tokens,
        )
        for state, one in states.items()
    }  # fmt: skip
