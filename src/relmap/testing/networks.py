"""Tiny networks for contract tests: of pictures, of words, and of tokens that meet others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

WIDTH, HEADS, CLASSES = 16, 2, 3
SIZE, PATCH = 12, 4
WORDS = 40


@dataclass(frozen=True, eq=False)
class Subject:
    """A network in float64, with a batch of two examples for it.

    Where the answer is read `at_one_token`, whatever the target, a map that depends on the target
    does so by its method.
    """

    name: str
    network: nn.Module
    inputs: Mapping[str, Any]
    at_one_token: bool = False


class Looking(nn.Module):
    """Patches of a picture and a class token, through two layers of self-attention."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.first = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.places = nn.Parameter(torch.randn(1, (SIZE // PATCH) ** 2 + 1, WIDTH))
        self.layers = _encoder()
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Scores of the classes, read at the class token."""
        tokens = self.patches(pixel_values).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.first.expand(len(tokens), -1, -1), tokens], dim=1)
        return self.head(self.layers(tokens + self.places)[:, 0])


class Reading(nn.Module):
    """Words and their places, through two layers of self-attention; padding is masked."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, WIDTH)
        self.places = nn.Embedding(WORDS, WIDTH)
        self.layers = _encoder()
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Scores of the classes, read at the first token."""
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        tokens = self.words(input_ids) + self.places(places)
        return self.head(self.layers(tokens, src_key_padding_mask=attention_mask == 0)[:, 0])


class Meeting(nn.Module):
    """Tokens that attend to themselves and to those of another input, read as their mean."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerDecoderLayer(WIDTH, HEADS, 2 * WIDTH, batch_first=True)
        self.layers = nn.TransformerDecoder(layer, 2)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, tgt: Tensor, memory: Tensor) -> Tensor:
        """Scores of the classes."""
        return self.head(self.layers(tgt, memory).mean(dim=1))


def _encoder() -> nn.TransformerEncoder:
    layer = nn.TransformerEncoderLayer(
        WIDTH, HEADS, 2 * WIDTH, activation="gelu", batch_first=True, norm_first=True
    )
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


def looking() -> Subject:
    """A network of pictures."""
    pictures = torch.randn(2, 3, SIZE, SIZE, generator=_drawn(1), dtype=torch.float64)
    return Subject("a network of pictures", _made(Looking), {"pixel_values": pictures}, True)


def reading() -> Subject:
    """A network of words; the second text is shorter."""
    words = torch.randint(1, WORDS, (2, 6), generator=_drawn(2))
    mask = torch.ones_like(words)
    mask[1, 4:] = words[1, 4:] = 0
    inputs = {"input_ids": words, "attention_mask": mask}
    return Subject("a network of words", _made(Reading), inputs, True)


def meeting() -> Subject:
    """A network with cross-attention."""
    mine, theirs = (
        torch.randn(2, size, WIDTH, generator=_drawn(size), dtype=torch.float64) for size in (4, 5)
    )
    inputs = {"tgt": mine, "memory": theirs}
    return Subject("a network with cross-attention", _made(Meeting), inputs)


def subjects() -> tuple[Subject, ...]:
    """One of each."""
    return looking(), reading(), meeting()


def _drawn(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _made(kind: type[nn.Module]) -> nn.Module:
    """A network with weights of its own, whatever the caller draws before and after."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind().double().eval()
