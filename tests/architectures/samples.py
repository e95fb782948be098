"""Inputs small enough to be made by hand: pixels, words, boxes, spectrograms.

Every text has two examples; the second is padded at its end unless an architecture has no room for
padding. Token ids below five are left to separators, starts and ends.
"""

import torch
from torch import Tensor

VOCABULARY = 60
LENGTH = 7
IMAGE = 12
PATCH = 4
IMAGE_ID = 4  # the token that holds the place of an image

VISION = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": IMAGE,
    "patch_size": PATCH,
}
ENCODER = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
DECODER = {**ENCODER, "num_key_value_heads": 1}
LABELS = {"num_labels": 3}


def pixels(batch: int = 2, size: int | tuple[int, int] = IMAGE, channels: int = 3) -> Tensor:
    """Random images with the values that a processor would give."""
    rows, columns = (size, size) if isinstance(size, int) else size
    return torch.randn(batch, channels, rows, columns)


def words(batch: int = 2, length: int = LENGTH) -> Tensor:
    """Random token ids that are no special tokens."""
    return torch.randint(5, VOCABULARY, (batch, length))


def text(
    batch: int = 2, length: int = LENGTH, *, padding: int = 2, end: int | None = None
) -> dict[str, Tensor]:
    """Token ids and attention mask, the last example padded at its end; `end` closes each text."""
    ids, mask = words(batch, length), torch.ones(batch, length, dtype=torch.long)
    if end is not None:
        ids[:, -1] = end
    if padding and batch > 1:
        ids[-1, -padding:] = 0
        mask[-1, -padding:] = 0
        if end is not None:
            ids[-1, -padding - 1] = end
    return {"input_ids": ids, "attention_mask": mask}


def prompt(
    image_tokens: int, image_id: int = IMAGE_ID, *, batch: int = 2, length: int = 5
) -> dict[str, Tensor]:
    """A text of a vision-language model: a word, the places of the image tokens, the question."""
    ids = words(batch, 1 + image_tokens + length)
    ids[:, 1 : 1 + image_tokens] = image_id
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def boxes(batch: int = 2, length: int = LENGTH) -> Tensor:
    """The places of the words on a page: left, top, right, bottom, each from 0 to 10."""
    corners = torch.randint(0, 5, (batch, length, 2))
    return torch.cat([corners, corners + torch.randint(1, 6, (batch, length, 2))], -1)
