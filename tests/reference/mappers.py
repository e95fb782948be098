"""Small networks written out by hand: one stream, two streams, normalised before or after.

They follow the CLIPmapper of the WRA paper: an image tower with a class token, a causal text tower,
then either a joint sequence (A) or two streams that exchange keys and values (B); the class token
is read.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .records import SubLayer

WIDTH, HEADS, CLASSES, VOCABULARY = 12, 3, 4, 30
PATCHES, WORDS, FEATURES = 4, 5, 7


class Attention(nn.Module):
    """Multi-head attention, eager or fused."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.fused = fused
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, tokens: Tensor, context: Tensor, causal: bool = False) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for part in (self.query(tokens), self.key(context), self.value(context))
        )
        if self.fused:
            mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
        else:
            scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
            if causal:
                later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
                scores = scores.masked_fill(later, -torch.inf)
            mixed = torch.softmax(scores, dim=-1) @ v
        return self.out(mixed.transpose(1, 2).flatten(2))


class AttentionLayer(nn.Module):
    """Y + Y', with the normalisation before or after; without a context, self-attention."""

    def __init__(self, fused: bool, norm_first: bool) -> None:
        super().__init__()
        self.norm_first = norm_first
        self.attention = Attention(fused)
        self.norm, self.context_norm = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)

    def forward(
        self, tokens: Tensor, context: Tensor | None = None, causal: bool = False
    ) -> Tensor:
        if self.norm_first:
            asked = self.norm(tokens)
            read = asked if context is None else self.context_norm(context)
            return tokens + self.attention(asked, read, causal)
        return self.norm(
            tokens + self.attention(tokens, tokens if context is None else context, causal)
        )


class Perceptron(nn.Module):
    """The feed-forward sub-layer."""

    def __init__(self, norm_first: bool) -> None:
        super().__init__()
        self.norm_first, self.norm = norm_first, nn.LayerNorm(WIDTH)
        self.inner = nn.Sequential(
            nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        if self.norm_first:
            return tokens + self.inner(self.norm(tokens))
        return self.norm(tokens + self.inner(tokens))


class Towers(nn.Module):
    """Features of an image with a class token before them, and the words of a text."""

    def __init__(self, fused: bool, norm_first: bool) -> None:
        super().__init__()
        self.patch, self.word = nn.Linear(FEATURES, WIDTH), nn.Embedding(VOCABULARY, WIDTH)
        self.class_token = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.places = nn.Parameter(torch.randn(1, 1 + PATCHES, WIDTH))
        self.positions = nn.Parameter(torch.randn(1, WORDS, WIDTH))
        self.image = nn.ModuleList([AttentionLayer(fused, norm_first), Perceptron(norm_first)])
        self.text = nn.ModuleList([AttentionLayer(fused, norm_first), Perceptron(norm_first)])
        self.to_image, self.to_text = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, features: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
        patches = self.patch(features)
        image = torch.cat([self.class_token.expand(len(patches), -1, -1), patches], 1) + self.places
        text = self.word(words) + self.positions
        image = self.image[1](self.image[0](image))
        text = self.text[1](self.text[0](text, causal=True))
        return self.to_image(image), self.to_text(text)


class JointMapper(nn.Module):
    """Mapper A: both towers side by side in one self-attention."""

    def __init__(self, *, fused: bool = False, norm_first: bool = True, depth: int = 2) -> None:
        super().__init__()
        self.towers = Towers(fused, norm_first)
        self.attentions = nn.ModuleList([AttentionLayer(fused, norm_first) for _ in range(depth)])
        self.perceptrons = nn.ModuleList([Perceptron(norm_first) for _ in range(depth)])
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, CLASSES)

    def forward(self, features: Tensor, words: Tensor) -> Tensor:
        tokens = torch.cat(self.towers(features, words), dim=1)
        for attention, perceptron in zip(self.attentions, self.perceptrons, strict=True):
            tokens = perceptron(attention(tokens))
        return self.head(self.norm(tokens)[:, 0])

    def sublayers(self) -> list[SubLayer]:
        """The attention sub-layers in the order in which they run."""
        both = ("image", "text")
        return TOWER_LAYERS + [
            SubLayer(both, both, (f"attentions.{i}", 0), f"attentions.{i}.attention", 2 + i)
            for i in range(len(self.attentions))
        ]


