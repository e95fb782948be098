"""The Token Activation Map in loops over plain numbers, from a table of scores."""

from __future__ import annotations

import math


def token_map(
    logits: list[list[float]],
    ids: list[int],
    seen: list[int],
    word: int,
    interference: bool,
) -> tuple[list[float], list[float]]:
    """The map at the visual positions and the scores of the words, scaled to [0, 1] together."""
    said = [k for k in range(len(ids)) if k not in seen]
    activation = [max(logits[v][word], 0.0) for v in seen]
    scores = [max(logits[k][word], 0.0) for k in said]
    if interference:
        expected = _expected(logits, ids, seen, said, word)
        power = sum(value * value for value in expected)
        shared = sum(a * e for a, e in zip(activation, expected, strict=True))
        scale = shared / power if power else 0.0
        activation = [max(a - scale * e, 0.0) for a, e in zip(activation, expected, strict=True)]
    least, most = min(activation + scores), max(activation + scores)
    return (
        [(value - least) / (most - least) for value in activation],
        [(value - least) / (most - least) for value in scores],
    )


def _expected(
    logits: list[list[float]], ids: list[int], seen: list[int], said: list[int], word: int
) -> list[float]:
    """E: what the maps of the other words look like, weighted by how much they say the word."""
    expected, total = [0.0] * len(seen), 0.0
    for k in said:
        own = ids[k] if k != said[0] else max(range(len(logits[k])), key=logits[k].__getitem__)
        if own == word:
            continue
        weight = max(logits[k][word], 0.0)
        total += weight
        for place, v in enumerate(seen):
            expected[place] += weight * max(logits[v][own], 0.0)
    return [value / total for value in expected] if total else expected


def rank_gaussian(image: list[float], rows: int, columns: int) -> list[float]:
    """A Gaussian over the ranks of each 3 x 3 window, mirrored at the edges."""

    def mirrored(place: int, size: int) -> int:
        return -place if place < 0 else 2 * (size - 1) - place if place >= size else place

    smooth = []
    for row in range(rows):
        for column in range(columns):
            window = sorted(
                image[mirrored(row + i, rows) * columns + mirrored(column + j, columns)]
                for i in (-1, 0, 1)
                for j in (-1, 0, 1)
            )
            mean = sum(window) / 9
            variance = sum((value - mean) ** 2 for value in window) / 9
            if variance == 0:
                smooth.append(window[4])
                continue
            sigma = math.sqrt(variance) / mean
            weights = [math.exp(-((rank - 4) ** 2) / (2 * sigma**2)) for rank in range(9)]
            total = sum(weights)
            smooth.append(sum(w * v for w, v in zip(weights, window, strict=True)) / total)
    return smooth
