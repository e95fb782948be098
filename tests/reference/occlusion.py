"""Occlusion as it is written: one token after another, replaced by a hook where it is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn


def occlusion(
    network: nn.Module, inputs: Mapping[str, Any], target: Callable[[Any], Tensor], path: str,
    windows: list[list[int]], mean: bool,
) -> Tensor:  # fmt: skip
    """The mean loss of every place of a module's output [batch, place, feature]."""
    whole: list[Tensor] = []

    def run(places: list[int]) -> Tensor:
        def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor:
            changed = output.clone()
            for example in range(len(output)):
                for place in places:
                    changed[example, place] = output[example].mean(0) if mean else 0
            whole.append(output)
            return changed

        handle = network.get_submodule(path).register_forward_hook(hook)
        try:
            with torch.no_grad():
                return target(network(**inputs))
        finally:
            handle.remove()

    before = run([])
    losses: list[list[Tensor]] = [[] for _ in range(whole[0].shape[1])]
    for places in windows:
        loss = before - run(places)
        for place in places:
            losses[place].append(loss)
    return torch.stack([torch.stack(found).mean(0) for found in losses], dim=1)
