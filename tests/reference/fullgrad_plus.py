"""FullGrad and FullGrad+ with hooks: x * dy/dx of every layer's input, b * dy/dz of every bias.

R_j = sum_l sum_d x_ljd dy/dx_ljd + sum_z sum_d b_d dy/dz_jd
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def relevance(
    network: nn.Module,
    inputs: Mapping[str, Any],
    target: Callable[[Any], Tensor],
    layers: Sequence[str],
    before: str,
) -> tuple[list[Tensor], Tensor]:
    """The products at the input of each layer, and the sum over biases, for each token.

    `before` names the module that makes the first layer's input, whose biases do not count. What
    has no token axis any more belongs to the first token.
    """
    entering: list[Tensor] = []
    biased: list[tuple[Tensor, Tensor]] = []

    def enter(module: nn.Module, args: tuple[Any, ...]) -> None:
        entering.append(args[0])
        args[0].retain_grad()

    def leave(module: Any, args: tuple[Any, ...], output: Tensor) -> None:
        output.retain_grad()
        biased.append((module.bias, output))

    handles = [network.get_submodule(one).register_forward_pre_hook(enter) for one in layers]
    for name, module in network.named_modules():
        kind = isinstance(module, nn.Linear | nn.LayerNorm)
        if kind and module.bias is not None and not name.startswith(before):
            handles.append(module.register_forward_hook(leave))
    target(network(**inputs)).sum().backward()
    for handle in handles:
        handle.remove()
    products = [(one * one.grad).sum(-1)[0].detach() for one in entering]
    total = torch.zeros_like(products[0])
    for bias, output in biased:
        assert output.grad is not None
        product = (bias * output.grad).sum(-1).detach()[0]
        total[: product.numel()] += product
    return products, total
