"""ROUGE-L: how much of the references the caption says in the same order."""

from collections.abc import Sequence

import torch

from relmap.scoring import SCORES, Score, Words, check_captions, published


@SCORES.register(
    "rouge-l",
    aliases=("rouge",),
    reference="Lin, ROUGE, ACL workshop 2004",
    ready=published,
)
def rouge_l(captions: Sequence[Words], references: Sequence[Sequence[Words]]) -> Score:
    """F-measure of the longest common subsequence of words, at the best of the references.

    ROUGE-L = (1 + β²) P R / (R + β² P), where P and R are the length of the longest common
    subsequence divided by that of the caption and of the reference, each the maximum over the
    references, and β = 1.2. Overall is the mean.

    Raises:
        InputError: If captions and references do not fit.
        MissingExtraError: If the extra `captions` is not installed.

    Example:
        >>> score = rouge_l([("a", "star", "above")], [[("a", "red", "star")]])
        >>> round(score.overall, 3)  # two of three words each way
        0.667
    """
    check_captions(captions, references)
    score = published("rouge.rouge").Rouge().calc_score
    each = [
        # an empty sentence is to it one word without letters, which another would match
        score([" ".join(words)], [" ".join(text) for text in texts if text]) if words else 0.0
        for words, texts in zip(captions, references, strict=True)
    ]
    return Score(sum(each) / len(each), torch.tensor(each, dtype=torch.float64))
