"""DecompX without biases (Modarressi et al., ACL 2023), one vector for every pair of tokens.

The network is h_0 = x, h' = h + sum_h A_h LN(h) V_h O, h = h' + f(LN(h') U) D, and reads LN(h)[0] w
with A, the standard deviations and the gates f(z) / z taken from its forward pass. x_{i<-k}, what
token k brings to token i, goes through every one of these linear maps by itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


class PreNorm(nn.Module):
    """A pre-LN transformer that a reference can read, with or without biases."""

    def __init__(self, width: int = 8, heads: int = 2, depth: int = 2, bias: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.blocks = nn.ModuleList(Block(width, bias) for _ in range(depth))
        self.norm = nn.LayerNorm(width, bias=bias)
        self.head = nn.Linear(width, 3, bias=bias)
        for parameter in self.parameters():
            parameter.data.normal_(0, 0.6 if parameter.ndim > 1 else 0.3).add_(
                1.0 if parameter.ndim == 1 and parameter.shape[0] == width and not bias else 0.0
            )

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block.attend(block.norm1(x), self.heads)
            x = x + block.down(functional.gelu(block.up(block.norm2(x))))
        return self.head(self.norm(x)[:, 0])


class Block(nn.Module):
    def __init__(self, width: int, bias: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(width, bias=bias) for _ in range(2))
        self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias=bias) for _ in range(4))
        self.up, self.down = nn.Linear(width, 16, bias=bias), nn.Linear(16, width, bias=bias)

    def split(self, x: Tensor, heads: int) -> list[Tensor]:
        return [
            one(x).unflatten(-1, (heads, -1)).transpose(1, 2) for one in (self.q, self.k, self.v)
        ]

    def attend(self, x: Tensor, heads: int) -> Tensor:
        q, k, v = self.split(x, heads)
        mixed = functional.scaled_dot_product_attention(q, k, v)
        return self.o(mixed.transpose(1, 2).flatten(2))


@dataclass
class Trace:
    """What one block computed for one example."""

    attention: Tensor
    deviation1: Tensor
    middle: Tensor
    deviation2: Tensor
    gate: Tensor


def trace(network: PreNorm, x: Tensor) -> tuple[list[Trace], Tensor]:
    """One example through the network, and the deviations of its last norm."""
    found = []
    for block in network.blocks:
        q, k, v = block.split(block.norm1(x)[None], network.heads)
        attention = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)[0]
        middle = x + block.o((attention @ v[0]).transpose(0, 1).flatten(1))
        z = block.up(block.norm2(middle))
        gate = functional.gelu(z) / z
        found.append(
            Trace(attention, _std(x, block.norm1), middle, _std(middle, block.norm2), gate)
        )
        x = middle + block.down(functional.gelu(z))
    return found, _std(x, network.norm)


def _std(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    return (x.var(-1, correction=0) + norm.eps).sqrt()


def _normed(parts: Tensor, deviation: Tensor, norm: nn.LayerNorm) -> Tensor:
    """A norm of the vectors [i, k, d] of tokens i with given deviations."""
    return (parts - parts.mean(-1, keepdim=True)) / deviation[:, None, None] * norm.weight


def contributions(network: PreNorm, x: Tensor, column: int) -> Tensor:
    """How much every token k of one example brings to a logit read at token 0."""
    tokens, width = x.shape
    parts = torch.zeros(tokens, tokens, width, dtype=x.dtype)
    for i in range(tokens):
        parts[i, i] = x[i]
    traces, last = trace(network, x)
    for block, seen in zip(network.blocks, traces, strict=True):
        normed = _normed(parts, seen.deviation1, block.norm1)
        values = (normed @ block.v.weight.T).unflatten(-1, (network.heads, -1))
        mixed = torch.einsum("hij,jkhe->ikhe", seen.attention, values).flatten(2)
        parts = parts + mixed @ block.o.weight.T
        inner = _normed(parts, seen.deviation2, block.norm2) @ block.up.weight.T
        parts = parts + (inner * seen.gate[:, None]) @ block.down.weight.T
    return _normed(parts, last, network.norm)[0] @ network.head.weight[column]
