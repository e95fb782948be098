"""From tokens to words: people mark words, models score pieces of them.

Words are whitespace words, as spans of characters of the text; tokens come with their own spans,
which tokenizers call offsets.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from relmap.errors import InputError

__all__ = ["marked_words", "word_scores", "word_spans"]

Span = tuple[int, int]


def word_spans(text: str) -> list[Span]:
    """Where each whitespace word of a text begins and ends, in characters.

    Example:
        >>> word_spans("a cat,  asleep")
        [(0, 1), (2, 6), (8, 14)]
    """
    return [found.span() for found in re.finditer(r"\S+", text)]


def marked_words(words: Sequence[Span], marks: Sequence[Span]) -> Bool[Tensor, " word"]:
    """Which words share a character with a span that people marked.

    Example:
        >>> marked_words([(0, 1), (2, 6), (8, 14)], [(2, 5)])
        tensor([False,  True, False])
    """
    return _touching(words, marks).any(dim=1)


def word_scores(
    offsets: Sequence[Span],
    scores: Float[Tensor, " token"],
    words: Sequence[Span],
    reduce: str = "max",
) -> Float[Tensor, " word"]:
    """The score of every word, from the scores of the tokens that share a character with it.

    s_w = max, sum or mean of { r_t : [begin_t, end_t) and [begin_w, end_w) overlap }. Tokens
    without characters, as special tokens are, belong to no word. A word without tokens, such as
    one that was cut off at the model's longest input, scores 0: no relevance is known of it. A
    token over several words counts for each, so that sums conserve relevance only where no token
    does that.

    Args:
        offsets: Begin and end of every token in the text, in characters; the end is exclusive.
        scores: The relevance of every token.
        words: Begin and end of every word, as `word_spans` gives them.
        reduce: "max", as in Chefer et al. 2021 (where scores are clamped at 0 first); "sum", which
            keeps the total of signed relevance; or "mean".

    Raises:
        InputError: There are not as many offsets as scores, or `reduce` is unknown.

    Example:
        >>> offsets = [(0, 0), (0, 1), (2, 4), (4, 6), (0, 0)]  # [CLS] a sl ##ed [SEP]
        >>> word_scores(offsets, torch.tensor([9.0, 1.0, 2.0, 3.0, 9.0]), word_spans("a sled"))
        tensor([1., 3.])
    """
    if len(offsets) != len(scores):
        raise InputError(
            f"every token needs its offsets: {len(offsets)} offsets and {len(scores)} scores"
        )
    if reduce not in ("max", "sum", "mean"):
        raise InputError(f"reduce is 'max', 'sum' or 'mean', got {reduce!r}")
    touching = _touching(words, offsets).to(scores.device)
    tokens = touching.sum(dim=1)
    if reduce == "max":
        low = torch.finfo(scores.dtype).min
        found = scores.expand(len(words), -1).masked_fill(~touching, low)
        # amax refuses a text without tokens, where every word scores 0 all the same
        found = found.amax(dim=1) if len(scores) else scores.new_zeros(len(words))
    else:
        # no matrix product: it would spread a score that is not finite to every word
        found = scores.expand(len(words), -1).masked_fill(~touching, 0).sum(dim=1)
        if reduce == "mean":
            found = found / tokens.clamp(min=1)
    return found.masked_fill(tokens == 0, 0)


def _touching(some: Sequence[Span], others: Sequence[Span]) -> Bool[Tensor, "some other"]:
    """Which spans of the one kind share a character with which of the other."""
    left = torch.tensor(list(some), dtype=torch.long).reshape(-1, 2)
    right = torch.tensor(list(others), dtype=torch.long).reshape(-1, 2)
    begin = torch.maximum(left[:, None, 0], right[None, :, 0])
    end = torch.minimum(left[:, None, 1], right[None, :, 1])
    return begin < end
