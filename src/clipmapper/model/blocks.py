"""The parts of both mappers: attention, feed-forward, and who may see whom.

Every sub-layer is normalised before and added after, y ← y + f(LN(y)). At width d, an attention has
weight matrices of 4 d² numbers and a feed-forward layer of inner width 4 d has 8 d².
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.activations import ACT2FN

from .configuration import CLIPmapperConfig


class Attention(nn.Module):
    """Multi-head attention of tokens to themselves or, if `cross`, to a context.

    Projections of the same tokens are one matrix, because that is faster.
    """

    def __init__(self, config: CLIPmapperConfig, *, cross: bool = False) -> None:
        super().__init__()
        self.config, self.cross, width = config, cross, config.hidden_size
        if cross:
            self.query = nn.Linear(width, width)
            self.key_value = nn.Linear(width, 2 * width)
        else:
            self.query_key_value = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)

    def forward(self, tokens: Tensor, mask: Tensor | None, context: Tensor | None = None) -> Tensor:
        """What tokens [b, n, d] read; `mask` is true where a query (row) sees a key (column)."""
        if self.cross:
            query = self._heads(self.query(tokens))
            key, value = map(self._heads, self.key_value(context).chunk(2, dim=-1))
        else:
            query, key, value = map(self._heads, self.query_key_value(tokens).chunk(3, dim=-1))
        rate = self.config.dropout if self.training else 0.0
        if self.config._attn_implementation == "eager":
            read = attend(query, key, value, mask, rate)
        else:
            read = functional.scaled_dot_product_attention(query, key, value, mask, rate)
        return self.output(read.transpose(1, 2).flatten(2))

    def _heads(self, tokens: Tensor) -> Tensor:
        return tokens.unflatten(-1, (self.config.num_attention_heads, -1)).transpose(1, 2)


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, rate: float) -> Tensor:
    """softmax(Q Kᵀ / √d_head) V for [b, heads, n, d_head], written out."""
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    attention = functional.softmax(scores, dim=-1)
    return functional.dropout(attention, rate) @ value


class FeedForward(nn.Module):
    """Two linear layers with an activation between them, on each token alone."""

    def __init__(self, config: CLIPmapperConfig) -> None:
        super().__init__()
        assert config.intermediate_size is not None
        self.inner = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACT2FN[config.hidden_act]
        self.outer = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens [b, n, d], transformed."""
        return self.outer(self.activation(self.inner(tokens)))


def norm(config: CLIPmapperConfig) -> nn.LayerNorm:
    """The normalisation before each sub-layer, and after the last."""
    return nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)


def text_mask(attention_mask: Tensor | None, length: int, device: torch.device) -> Tensor:
    """What words see of a caption: nothing later and no padding, [t, t] or [b, 1, t, t]."""
    earlier = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    if attention_mask is None:
        return earlier
    # padding sees itself, for a softmax over nothing is undefined
    itself = torch.eye(length, dtype=torch.bool, device=device)
    return earlier & (key_mask(attention_mask) | itself)


def key_mask(attention_mask: Tensor) -> Tensor:
    """What anybody sees of a text that is known whole: all but padding, [b, 1, 1, t]."""
    return attention_mask.bool()[:, None, None, :]
