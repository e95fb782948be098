"""Grad-ECLIP as its authors run it: the last block once more with one head, and its gradient."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from .towers import Tower


def grad_eclip(tower: Tower, single_head: bool, similarity: bool, learned: int) -> Tensor:
    """(sum_c ds/do_c lambda_i v_ic)+ for every token; the first `learned` tokens are no input's."""
    block, x = tower.blocks[-1], tower.states()[-2].detach()
    q, k, v = (one.detach() for one in block.projected(x))
    if single_head:
        scores = q @ k.T / math.sqrt(q.shape[-1]) + tower.mask
        output = scores.softmax(-1) @ v
    else:
        output = block.mixed(block.maps(x, tower.mask), x)
    output = output.detach().requires_grad_()
    score = tower.head(block.finish(x, output)[tower.read])
    (gradient,) = torch.autograd.grad(score, output)
    g = gradient[tower.read]
    weights = torch.ones(len(x), dtype=x.dtype)
    if similarity:
        query, keys = block.output(q)[tower.read].detach(), block.output(k).detach()
        cosine = functional.cosine_similarity(query[None], keys, dim=-1)
        # Every token that is neither learned nor padding; what the mask closes gets nothing later.
        counted = tower.real.clone()
        counted[:learned] = False
        low, high = cosine[counted].min(), cosine[counted].max()
        weights = torch.where(counted, (cosine - low) / (high - low), 0)
    readable = (tower.mask[tower.read] == 0) & tower.real
    found = [
        max(float((g * weights[i] * v[i]).sum()), 0.0) if readable[i] else 0.0
        for i in range(len(x))
    ]
    return torch.tensor(found, dtype=x.dtype)
