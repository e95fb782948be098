"""LeGrad as it is written: every layer's own score, differentiated by its own attention maps."""

from __future__ import annotations

import torch
from torch import Tensor

from .towers import Tower


def legrad(tower: Tower, layers: int) -> Tensor:
    """The sum over the last `layers` layers of mean_{h,i} (ds/dA_hij)+ for every token j."""
    states = tower.states()
    total = torch.zeros(len(tower.entering), dtype=tower.entering.dtype)
    for number in range(len(tower.blocks) - layers, len(tower.blocks)):
        block, x = tower.blocks[number], states[number].detach()
        maps = block.maps(x, tower.mask).detach().requires_grad_()
        z = block.finish(x, block.mixed(maps, x))
        score = tower.head(z[tower.real].mean(dim=0))
        (gradient,) = torch.autograd.grad(score, maps)
        for j in range(len(total)):
            positive = 0.0
            for head in range(gradient.shape[0]):
                for i in range(gradient.shape[1]):
                    readable = tower.mask[i, j] == 0 and tower.real[i]
                    positive += max(float(gradient[head, i, j]), 0.0) if readable else 0.0
            if tower.real[j]:
                total[j] += positive / (gradient.shape[0] * int(tower.real.sum()))
    return total
