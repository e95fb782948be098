"""Mapper A: image and text side by side in one stream of self-attention (section 3.2.1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .blocks import Attention, FeedForward, key_mask, norm, text_mask
from .configuration import CLIPmapperConfig


class JointLayer(nn.Module):
    """Self-attention over both modalities, then feed-forward: 12 d² weights."""

    def __init__(self, config: CLIPmapperConfig) -> None:
        super().__init__()
        self.attention_norm, self.attention = norm(config), Attention(config)
        self.feed_forward_norm, self.feed_forward = norm(config), FeedForward(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """Tokens [b, v + t, d] of both modalities after the layer."""
        tokens = tokens + self.dropout(self.attention(self.attention_norm(tokens), mask))
        return tokens + self.dropout(self.feed_forward(self.feed_forward_norm(tokens)))


class MapperA(nn.Module):
    """The single stream; for captions, text is causal and the image sees the image alone."""

    def __init__(self, config: CLIPmapperConfig) -> None:
        super().__init__()
        assert config.num_hidden_layers is not None
        self.captioning = config.captioning
        self.layers = nn.ModuleList([JointLayer(config) for _ in range(config.num_hidden_layers)])

    def forward(
        self, image: Tensor, text: Tensor, attention_mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Image tokens [b, v, d] and text tokens [b, t, d] after all layers."""
        patches = image.shape[1]
        if self.captioning:
            mask = caption_mask(text_mask(attention_mask, text.shape[1], text.device), patches)
        elif attention_mask is not None:
            mask = functional.pad(key_mask(attention_mask), (patches, 0), value=True)
        else:
            mask = None
        tokens = torch.cat([image, text], dim=1)
        for layer in self.layers:
            tokens = layer(tokens, mask)
        return tokens[:, :patches], tokens[:, patches:]


def caption_mask(words: Tensor, patches: int) -> Tensor:
    """The joint mask: words see the image and what `words` [.., t, t] says, the image no words."""
    below = functional.pad(words, (patches, 0), value=True)
    above = torch.arange(below.shape[-1], device=words.device) < patches
    return torch.cat([above.expand(*words.shape[:-2], patches, -1), below], dim=-2)
