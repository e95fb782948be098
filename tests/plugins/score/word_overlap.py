"""Word overlap: how many words a caption shares with the best of its references."""

from collections.abc import Sequence

import torch

from relmap.scoring import SCORES, Score, Words, check_captions


@SCORES.register("word-overlap")
def word_overlap(captions: Sequence[Words], references: Sequence[Sequence[Words]]) -> Score:
    """Jaccard index of the sets of words, |A and B| / |A or B|, the best of the references."""
    check_captions(captions, references)
    each = [
        max(len({*words} & {*text}) / len({*words, *text}) for text in texts if text)
        for words, texts in zip(captions, references, strict=True)
    ]
    return Score(sum(each) / len(each), torch.tensor(each, dtype=torch.float64))
