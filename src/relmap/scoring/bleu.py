"""BLEU: how much of the caption is in the references, word sequence by word sequence."""

from collections.abc import Sequence

import torch

from relmap.scoring import SCORES, Score, Words, check_captions, published


@SCORES.register(
    "bleu-4",
    aliases=("bleu4", "bleu"),
    reference="Papineni et al., BLEU, ACL 2002",
    ready=published,
)
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
        MissingExtraError: If the extra `captions` is not installed.

    Example:
        >>> score = bleu_4([("a", "red", "star", "above")], [[("a", "red", "star", "above", "it")]])
        >>> round(score.overall, 3)  # exp(1 - 5 / 4)
        0.779
    """
    check_captions(captions, references)
    scorer = published("bleu.bleu_scorer").BleuScorer()
    for words, texts in zip(captions, references, strict=True):
        scorer += (" ".join(words), [" ".join(text) for text in texts])
    overall, each = scorer.compute_score(option="closest")
    return Score(overall[3], torch.tensor(each[3], dtype=torch.float64))
