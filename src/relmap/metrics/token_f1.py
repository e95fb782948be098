"""Token F1: are the words that the map ranks highest the words that people marked?

This is plausibility, not faithfulness: it asks whether people would explain the class by the same
words, and a model that is right for other reasons than theirs is punished for a true map.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from relmap.errors import InputError
from relmap.metrics import METRICS
from relmap.metrics.precision_recall import average_precision, precision_recall_area

__all__ = ["token_f1"]

STEPS = tuple(range(5, 85, 5))
SHARED = 0.5  # of a span and a marked one: the overlap from which ERASER counts a match


def _f1(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0


def _sum(values: np.ndarray) -> float:
    return float(values[np.isfinite(values)].sum())


def _micro_f1(values: Mapping[str, np.ndarray]) -> float:
    """F1 of all words of the data set together."""
    found = _sum(values["chosen"]) + _sum(values["marked"])
    return 2 * _sum(values["hits"]) / found if found > 0 else float("nan")


def _iou_f1(values: Mapping[str, np.ndarray]) -> float:
    """F1 of the mean precision and the mean recall of spans."""
    precision, recall = values["iou-precision"], values["iou-recall"]
    judged = np.isfinite(precision) & np.isfinite(recall)
    if not judged.any():
        return float("nan")
    return _f1(float(precision[judged].mean()), float(recall[judged].mean()))


@METRICS.register(
    "token-f1",
    direction={
        "precision": "higher",
        "recall": "higher",
        "f1": "higher",
        "iou": "higher",
        "iou-precision": "higher",
        "iou-recall": "higher",
        "auprc": "higher",
        "average-precision": "higher",
        "micro-f1": "higher",
        "iou-f1": "higher",
        **{f"f1@{step}": "higher" for step in STEPS},
    },
    category="plausibility",
    reference="DeYoung et al., ERASER: A Benchmark to Evaluate Rationalized NLP Models, ACL 2020, "
    "section 4.1; f1@k: Chefer et al., CVPR 2021, section 4",
    needs=("words",),
    summary={"micro-f1": _micro_f1, "iou-f1": _iou_f1},
)
def token_f1(
    scores: Float[Tensor, " word"],
    truth: Bool[Tensor, " word"],
    *,
    k: int | float | None = None,
    steps: Sequence[int] = STEPS,
    clamp: bool = False,
) -> dict[str, float]:
    """How far the highest words of one text are those that people marked, from 0 to 1.

    With C the k highest words, of equal scores the first ones, and T the marked words:
    precision = |C ∩ T| / |C|, recall = |C ∩ T| / |T|, f1 = 2 |C ∩ T| / (|C| + |T|),
    iou = |C ∩ T| / |C ∪ T|. Over a data set the mean of `f1` is ERASER's token F1 (instance,
    macro), and `micro-f1` takes all words together.

    `f1@5`, `f1@10`, ..., `f1@80` is f1 with that many words, or with all of a text that has fewer.
    `auprc`, the area under the precision-recall curve by the trapezoid rule, and
    `average-precision` ask for no k; random scores get about |T| / words of the latter, which is
    NaN, as in ERASER, where all words are marked.

    `iou-precision` and `iou-recall` compare spans, runs of neighbouring words: a span of C matches
    if it shares at least half of its union with some span of T. Their means give `iou-f1`. It
    judges how compact C is as much as where it lies. Marked spans that touch are one span here.

    A text of which no word is marked is NaN in everything: leave it out of the means.

    Args:
        scores: The relevance of every word, see `relmap.metrics.word_scores.word_scores`.
        truth: Which words people marked.
        k: How many words make C: None for as many as are marked, which makes precision, recall and
            f1 equal; a whole number; or a share of the words between 0 and 1, rounded up.
        steps: The numbers of words of `f1@...`.
        clamp: Set negative scores to 0 first, as Chefer et al. do; they then rank equal.

    Raises:
        InputError: Scores and marks differ in length, a score is not finite, or an option is wrong.

    Example:
        >>> marked = torch.tensor([True, True, False, False])
        >>> found = token_f1(torch.tensor([0.9, 0.1, 0.8, 0.0]), marked)
        >>> found["f1"], round(found["iou"], 3), round(found["average-precision"], 3)
        (0.5, 0.333, 0.833)
    """
    _check(scores, truth, k, steps)
    if clamp:
        scores = scores.clamp(min=0)
    words, marked = len(truth), int(truth.sum())
    if marked == 0:
        return dict.fromkeys(_names(steps), float("nan"))
    order = scores.argsort(descending=True, stable=True)
    hits = truth[order].cumsum(dim=0)
    count = min(words, _how_many(k, words, marked))
    right = int(hits[count - 1])
    chosen = torch.zeros_like(truth)
    chosen[order[:count]] = True
    span_precision, span_recall = _span_match(chosen, truth)
    ranked = (scores[None], truth[None])
    found: dict[str, float] = {
        "precision": right / count,
        "recall": right / marked,
        "f1": 2 * right / (count + marked),
        "iou": right / (count + marked - right),
        "iou-precision": span_precision,
        "iou-recall": span_recall,
        "auprc": precision_recall_area(*ranked).item(),
        "average-precision": average_precision(*ranked).item() if marked < words else float("nan"),
        "hits": float(right),
        "chosen": float(count),
        "marked": float(marked),
    }
    for step in steps:
        number = min(step, words)
        found[f"f1@{step}"] = 2 * int(hits[number - 1]) / (number + marked)
    return found


_NAMES = (
    "precision",
    "recall",
    "f1",
    "iou",
    "iou-precision",
    "iou-recall",
    "auprc",
    "average-precision",
    "hits",
    "chosen",
    "marked",
)


def _names(steps: Sequence[int]) -> list[str]:
    return [*_NAMES, *(f"f1@{step}" for step in steps)]


def _check(scores: Tensor, truth: Tensor, k: int | float | None, steps: Sequence[int]) -> None:
    if scores.ndim != 1 or scores.shape != truth.shape or truth.dtype != torch.bool:
        raise InputError(
            f"token-f1 takes one score and one mark, a boolean, for every word of a text; got "
            f"{tuple(scores.shape)} scores and {tuple(truth.shape)} marks of {truth.dtype}"
        )
    if not scores.isfinite().all():
        raise InputError("a word's score is NaN or infinite, which no metric can judge")
    whole = isinstance(k, int) and not isinstance(k, bool) and k >= 1
    if not (k is None or whole or (isinstance(k, float) and 0 < k < 1)):
        raise InputError(f"k is a number of words, a share between 0 and 1, or None; got {k!r}")
    if any(isinstance(step, bool) or not isinstance(step, int) or step < 1 for step in steps):
        raise InputError(f"steps are numbers of words, 1 or more; got {tuple(steps)}")


def _how_many(k: int | float | None, words: int, marked: int) -> int:
    if k is None:
        return marked
    # 7 % of a hundred words are seven, also where the product lies a little above it
    return k if isinstance(k, int) else max(1, int(np.ceil(round(k * words, 9))))


def _span_match(chosen: Tensor, truth: Tensor) -> tuple[float, float]:
    """Matched spans as a share of the chosen spans, and of the marked ones.

    As in ERASER's code, chosen spans with a match are what is counted, for recall too. Two runs
    can match one only if they are its halves, which then would touch and be one run: so no match
    is counted twice.
    """
    ours, theirs = _runs(chosen), _runs(truth)
    matched = sum(any(_overlap(one, other) >= SHARED for other in theirs) for one in ours)
    return matched / len(ours), matched / len(theirs)


def _runs(marks: Tensor) -> list[tuple[int, int]]:
    """Begin and end of every run of neighbouring words."""
    edges = torch.nn.functional.pad(marks.int(), (1, 1)).diff()
    return list(
        zip(
            (edges == 1).nonzero().flatten().tolist(),
            (edges == -1).nonzero().flatten().tolist(),
            strict=True,
        )
    )


def _overlap(one: tuple[int, int], other: tuple[int, int]) -> float:
    shared = max(0, min(one[1], other[1]) - max(one[0], other[0]))
    return shared / (one[1] - one[0] + other[1] - other[0] - shared)
