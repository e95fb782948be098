"""Mapper B: a stream for the image and one for the text, which exchange keys and values (3.2.2).

Both modalities have weights of their own, so that at 3 layers mapper B has as many as mapper A at
8. For captions the exchange from text to image is cancelled: the image branch has no
cross-attention then, and the mapper 84 d² weights instead of 96 d².
"""

from __future__ import annotations

from torch import Tensor, nn

from .blocks import Attention, FeedForward, key_mask, norm, text_mask
from .configuration import CLIPmapperConfig


class Branch(nn.Module):
    """One modality's half of a layer: self-attention, cross-attention, feed-forward, 16 d²."""

    def __init__(self, config: CLIPmapperConfig, *, reads: bool) -> None:
        super().__init__()
        self.attention_norm, self.attention = norm(config), Attention(config)
        self.exchange_norm = norm(config)
        self.exchange = Attention(config, cross=True) if reads else None
        self.feed_forward_norm, self.feed_forward = norm(config), FeedForward(config)
        self.dropout = nn.Dropout(config.dropout)

    def attend(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """Tokens [b, n, d] after self-attention."""
        return tokens + self.dropout(self.attention(self.attention_norm(tokens), mask))

    def read(self, tokens: Tensor, own: Tensor, other: Tensor, mask: Tensor | None) -> Tensor:
        """Tokens [b, n, d] after cross-attention from their own normalised state to the other."""
        if self.exchange is None:
            return tokens
        return tokens + self.dropout(self.exchange(own, mask, other))

    def think(self, tokens: Tensor) -> Tensor:
        """Tokens [b, n, d] after feed-forward."""
        return tokens + self.dropout(self.feed_forward(self.feed_forward_norm(tokens)))


class ExchangeLayer(nn.Module):
    """A layer of both branches; each reads the other as it was before the exchange."""

    def __init__(self, config: CLIPmapperConfig) -> None:
        super().__init__()
        self.image = Branch(config, reads=not config.captioning)
        self.text = Branch(config, reads=True)

    def forward(
        self, image: Tensor, text: Tensor, own: Tensor | None, words: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Image [b, v, d], text [b, t, d]; `own` masks text read by text, `words` by the image."""
        image, text = self.image.attend(image, None), self.text.attend(text, own)
        patches, subwords = self.image.exchange_norm(image), self.text.exchange_norm(text)
        image = self.image.read(image, patches, subwords, words)
        text = self.text.read(text, subwords, patches, None)
        return self.image.think(image), self.text.think(text)


class MapperB(nn.Module):
    """The dual stream; for captions, text is causal and the image reads no text."""

    def __init__(self, config: CLIPmapperConfig) -> None:
        super().__init__()
        assert config.num_hidden_layers is not None
        self.captioning = config.captioning
        self.layers = nn.ModuleList(
            [ExchangeLayer(config) for _ in range(config.num_hidden_layers)]
        )

    def forward(
        self, image: Tensor, text: Tensor, attention_mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Image tokens [b, v, d] and text tokens [b, t, d] after all layers."""
        words = None if attention_mask is None else key_mask(attention_mask)
        own = words
        if self.captioning:
            own = text_mask(attention_mask, text.shape[1], text.device)
        for layer in self.layers:
            image, text = layer(image, text, own, words)
        return image, text
