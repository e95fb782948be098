"""BLEU: how much of the caption is in the references, word sequence by word sequence."""

import math
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

import torch

from relmap.scoring import SCORES, Score, Words, check_captions, n_grams

# The constants of the published code. They decide what a caption scores that matches no 4-gram.
_TINY, _SMALL = 1e-15, 1e-9


@SCORES.register("bleu-4", aliases=("bleu4", "bleu"), reference="Papineni et al., BLEU, ACL 2002")
def bleu_4(captions: Sequence[Words], references: Sequence[Sequence[Words]]) -> Score:
    """Precision of a caption's sequences of one to four words, with a penalty for short captions.

    BLEU = min(1, exp(1 - r / c)) (p1 p2 p3 p4)^(1/4), where p_n is the share of the caption's
    n-grams that are in a reference (each counted at most as often as in the reference that has it
    most often), c its number of words, and r that of the reference nearest in length. Overall, the
    counts of all captions are summed before they are divided.

    A single caption without a 4-gram of its references scores almost 0, whatever else it has in
    common with them: for one caption, CIDEr or METEOR say more.

    Raises:
        InputError: If captions and references do not fit.

    Example:
        >>> score = bleu_4([("a", "red", "star", "above")], [[("a", "red", "star", "above", "it")]])
        >>> round(score.overall, 3)  # exp(1 - 5 / 4)
        0.779
    """
    check_captions(captions, references)
    rows = [
        _counts(tuple(words), tuple(map(tuple, texts)))
        for words, texts in zip(captions, references, strict=True)
    ]
    each = torch.tensor([_score(row) for row in rows], dtype=torch.float64)
    return Score(_score([sum(column) for column in zip(*rows, strict=True)]), each)


def _counts(words: Words, references: tuple[Words, ...]) -> list[int]:
    """Length, nearest length, then per n the matched and all n-grams of a caption."""
    most, matched = _most(references), [0] * 4
    for gram, count in n_grams(words).items():
        matched[len(gram) - 1] += min(count, most[gram])
    nearest = min((abs(len(text) - len(words)), len(text)) for text in references)[1]
    return [len(words), nearest, *matched, *(max(0, len(words) - n) for n in range(4))]


@lru_cache(maxsize=16)  # a caption is compared again and again, each time without another word
def _most(references: tuple[Words, ...]) -> Counter[Words]:
    """How often each n-gram occurs in the reference that has it most often."""
    most: Counter[Words] = Counter()
    for text in references:
        most |= n_grams(text)
    return most


def _score(counts: Sequence[int]) -> float:
    length, nearest, matched, grams = counts[0], counts[1], counts[2:6], counts[6:]
    precision = math.prod(
        (hits + _TINY) / (all_ + _SMALL) for hits, all_ in zip(matched, grams, strict=True)
    )
    ratio = (length + _TINY) / (nearest + _SMALL)
    return precision**0.25 * (math.exp(1 - 1 / ratio) if ratio < 1 else 1.0)
