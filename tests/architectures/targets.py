"""What is explained where a model returns neither scores nor a similarity.

Each function here makes a target: from the model's output to one number per example. Features are
weighted unevenly, because the plain sum of a normalised token hardly depends on anything.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def _weighted(features: Tensor) -> Tensor:
    width = features.shape[-1]
    return features @ torch.linspace(-1.0, 2.0, width, dtype=features.dtype, device=features.device)


def _field(output: Any, key: str | int | None) -> Tensor:
    return output if key is None else output[key]


def token(key: str | int | None, index: int = 0) -> Callable[[Any], Tensor]:
    """One token of a (batch, token, feature) output."""
    return lambda output: _weighted(_field(output, key)[:, index])


def mean(key: str | int | None) -> Callable[[Any], Tensor]:
    """The mean of everything that lies between the examples and the features."""
    return lambda output: _weighted(_field(output, key)).flatten(1).mean(-1)


def grid(key: str | int | None) -> Callable[[Any], Tensor]:
    """The middle of a (batch, feature, row, column) output."""

    def target(output: Any) -> Tensor:
        maps = _field(output, key)
        rows, columns = maps.shape[-2:]
        middle = maps[..., rows // 2, columns // 2]
        return _weighted(middle.flatten(1))

    return target
