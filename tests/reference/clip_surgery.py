"""CLIP Surgery as it is written: two paths through the last blocks, then the texts' common part."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from .towers import Tower


def second_path(tower: Tower, blocks: int) -> Tensor:
    """The tokens after the last block: CLS of the first path, patches of the second."""
    states = tower.states()
    first = max(0, len(tower.blocks) - blocks)
    x, original = states[first], states[first]
    for block in tower.blocks[first:]:
        v = block.split(block.projected(original)[2])
        like = (v @ v.transpose(-1, -2) / math.sqrt(v.shape[-1])).softmax(-1)
        x = x + block.output((like @ v).transpose(0, 1).reshape(len(x), -1))
        original = block.finish(original, block.mixed(block.maps(original, tower.mask), original))
    return torch.cat([original[:1], x[1:]])


def surgery(
    towers: list[Tower], architecture: bool, features: str | None, blocks: int, scale: float
) -> Tensor:
    """S [text, token] of one image; the towers differ in the text of their head alone."""
    tower = towers[0]
    tokens = second_path(tower, blocks) if architecture else tower.states()[-1]
    similarity = torch.stack([torch.stack([one.head(token) for token in tokens]) for one in towers])
    if features is None or len(towers) == 1:
        return similarity
    if features == "last":
        return similarity - similarity[-1]
    cls = tower.states()[-1][0]
    weights = functional.softmax(2 * torch.stack([one.head(cls) / scale for one in towers]), dim=0)
    weights = weights / weights.mean()
    found = torch.zeros_like(similarity)
    for n in range(len(tokens)):
        shared = sum(weights[k] * similarity[k, n] for k in range(len(towers))) / len(towers)
        for k in range(len(towers)):
            found[k, n] = weights[k] * similarity[k, n] - shared
    return found
