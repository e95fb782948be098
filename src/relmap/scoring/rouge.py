"""ROUGE-L: how much of the references the caption says in the same order."""

from collections.abc import Sequence

import torch

from relmap.scoring import SCORES, Score, Words, check_captions

_BETA = 1.2  # recall counts this much more than precision, as COCO's evaluation has it


@SCORES.register("rouge-l", aliases=("rouge",), reference="Lin, ROUGE, ACL workshop 2004")
def rouge_l(captions: Sequence[Words], references: Sequence[Sequence[Words]]) -> Score:
    """F-measure of the longest common subsequence of words, at the best of the references.

    ROUGE-L = (1 + β²) P R / (R + β² P), where P and R are the length of the longest common
    subsequence divided by that of the caption and of the reference, each the maximum over the
    references, and β = 1.2. Overall is the mean.

    Raises:
        InputError: If captions and references do not fit.

    Example:
        >>> score = rouge_l([("a", "star", "above")], [[("a", "red", "star")]])
        >>> round(score.overall, 3)  # two of three words each way
        0.667
    """
    check_captions(captions, references)
    each = [_score(words, texts) for words, texts in zip(captions, references, strict=True)]
    return Score(sum(each) / len(each), torch.tensor(each, dtype=torch.float64))


def _score(words: Words, references: Sequence[Words]) -> float:
    common = [_longest_common(words, text) for text in references]
    precision = max(common) / max(1, len(words))
    recall = max(
        length / max(1, len(text)) for length, text in zip(common, references, strict=True)
    )
    if precision == 0:
        return 0.0
    return (1 + _BETA**2) * precision * recall / (recall + _BETA**2 * precision)


def _longest_common(first: Words, second: Words) -> int:
    """Length of the longest sequence of words that both contain, with gaps allowed."""
    row = [0] * (len(second) + 1)
    for word in first:
        before = row
        row = [0]
        for at, other in enumerate(second):
            row.append(before[at] + 1 if word == other else max(row[at], before[at + 1]))
    return row[-1]
