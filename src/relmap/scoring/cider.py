"""CIDEr: does the caption say what people said, counting rare word sequences most?"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch

from relmap.errors import InputError
from relmap.scoring import SCORES, Score, Words, check_captions, n_grams


@dataclass(frozen=True, eq=False)
class Documents:
    """In how many of a corpus' pictures an n-gram is in at least one reference."""

    frequency: Mapping[Words, int]
    pictures: int


def count_documents(references: Sequence[Sequence[Words]]) -> Documents:
    """Document frequencies of a corpus: the tokenised references of every picture.

    Raises:
        InputError: If there are fewer than two different pictures: all weights are 0 then.

    Example:
        >>> count_documents([[("a", "cat")], [("a", "dog"), ("a", "pup")]]).frequency["a",]
        2
    """
    pictures = [tuple(map(tuple, texts)) for texts in references]
    if len(set(pictures)) < 2:
        raise InputError(
            "CIDEr weighs words by how few pictures of a corpus they describe, and a single "
            "picture is no corpus: pass `documents`, from count_documents of a larger one"
        )
    frequency: Counter[Words] = Counter()
    for texts in pictures:
        frequency.update({gram for text in texts for gram in n_grams(text)})
    return Documents(frequency, len(pictures))


@SCORES.register("cider", reference="Vedantam et al., CIDEr, CVPR 2015, section 4 (CIDEr-D)")
def cider(
    captions: Sequence[Words],
    references: Sequence[Sequence[Words]],
    *,
    documents: Documents | None = None,
    sigma: int | float = 6,
) -> Score:
    """Agreement with the references in n-grams weighted by tf-idf (CIDEr-D, as COCO computes it).

    CIDEr = 10 mean over n = 1..4 and references r of exp(-(l_c - l_r)² / 2 σ²) min(g_c, g_r) · g_r
    / (|g_c| |g_r|), where g is the vector of a sentence's n-grams, count times log(pictures /
    pictures that have it in a reference), the minimum is taken entry by entry, and l are lengths.
    Overall is the mean. One caption scores between 0 and 10; 1 is what tables print as 100.

    Scores of different corpora do not compare, since the weights are the corpus'.

    Args:
        documents: Document frequencies; without them the references given are the corpus.

    Raises:
        InputError: If captions and references do not fit, or the corpus is a single picture.

    Example:
        >>> score = cider([("a", "cat"), ("a", "dog")], [[("a", "cat")], [("a", "pup")]])
        >>> score.each.tolist()  # "cat" and "a cat" are of weight, longer n-grams there are none
        [5.0, 0.0]
    """
    check_captions(captions, references)
    corpus = count_documents(references) if documents is None else documents
    if not sigma > 0:
        raise InputError(f"sigma is a length in words, more than 0; got {sigma}")
    each = [
        _score(tuple(words), tuple(map(tuple, texts)), corpus, sigma)
        for words, texts in zip(captions, references, strict=True)
    ]
    return Score(math.fsum(each) / len(each), torch.tensor(each, dtype=torch.float64))


@dataclass(frozen=True, eq=False)
class _Weighted:
    """The tf-idf vector of a sentence, its norm for each n, and its length."""

    weights: Mapping[Words, float]
    norms: tuple[float, ...]
    length: int


def _weigh(words: Words, corpus: Documents) -> _Weighted:
    known = math.log(corpus.pictures)
    weights = {
        gram: count * (known - math.log(max(1, corpus.frequency.get(gram, 0))))
        for gram, count in n_grams(words).items()
    }
    squares = [0.0] * 4
    for gram, weight in weights.items():
        squares[len(gram) - 1] += weight**2
    # The published code counts pairs of words for words: it tells nothing from a single word.
    return _Weighted(weights, tuple(map(math.sqrt, squares)), max(0, len(words) - 1))


@lru_cache(maxsize=16)  # a caption is compared again and again, each time without another word
def _weigh_all(references: tuple[Words, ...], corpus: Documents) -> tuple[_Weighted, ...]:
    return tuple(_weigh(text, corpus) for text in references)


def _score(
    words: Words, references: tuple[Words, ...], corpus: Documents, sigma: int | float
) -> float:
    caption, total = _weigh(words, corpus), 0.0
    for text in _weigh_all(references, corpus):
        common = [0.0] * 4
        for gram, weight in caption.weights.items():
            other = text.weights.get(gram, 0.0)
            common[len(gram) - 1] += min(weight, other) * other
        penalty = math.exp(-((caption.length - text.length) ** 2) / (2 * sigma**2))
        norms = [a * b for a, b in zip(caption.norms, text.norms, strict=True)]
        total += penalty * sum(c / n for c, n in zip(common, norms, strict=True) if n > 0)
    return 10 * total / 4 / len(references)
