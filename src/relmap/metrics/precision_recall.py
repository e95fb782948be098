"""How well scores rank what is true before what is not: precision at every recall.

Every distinct score is a threshold: what is at least as high counts as found. Equal scores are
found together, so that the order in which they happen to lie decides nothing. The curve is
scikit-learn's, the rows are ours: a row in which nothing is true has no number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from relmap.errors import MissingExtraError

__all__ = ["average_precision", "precision_recall_area"]


def average_precision(
    scores: Float[Tensor, "batch item"], truth: Bool[Tensor, "batch item"]
) -> Float[Tensor, " batch"]:
    """Average precision of each row, AP = sum over n of (R_n - R_(n-1)) P_n, between 0 and 1.

    P_n and R_n are precision and recall at the n-th highest distinct score, R_0 = 0. In
    expectation, random scores get about the share of what is true; a row with nothing true is NaN.

    Raises:
        MissingExtraError: scikit-learn is not installed.

    Example:
        >>> scores = torch.tensor([[0.9, 0.8, 0.7, 0.6]])
        >>> average_precision(scores, torch.tensor([[True, False, True, False]]))
        tensor([0.8333], dtype=torch.float64)
    """
    return _of_curves(scores, truth, lambda precision, steps: precision[:-1] @ steps)


def precision_recall_area(
    scores: Float[Tensor, "batch item"], truth: Bool[Tensor, "batch item"]
) -> Float[Tensor, " batch"]:
    """Area under each row's precision-recall curve by the trapezoid rule, between 0 and 1.

    sum over n of (R_n - R_(n-1)) (P_n + P_(n-1)) / 2, from (R_0, P_0) = (0, 1). Straight lines
    between points of such a curve are too high, and much so where few distinct scores exist
    (Davis and Goadrich, ICML 2006): this is ERASER's AUPRC, and `average_precision` the better
    number. A row with nothing true is NaN.

    Raises:
        MissingExtraError: scikit-learn is not installed.

    Example:
        >>> scores = torch.tensor([[0.9, 0.8, 0.7, 0.6]])
        >>> precision_recall_area(scores, torch.tensor([[True, False, True, False]]))
        tensor([0.7917], dtype=torch.float64)
    """
    return _of_curves(
        scores, truth, lambda precision, steps: (precision[:-1] + precision[1:]) @ steps / 2
    )


def _of_curves(
    scores: Tensor, truth: Tensor, area: Callable[[np.ndarray, np.ndarray], Any]
) -> Float[Tensor, " batch"]:
    """What `area` makes of the precisions and of the steps in recall of every row."""
    try:
        from sklearn.metrics import precision_recall_curve
    except ImportError as error:
        raise MissingExtraError("evaluate") from error
    rows = []
    for row, true in zip(scores.double().cpu().numpy(), truth.cpu().numpy(), strict=True):
        if not true.any():
            rows.append(np.nan)
            continue
        precision, recall, _ = precision_recall_curve(true, row)
        rows.append(float(area(precision, recall[:-1] - recall[1:])))
    return torch.tensor(rows, dtype=torch.float64, device=scores.device)
