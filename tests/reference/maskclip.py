"""MaskCLIP as it is written: each token's own value through the last block and the head."""

from __future__ import annotations

import torch
from torch import Tensor

from .towers import Tower


def maskclip(tower: Tower, residual: bool) -> Tensor:
    """What the head says of every token's own value."""
    block, x = tower.blocks[-1], tower.states()[-2]
    scores = []
    for j in range(len(x)):
        value = block.projected(x)[2][j]
        out = block.output(value)
        if residual:
            out = x[j] + out
            out = out + block.feed_forward(block.after(out))
        scores.append(tower.head(out))
    return torch.where(tower.real, torch.stack(scores), 0)
