"""The towers of transformers' CLIP and ViT, run block by block, as the formulas speak of them.

Written by hand from the modules' weights, one example at a time, in the type of the network.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass
class Block:
    """The modules of one block, whatever their network calls them."""

    before: nn.Module
    query: nn.Module
    key: nn.Module
    value: nn.Module
    output: nn.Module
    after: nn.Module
    feed_forward: nn.Module
    heads: int

    def projected(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Q, k, v of tokens [n, D], each [n, D]."""
        h = self.before(x)
        return self.query(h), self.key(h), self.value(h)

    def split(self, vectors: Tensor) -> Tensor:
        """[n, D] as [H, n, d]."""
        return vectors.reshape(len(vectors), self.heads, -1).transpose(0, 1)

    def maps(self, x: Tensor, mask: Tensor) -> Tensor:
        """A [H, n, n]."""
        q, k, _ = (self.split(one) for one in self.projected(x))
        return (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]) + mask).softmax(-1)

    def mixed(self, maps: Tensor, x: Tensor) -> Tensor:
        """The heads' outputs side by side, before W_O: [n, D]."""
        v = self.split(self.projected(x)[2])
        return (maps @ v).transpose(0, 1).reshape(len(x), -1)

    def finish(self, x: Tensor, mixed: Tensor) -> Tensor:
        """The tokens after the block."""
        middle = x + self.output(mixed)
        return middle + self.feed_forward(self.after(middle))


@dataclass
class Tower:
    """A tower on one example: tokens that enter, blocks, mask, what the head says of a vector.

    `read` is the position that the head reads, `real` says which tokens are no padding.
    """

    entering: Tensor
    blocks: list[Block]
    mask: Tensor
    head: Callable[[Tensor], Tensor]
    read: int
    real: Tensor

    def states(self) -> list[Tensor]:
        """The tokens before the first block and after each."""
        found = [self.entering]
        for block in self.blocks:
            x = found[-1]
            found.append(block.finish(x, block.mixed(block.maps(x, self.mask), x)))
        return found


def clip_image(network: Any, inputs: dict[str, Tensor], index: int) -> Tower:
    """CLIP's image tower; the head is the similarity with the example's text, with its scale."""
    pixels = inputs["pixel_values"][index : index + 1]
    tower = network.vision_model
    entering = tower.pre_layrnorm(tower.embeddings(pixels))[0]
    text = functional.normalize(_text_features(network, inputs, index), dim=-1)

    def head(vector: Tensor) -> Tensor:
        feature = network.visual_projection(tower.post_layernorm(vector))
        return network.logit_scale.exp() * functional.normalize(feature, dim=-1) @ text

    count = len(entering)
    nothing = torch.zeros(count, count, dtype=entering.dtype)
    blocks = [_clip_block(layer) for layer in tower.encoder.layers]
    return Tower(entering, blocks, nothing, head, 0, torch.ones(count, dtype=torch.bool))


def clip_text(network: Any, inputs: dict[str, Tensor], index: int) -> Tower:
    """CLIP's text tower, read at its end token; the head is the similarity with the image."""
    image_tower = clip_image(network, inputs, index)
    tower = network.vision_model
    pooled = tower.post_layernorm(image_tower.states()[-1][image_tower.read])
    image = functional.normalize(network.visual_projection(pooled), dim=-1)
    entering, mask, read, real = _text_parts(network, inputs, index)

    def head(vector: Tensor) -> Tensor:
        feature = network.text_projection(network.text_model.final_layer_norm(vector))
        return network.logit_scale.exp() * functional.normalize(feature, dim=-1) @ image

    blocks = [_clip_block(layer) for layer in network.text_model.encoder.layers]
    return Tower(entering, blocks, mask, head, read, real)


def vit(network: Any, inputs: dict[str, Tensor], index: int, target: int) -> Tower:
    """A ViT classifier; the head is the score of a class."""
    entering = network.vit.embeddings(inputs["pixel_values"][index : index + 1])[0]

    def head(vector: Tensor) -> Tensor:
        return network.classifier(network.vit.layernorm(vector))[target]

    heads = network.config.num_attention_heads
    blocks = [
        Block(
            layer.layernorm_before,
            layer.attention.q_proj,
            layer.attention.k_proj,
            layer.attention.v_proj,
            layer.attention.o_proj,
            layer.layernorm_after,
            layer.mlp,
            heads,
        )
        for layer in network.vit.layers
    ]
    nothing = torch.zeros(len(entering), len(entering), dtype=entering.dtype)
    return Tower(entering, blocks, nothing, head, 0, torch.ones(len(entering), dtype=torch.bool))


def _clip_block(layer: Any) -> Block:
    attention = layer.self_attn
    return Block(
        layer.layer_norm1,
        attention.q_proj,
        attention.k_proj,
        attention.v_proj,
        attention.out_proj,
        layer.layer_norm2,
        layer.mlp,
        attention.num_heads,
    )


def _text_parts(
    network: Any, inputs: dict[str, Tensor], index: int
) -> tuple[Tensor, Tensor, int, Tensor]:
    ids = inputs["input_ids"][index]
    real = inputs["attention_mask"][index].bool()
    entering = network.text_model.embeddings(input_ids=ids[None])[0]
    closed = torch.ones(len(ids), len(ids), dtype=torch.bool).triu(1) | ~real
    mask = torch.zeros(len(ids), len(ids), dtype=entering.dtype).masked_fill(closed, -math.inf)
    end = network.config.text_config.eos_token_id
    return entering, mask, int((ids == end).int().argmax()), real


def _text_features(network: Any, inputs: dict[str, Tensor], index: int) -> Tensor:
    entering, mask, read, real = _text_parts(network, inputs, index)
    blocks = [_clip_block(layer) for layer in network.text_model.encoder.layers]
    x = Tower(entering, blocks, mask, lambda vector: vector, read, real).states()[-1]
    return network.text_projection(network.text_model.final_layer_norm(x[read]))