class Exchange(nn.Module):
    """A layer of mapper B: self-attention, exchange of keys and values, perceptron, per stream."""

    def __init__(self, fused: bool, norm_first: bool) -> None:
        super().__init__()
        self.image_self, self.text_self, self.image_cross, self.text_cross = (
            AttentionLayer(fused, norm_first) for _ in range(4)
        )
        self.image_last, self.text_last = Perceptron(norm_first), Perceptron(norm_first)

    def forward(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        image, text = self.image_self(image), self.text_self(text)
        image, text = self.image_cross(image, text), self.text_cross(text, image)
        return self.image_last(image), self.text_last(text)


class ExchangeMapper(nn.Module):
    """Mapper B: two streams that read each other."""

    def __init__(self, *, fused: bool = False, norm_first: bool = True, depth: int = 2) -> None:
        super().__init__()
        self.towers = Towers(fused, norm_first)
        self.layers = nn.ModuleList([Exchange(fused, norm_first) for _ in range(depth)])
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, CLASSES)

    def forward(self, features: Tensor, words: Tensor) -> Tensor:
        image, text = self.towers(features, words)
        for layer in self.layers:
            image, text = layer(image, text)
        return self.head(self.norm(image)[:, 0])

    def sublayers(self) -> list[SubLayer]:
        """The attention sub-layers in the order in which they run."""
        found = list(TOWER_LAYERS)
        for i in range(len(self.layers)):
            for kind, (query, key), step in (
                ("image_self", ("image", "image"), 2 + 3 * i),
                ("text_self", ("text", "text"), 3 + 3 * i),
                ("image_cross", ("image", "text"), 4 + 3 * i),
                ("text_cross", ("text", "image"), 4 + 3 * i),
            ):
                path = f"layers.{i}.{kind}"
                found.append(SubLayer((query,), (key,), (path, 0), f"{path}.attention", step))
        return found


class ReadingMapper(nn.Module):
    """A question that reads, layer by layer, the joint sequence of both towers."""

    def __init__(self, *, fused: bool = False, norm_first: bool = True, depth: int = 2) -> None:
        super().__init__()
        self.towers, self.ask = Towers(fused, norm_first), nn.Linear(FEATURES, WIDTH)
        self.joint = AttentionLayer(fused, norm_first)
        self.own = nn.ModuleList([AttentionLayer(fused, norm_first) for _ in range(depth)])
        self.cross = nn.ModuleList([AttentionLayer(fused, norm_first) for _ in range(depth)])
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, features: Tensor, words: Tensor, question: Tensor) -> Tensor:
        joint = self.joint(torch.cat(self.towers(features, words), dim=1))
        asked = self.ask(question)
        for own, cross in zip(self.own, self.cross, strict=True):
            asked = cross(own(asked), joint)
        return self.head(asked[:, 0])

    def sublayers(self) -> list[SubLayer]:
        """The attention sub-layers in the order in which they run."""
        both, own = ("image", "text"), ("question",)
        found = [*TOWER_LAYERS, SubLayer(both, both, ("joint", 0), "joint.attention", 2)]
        for i in range(len(self.own)):
            step = 3 + 2 * i
            found.append(SubLayer(own, own, (f"own.{i}", 0), f"own.{i}.attention", step))
            found.append(SubLayer(own, both, (f"cross.{i}", 0), f"cross.{i}.attention", step + 1))
        return found


TOWER_LAYERS = [
    SubLayer(("image",), ("image",), ("towers.image.0", 0), "towers.image.0.attention", 0),
    SubLayer(("text",), ("text",), ("towers.text.0", 0), "towers.text.0.attention", 1),
]
SIZES = {"image": 1 + PATCHES, "text": WORDS}
QUESTION = 3


def sample(batch: int = 2) -> dict[str, Tensor]:
    """Inputs of the mappers A and B."""
    features = torch.randn(batch, PATCHES, FEATURES, dtype=torch.float64)
    return {"features": features, "words": torch.randint(0, VOCABULARY, (batch, WORDS))}


def sample_with_question(batch: int = 2) -> dict[str, Tensor]:
    """Inputs of the mapper that reads."""
    question = torch.randn(batch, QUESTION, FEATURES, dtype=torch.float64)
    return {**sample(batch), "question": question}
