"""AttnLRP and ResLRP as relevance, rule by rule (Achtibat et al., ICML 2024; Berend et al. 2026).

    linear z = W x + b:     R_x = x (W^T (R / z))                 element by element:  R passes
    softmax s of x:         R_x = x (R - s sum R)                 norm: its linear part, as a layer
    product O = A V:        R_A = A (R / 2 O V^T),  R_V = V (A^T R / 2 O)
    sum z = a + b:          R_a = R a w(a) / (w(a) a + w(b) b),   w(u) = 1 + gamma [sign u = sign z]

for one example of `reference.decompx.PreNorm`. Nothing here takes a gradient.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from reference.decompx import Block, PreNorm

Seen = Callable[[str, Tensor, tuple[Tensor, ...]], None]


def propagate(
    network: PreNorm, x: Tensor, column: int, gamma: float = 0.0, seen: Seen | None = None
) -> Tensor:
    """Relevance of every feature of every token; `seen` is told of every residual addition."""
    note = seen or (lambda *_: None)
    streams = [x]
    for block in network.blocks:
        middle = streams[-1] + _attended(block, network.heads, streams[-1])
        streams += [middle, middle + _fed(block, middle)]
    normed = network.norm(streams[-1])
    logits = network.head(normed[0])
    arriving = torch.zeros_like(logits)
    arriving[column] = logits[column]
    relevance = torch.zeros_like(normed)
    relevance[0] = _linear(network.head, normed[0], arriving)
    relevance = _norm(network.norm, streams[-1], relevance)
    for number, block in reversed(list(enumerate(network.blocks))):
        start, middle, end = streams[2 * number : 2 * number + 3]
        kept, added = _sum(middle, end - middle, relevance, gamma)
        note(f"feed-forward {number}", relevance, (kept, added))
        relevance = kept + _feed(block, middle, added)
        kept, added = _sum(start, middle - start, relevance, gamma)
        note(f"attention {number}", relevance, (kept, added))
        relevance = kept + _attend(block, network.heads, start, added)
    return relevance


def _sum(one: Tensor, other: Tensor, arriving: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    total = one + other
    weight_one, weight_other = (
        1 + gamma * (part.sign() == total.sign()).to(total.dtype) for part in (one, other)
    )
    below = weight_one * one + weight_other * other
    return arriving * weight_one * one / below, arriving * weight_other * other / below


def _linear(layer: nn.Linear, x: Tensor, arriving: Tensor) -> Tensor:
    return x * ((arriving / layer(x)) @ layer.weight)


def _norm(norm: nn.LayerNorm, x: Tensor, arriving: Tensor) -> Tensor:
    """The norm as the linear layer diag(w / std) (I - 1/d) that it is for a constant std."""
    width = x.shape[-1]
    centre = torch.eye(width, dtype=x.dtype) - 1 / width
    found = torch.zeros_like(x)
    for token in range(len(x)):
        deviation = (x[token].var(correction=0) + norm.eps).sqrt()
        matrix = torch.diag(norm.weight / deviation) @ centre
        share = arriving[token] / norm(x[token])
        found[token] = x[token] * (matrix.T @ share)
    return found


def _heads(block: Block, heads: int, normed: Tensor) -> list[Tensor]:
    return [one[0] for one in block.split(normed[None], heads)]


def _attended(block: Block, heads: int, x: Tensor) -> Tensor:
    return block.attend(block.norm1(x)[None], heads)[0]


def _fed(block: Block, x: Tensor) -> Tensor:
    return block.down(functional.gelu(block.up(block.norm2(x))))


def _feed(block: Block, x: Tensor, arriving: Tensor) -> Tensor:
    normed = block.norm2(x)
    inner = functional.gelu(block.up(normed))
    arriving = _linear(block.down, inner, arriving)
    return _norm(block.norm2, x, _linear(block.up, normed, arriving))


def _attend(block: Block, heads: int, x: Tensor, arriving: Tensor) -> Tensor:
    normed = block.norm1(x)
    q, k, v = _heads(block, heads, normed)
    product = q @ k.transpose(-1, -2)
    scores = product / q.shape[-1] ** 0.5
    weights = scores.softmax(-1)
    mixed = weights @ v
    arriving = _linear(block.o, mixed.transpose(0, 1).flatten(1), arriving)
    share = arriving.unflatten(-1, (heads, -1)).transpose(0, 1) / (2 * mixed)
    of_weights = weights * (share @ v.transpose(-1, -2))
    of_value = v * (weights.transpose(-1, -2) @ share)
    of_scores = scores * (of_weights - weights * of_weights.sum(-1, keepdim=True))
    share = of_scores / (2 * product)
    of_query, of_key = q * (share @ k), k * (share.transpose(-1, -2) @ q)
    parts = zip((block.q, block.k, block.v), (of_query, of_key, of_value), strict=True)
    found = torch.zeros_like(normed)
    for layer, part in parts:
        found = found + _linear(layer, normed, part.transpose(0, 1).flatten(1))
    return _norm(block.norm1, x, found)
