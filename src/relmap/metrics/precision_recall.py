"""How well scores rank what is true before what is not: precision at every recall.

Every distinct score is a threshold: what is at least as high counts as found. Equal scores are
found together, so that the order in which they happen to lie decides nothing.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["average_precision", "precision_recall_area"]


def average_precision(
    scores: Float[Tensor, "batch item"], truth: Bool[Tensor, "batch item"]
) -> Float[Tensor, " batch"]:
    """Average precision of each row, AP = sum over n of (R_n - R_(n-1)) P_n, between 0 and 1.

    P_n and R_n are precision and recall at the n-th highest distinct score, R_0 = 0. In
    expectation, random scores get about the share of what is true; a row with nothing true is NaN.

    Example:
        >>> scores = torch.tensor([[0.9, 0.8, 0.7, 0.6]])
        >>> average_precision(scores, torch.tensor([[True, False, True, False]]))
        tensor([0.8333], dtype=torch.float64)
    """
    hits, last, precision = _curve(scores, truth)
    total = hits.sum(dim=1)
    # the step in recall at a threshold is made by the true items that lie exactly on it
    return (hits * precision.gather(1, last)).sum(dim=1) / torch.where(total > 0, total, torch.nan)


def precision_recall_area(
    scores: Float[Tensor, "batch item"], truth: Bool[Tensor, "batch item"]
) -> Float[Tensor, " batch"]:
    """Area under each row's precision-recall curve by the trapezoid rule, between 0 and 1.

    sum over n of (R_n - R_(n-1)) (P_n + P_(n-1)) / 2, from (R_0, P_0) = (0, 1). Straight lines
    between points of such a curve are too high, and much so where few distinct scores exist
    (Davis and Goadrich, ICML 2006): this is ERASER's AUPRC, and `average_precision` the better
    number. A row with nothing true is NaN.

    Example:
        >>> scores = torch.tensor([[0.9, 0.8, 0.7, 0.6]])
        >>> precision_recall_area(scores, torch.tensor([[True, False, True, False]]))
        tensor([0.7917], dtype=torch.float64)
    """
    hits, last, precision = _curve(scores, truth)
    total = hits.sum(dim=1)
    recall = hits.cumsum(dim=1) / torch.where(total > 0, total, torch.nan)[:, None]
    # within a run of equal scores every item stands at its end: steps of no width have no area
    recall, precision = recall.gather(1, last), precision.gather(1, last)
    before = torch.nn.functional.pad(recall[:, :-1], (1, 0), value=0.0)
    higher = torch.nn.functional.pad(precision[:, :-1], (1, 0), value=1.0)
    return ((recall - before) * (precision + higher) / 2).sum(dim=1)


def _curve(
    scores: Float[Tensor, "batch item"], truth: Bool[Tensor, "batch item"]
) -> tuple[Float[Tensor, "batch item"], Tensor, Float[Tensor, "batch item"]]:
    """By falling score: what is true, where a run of equal scores ends, the precision so far."""
    ordered, order = scores.sort(dim=1, descending=True)
    hits = truth.gather(1, order).double()
    count = torch.arange(1, scores.shape[1] + 1, device=scores.device)
    precision = hits.cumsum(dim=1) / count
    ends = torch.ones_like(truth)
    ends[:, :-1] = ordered[:, :-1] != ordered[:, 1:]
    place = torch.where(ends, count - 1, scores.shape[1])
    last = place.flip(1).cummin(dim=1).values.flip(1)
    return hits, last, precision
