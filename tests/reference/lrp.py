"""LRP of a tiny ViT and Transformer Attribution, layer by layer, for one image.

    linear (joint)     s = R / (x+ W+ + x- W-),  R_x = x+ (s W+) + x- (s W-)     biases take no part
    linear (separate)  the same with a denominator for each of the two terms
    z = a + b          s = R / z,  R_a = a s;  rescaled: R_a |S_a| / (|S_a| + |S_b|) S_R / S_a
    Z = P Q            s = R / Z,  R_P = P (s Q^T) / 2,  R_Q = Q (P^T s) / 2
    GELU, softmax, layer norm: R passes; a token that is read: R is put there
    pixels (z^B)       s = R / (x W - L W+ - H W-),  R_x = x s W^T - L s W+^T - H s W-^T

A / b is a / (b + 1e-9), and 0 where b is 0. The starting R is a one-hot vector at the logits.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from reference.decompx import Block, PreNorm


class TinyViT(nn.Module):
    """Patches of 2 x 2 pixels, a class token, positions, a pre-LN transformer with biases."""

    def __init__(self, width: int = 16, depth: int = 3, grid: int = 2) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, width, 2, 2)
        self.encoder = PreNorm(width, 2, depth, bias=True)
        self.start = nn.Parameter(torch.randn(1, 1, width) * 0.5)
        self.positions = nn.Parameter(torch.randn(1, grid**2 + 1, width) * 0.5)

    def tokens(self, pixels: Tensor) -> Tensor:
        patches = self.patch(pixels).flatten(2).transpose(1, 2)
        return torch.cat([self.start.expand(len(pixels), -1, -1), patches], 1)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.encoder(self.tokens(pixels) + self.positions)


@dataclass
class Found:
    """R at every attention map and every stream (first the last one), and where it enters."""

    maps: list[Tensor] = field(default_factory=list)
    streams: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    pixels: Tensor | None = None


@dataclass
class Rules:
    joint: bool = True
    rescale_sums: bool = True
    rescale_linear: bool = False
    share_positions: bool = True

    def linear(self, layer: nn.Linear, x: Tensor, arriving: Tensor) -> Tensor:
        w = layer.weight
        above, below = x.clamp_min(0), x.clamp_max(0)
        positive, negative = above @ w.clamp_min(0).T, below @ w.clamp_max(0).T
        one = divide(arriving, positive + negative if self.joint else positive)
        other = divide(arriving, positive + negative if self.joint else negative)
        found = above * (one @ w.clamp_min(0)) + below * (other @ w.clamp_max(0))
        return found * divide(arriving.sum(), found.sum()) if self.rescale_linear else found

    def add(self, a: Tensor, b: Tensor, arriving: Tensor) -> tuple[Tensor, Tensor]:
        share = divide(arriving, a + b)
        of_a, of_b = a * share, b * share
        if not self.rescale_sums:
            return of_a, of_b
        whole = of_a.sum().abs() + of_b.sum().abs()
        found = [
            part * divide(divide(part.sum().abs(), whole) * arriving.sum(), part.sum())
            for part in (of_a, of_b)
        ]
        return found[0], found[1]


def divide(above: Tensor, below: Tensor) -> Tensor:
    moved = below + 1e-9
    return above / torch.where(moved == 0, 1e-9, moved) * (below != 0)


def matmul(p: Tensor, q: Tensor, arriving: Tensor) -> tuple[Tensor, Tensor]:
    share = divide(arriving, p @ q)
    return p * (share @ q.transpose(-1, -2)) / 2, q * (p.transpose(-1, -2) @ share) / 2


@torch.no_grad()
def propagate(network: TinyViT, pixels: Tensor, column: int, rules: Rules | None = None) -> Found:
    """Relevance of one image (a batch of one), from a logit to the pixels."""
    rules, found = rules or Rules(), Found()
    encoder = network.encoder
    embedded = network.tokens(pixels)[0]
    streams = [embedded + network.positions[0]]
    for block in encoder.blocks:
        middle = streams[-1] + block.attend(block.norm1(streams[-1])[None], encoder.heads)[0]
        streams += [middle, middle + block.down(functional.gelu(block.up(block.norm2(middle))))]
    relevance = torch.zeros_like(streams[-1])
    start = torch.zeros(3, dtype=relevance.dtype)
    start[column] = 1
    relevance[0] = rules.linear(encoder.head, encoder.norm(streams[-1])[0], start)
    found.streams.append(relevance)
    for number, block in reversed(list(enumerate(encoder.blocks))):
        start, middle, end = streams[2 * number : 2 * number + 3]
        kept, added = rules.add(middle, end - middle, relevance)
        relevance = kept + _feed(rules, block, middle, added)
        kept, added = rules.add(start, middle - start, relevance)
        relevance = kept + _attend(rules, block, encoder.heads, start, added, found)
        found.streams.append(relevance)
    found.maps.reverse()
    found.outputs.reverse()
    if rules.share_positions:
        relevance, _ = rules.add(embedded, network.positions[0], relevance)
    found.pixels = _pixels(network.patch, pixels, relevance[1:])
    return found


def _feed(rules: Rules, block: Block, x: Tensor, arriving: Tensor) -> Tensor:
    inner = functional.gelu(block.up(block.norm2(x)))
    return rules.linear(block.up, block.norm2(x), rules.linear(block.down, inner, arriving))


def _attend(
    rules: Rules, block: Block, heads: int, x: Tensor, arriving: Tensor, found: Found
) -> Tensor:
    normed = block.norm1(x)
    q, k, v = (one[0] for one in block.split(normed[None], heads))
    weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
    arriving = rules.linear(block.o, (weights @ v).transpose(0, 1).flatten(1), arriving)
    arriving = arriving.unflatten(-1, (heads, -1)).transpose(0, 1)
    found.outputs.append(arriving)
    of_weights, of_value = matmul(weights, v, arriving)
    found.maps.append(of_weights)
    of_query, of_key = matmul(q, k.transpose(-1, -2), of_weights)
    if rules.rescale_linear:
        raise NotImplementedError("one linear layer for queries, keys and values")
    result = torch.zeros_like(normed)
    parts = ((block.q, of_query), (block.k, of_key.transpose(-1, -2)), (block.v, of_value))
    for layer, part in parts:
        result = result + rules.linear(layer, normed, part.transpose(0, 1).flatten(1))
    return result


def _pixels(patch: nn.Conv2d, pixels: Tensor, arriving: Tensor) -> Tensor:
    """The z^B rule at the patch convolution, summed over channels: one number for each pixel."""
    side = pixels.shape[-1] // 2
    arriving = arriving.T.reshape(1, -1, side, side)
    lowest, highest = (torch.full_like(pixels, float(end)) for end in (pixels.min(), pixels.max()))
    w = patch.weight
    parts = [(pixels, w, 1), (lowest, w.clamp_min(0), -1), (highest, w.clamp_max(0), -1)]
    below = sum(sign * functional.conv2d(x, one, stride=2) for x, one, sign in parts) + 1e-9
    share = arriving / below
    found = torch.zeros_like(pixels)
    for x, one, sign in parts:
        found = found + sign * x * functional.conv_transpose2d(share, one, stride=2)
    return found.sum(1)


def attention_gradients(network: TinyViT, pixels: Tensor, column: int) -> list[Tensor]:
    """dy/dA of every layer, by autograd on attention written out."""
    encoder = network.encoder
    x, maps = network.tokens(pixels) + network.positions, []
    for block in encoder.blocks:
        q, k, v = block.split(block.norm1(x), encoder.heads)
        maps.append((q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1))
        x = x + block.o((maps[-1] @ v).transpose(1, 2).flatten(2))
        x = x + block.down(functional.gelu(block.up(block.norm2(x))))
    value = encoder.head(encoder.norm(x)[:, 0])[0, column]
    return [found[0] for found in torch.autograd.grad(value, maps)]


def transformer_attribution(
    maps: list[Tensor], gradients: list[Tensor] | None, normalize: bool = False
) -> Tensor:
    """Row of the first token of the product of I + E_h[(dA R_A)+]; without dA, of E_h[R_A+]."""
    product = torch.eye(maps[0].shape[-1], dtype=maps[0].dtype)
    for number, one in enumerate(maps):
        weighted = one if gradients is None else one * gradients[number]
        mixed = weighted.clamp_min(0).mean(0) + torch.eye(one.shape[-1], dtype=one.dtype)
        if normalize:
            mixed = mixed / mixed.sum(-1, keepdim=True)
        product = mixed @ product
    return product[0]
