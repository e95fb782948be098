"""WRA: weighted relevance accumulation (Huang, Jia, Zhang & Zhang, MM Asia 2023).

The relevance map before and after an attention is averaged by how much each of the two counts for
the prediction, so that rows keep summing to 1:

    R <- alpha R + beta Norm(E_h[(A * dA)+]) R_keys,   beta = 1 - alpha           (eq. 1-4, 9-14)
    alpha = E[(Y * dY)+] / (E[(Y * dY)+] + E[(Y' * dY')+])                        (eq. 5-7, 15)

with Y the residual stream entering the sub-layer and Y' the attention output that is added to it.
The paper's equations survive only in prose; this is the reconstruction with the fewest guesses.
Which choices are guesses is said at each option.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from relmap.methods import METHODS
from relmap.relevance.attention_maps import gradient_weighted, per_token, wide
from relmap.relevance.join_weights import shared_out
from relmap.relevance.maps import Maps, carry_maps
from relmap.relevance.rows import PropagationRule, RecordedPass, example_mean, push_rows
from relmap.trace.graph import Activation, State


def wra_maps(passed: RecordedPass, **options: Any) -> Maps:
    """The whole map R of every state, with the options of `wra`."""
    return carry_maps(passed, _rule(**options))


@METHODS.register(
    "wra",
    aliases=("weighted-relevance-accumulation",),
    reference="Huang et al., MM Asia 2023 (arXiv 2308.10240), eq. 1-15",
    needs=("attention", "attention-gradient", "contribution", "join-gradient"),
    target_dependent=True,
    maps=wra_maps,
)
def wra(
    passed: RecordedPass,
    *,
    weights: Literal["sensitivity", "equal"] = "sensitivity",
    granularity: Literal["layer", "token"] = "layer",
    clamp: Literal["element", "sum"] = "element",
    gradient: Literal["total", "branch"] = "total",
    start_layer: int = 0,
) -> dict[int, Tensor]:
    """Row-stochastic relevance, residual and attention weighted by their sensitivity.

    `weights="equal"` is the paper's ablation alpha = beta = 0.5. `granularity="layer"` has one pair
    of weights per attention sub-layer (the paper: "scalar average of the whole matrix"), "token"
    one per token. `clamp="element"` takes the positive part before summing over features, "sum"
    after. `gradient="total"` reads dy/dY whole, "branch" takes dy/dY' on both sides. A row without
    positive relevance is an identity row. Use it where the contribution of residual stream and
    attention differs between layers (vision-language models, text); on single-class image
    classifiers prefer `genatt`.
    """
    return push_rows(passed, _rule(weights, granularity, clamp, gradient, start_layer))


def _rule(
    weights: str, granularity: str, clamp: str, gradient: str, start_layer: int
) -> PropagationRule:
    def share(one: RecordedPass, state: State) -> Tensor:
        if weights == "equal":
            return torch.full((state.tokens,), 0.5, device=one.graph.device())
        return residual_share(one, state, granularity, clamp, gradient)

    return PropagationRule(gradient_weighted, shared_out, share, True, start_layer, normalize=True)


def residual_share(
    passed: RecordedPass, state: State, granularity: str, clamp: str, gradient: str
) -> Tensor:
    """Alpha for every token of a join (eq. 5, 15); 0.5 where neither side has influence."""
    below = passed.gradient(state.branch) if gradient == "branch" else None
    kept = _sensitivity(passed, state, state.residual, clamp, below)
    taken = _sensitivity(passed, state, state.branch, clamp, None)
    if granularity == "layer":
        kept = example_mean(passed.graph, state, kept)
        taken = example_mean(passed.graph, state, taken)
    total = kept + taken
    return torch.where(total > 0, kept / torch.where(total > 0, total, 1), 0.5)


def _sensitivity(
    passed: RecordedPass, state: State, activation: Activation | None, clamp: str,
    gradient: Tensor | None,
) -> Tensor:  # fmt: skip
    """Sum over features of the positive Input x Gradient of each token."""
    zero = torch.zeros(state.tokens, device=passed.graph.device())
    if activation is None:
        return zero
    gradient = passed.gradient(activation) if gradient is None else gradient
    if gradient is None:
        return zero
    product = wide(passed.value(activation)) * wide(gradient)
    if clamp == "element":
        return per_token(product.clamp_min(0), activation, state.tokens)
    return per_token(product, activation, state.tokens).clamp_min(0)
