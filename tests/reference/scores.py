"""Scores of answers and captions, written literally from their papers: slow, and with no tricks.

VQA accuracy leaves out one person at a time and counts; CIDEr-D writes every sentence as a dense
vector over all n-grams of the corpus; BLEU lists the n-grams and crosses them off one by one.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence

import numpy as np

# The published rules, as examples of their own: what is said, and what it is compared as.
ANSWERS = {
    "Yes": "yes",
    " no\n": "no",
    "the  Dog.": "dog",
    "an apple and a pear": "apple and pear",
    "ten": "10",
    "none": "0",
    "Two dogs": "2 dogs",
    "twenty one": "twenty 1",
    "dont know": "don't know",
    "it's": "it's",
    "girl's": "girl's",
    "2:50 pm": "2:50 pm",
    "1,000": "1000",
    "100,978 - people": "100978 people",
    "red,blue": "red blue",
    "red, blue": "red blue",
    "red/blue": "red blue",
    "t-shirt": "t shirt",
    "5.5": "5.5",
    "5.": "5",
    "u.s.a.": "usa",
    "why?!": "why",
    "(left)": "left",
    "couldn'tve": "couldn't've",
    "yall'd've": "y'all'd've",
    "twas": "'twas",
    "hes": "he's",
    "i'm": "i'm",
    "im": "im",
    "somebody'd": "somebodyd",
    "the": "",
    "": "",
}


WORDS = ("a", "the", "red", "blue", "small", "star", "square", "circle", "left", "of", "and", "two")


def sentences(count: int, seed: int, shortest: int, longest: int = 12) -> list[tuple[str, ...]]:
    draw = random.Random(seed)
    return [tuple(draw.choices(WORDS, k=draw.randint(shortest, longest))) for _ in range(count)]


def corpus(pictures: int = 12, seed: int = 0, shortest: int = 4):
    """Captions and references that share words, of different lengths and numbers."""
    draw = random.Random(seed)
    captions, references = sentences(pictures, seed, shortest), []
    for at, words in enumerate(captions):
        texts = sentences(draw.randint(1, 4), 100 * seed + at, shortest)
        middle = draw.randint(0, len(words))
        references.append((*texts, (*words[:middle], "two", *words[middle:])))
    return captions, references


def vqa_accuracy(answer: str, humans: Sequence[str]) -> float:
    """Mean over all subsets of all people but one, of answers already normalised."""
    scores = []
    for others in itertools.combinations(humans, len(humans) - 1):
        scores.append(min(len([one for one in others if one == answer]) / 3, 1.0))
    return sum(scores) / len(scores)


def grams(words: Sequence[str], length: int) -> list[str]:
    return [" ".join(words[at : at + length]) for at in range(len(words) - length + 1)]


def bleu_4(captions: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]):
    """BLEU-4 of a corpus, where every n-gram order has at least one match."""
    matched, total, length, nearest = [0] * 4, [0] * 4, 0, 0
    for words, texts in zip(captions, references, strict=True):
        length += len(words)
        nearest += sorted((abs(len(text) - len(words)), len(text)) for text in texts)[0][1]
        for n in range(1, 5):
            total[n - 1] += len(grams(words, n))
            for gram in set(grams(words, n)):
                most = max(grams(text, n).count(gram) for text in texts)
                matched[n - 1] += min(grams(words, n).count(gram), most)
    assert all(matched), "the literal form has no answer without matches"
    precision = math.exp(sum(math.log(m / t) for m, t in zip(matched, total, strict=True)) / 4)
    return precision * (1.0 if length > nearest else math.exp(1 - nearest / length))


def cider_d(
    captions: Sequence[Sequence[str]],
    references: Sequence[Sequence[Sequence[str]]],
    corpus: Sequence[Sequence[Sequence[str]]],
) -> np.ndarray:
    """CIDEr-D of every caption, with document frequencies from the references of a corpus."""
    total = np.zeros(len(captions))
    for n in range(1, 5):
        every = [*captions, *itertools.chain(*references), *itertools.chain(*corpus)]
        axes = sorted({gram for words in every for gram in grams(words, n)})
        in_pictures = [
            sum(any(axis in grams(text, n) for text in texts) for texts in corpus) for axis in axes
        ]
        weight = np.log(len(corpus) / np.maximum(1, np.array(in_pictures, dtype=float)))

        def vector(words, n=n, axes=axes, weight=weight):
            found = grams(words, n)
            return np.array([found.count(axis) for axis in axes]) * weight

        for at, (words, texts) in enumerate(zip(captions, references, strict=True)):
            mine, scores = vector(words), []
            for text in texts:
                other = vector(text)
                size = np.linalg.norm(mine) * np.linalg.norm(other)
                cosine = np.minimum(mine, other) @ other / size if size else 0.0
                scores.append(cosine * np.exp(-((len(words) - len(text)) ** 2) / (2 * 6.0**2)))
            total[at] += 10 * np.mean(scores) / 4
    return total
