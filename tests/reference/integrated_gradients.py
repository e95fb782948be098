"""Integrated gradients as they are written, by a hook on the modules that make the tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn


def integrated_gradients(
    network: nn.Module, inputs: Mapping[str, Any], target: Callable[[Any], Tensor],
    modules: list[str], steps: int, mean: bool,
) -> list[Tensor]:  # fmt: skip
    """For each module, the score of every place of its output [batch, place, feature]."""
    tokens: list[Tensor] = []
    _run(network, inputs, modules, lambda number, output: tokens.append(output.detach()))
    starts = [
        one.mean(dim=1, keepdim=True).expand_as(one) if mean else torch.zeros_like(one)
        for one in tokens
    ]
    sums = [torch.zeros_like(one) for one in tokens]
    for step in range(1, steps + 1):
        share = (step - 0.5) / steps
        points = [
            (start + share * (end - start)).requires_grad_()
            for start, end in zip(starts, tokens, strict=True)
        ]
        output = _run(network, inputs, modules, lambda number, _, points=points: points[number])
        for total, gradient in zip(
            sums, torch.autograd.grad(target(output).sum(), points), strict=True
        ):
            total += gradient
    return [
        ((end - start) * total / steps).sum(-1)
        for start, end, total in zip(starts, tokens, sums, strict=True)
    ]


def _run(network: nn.Module, inputs: Mapping[str, Any], modules: list[str], change: Any) -> Any:
    handles = [
        network.get_submodule(path).register_forward_hook(
            lambda module, args, output, number=number: change(number, output)
        )
        for number, path in enumerate(modules)
    ]
    try:
        return network(**inputs)
    finally:
        for handle in handles:
            handle.remove()
