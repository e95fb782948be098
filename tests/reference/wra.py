"""Weighted relevance accumulation, equation by equation, with one N x N map over all inputs.

(8)      R = I
(10-14)  tokens that take no part are imagined to attend to themselves with score 1
(2, 12)  equivalent attention: mean over heads of the positive part of A * dA, rows normalised
(5, 15)  alpha: share of the mean positive Y * dY beside that of Y' * dY'
(4, 9)   R <- alpha R + beta (equivalent attention) R
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor

from .records import Record


def relevance_map(records: Sequence[Record], size: int, **options: str) -> Tensor:
    """R after the last sub-layer: rows are the current tokens, columns the inputs."""
    relevance = torch.eye(size, dtype=torch.float64)
    for _, group in groupby(records, key=lambda record: record.step):
        before = relevance.clone()
        for record in group:
            attention = extended_attention(record, size)
            alpha = residual_weight(record, size, **options)
            updated = alpha[:, None] * before + (1 - alpha)[:, None] * (attention @ before)
            absent = torch.ones(size, dtype=torch.bool)
            absent[record.rows] = False
            # The device of eq. 10-14: whoever takes no part keeps his row, to the last digit or so.
            torch.testing.assert_close(updated[absent], before[absent], rtol=0, atol=1e-14)
            relevance[record.rows] = updated[record.rows]
    return relevance


def residual_part(records: Sequence[Record], size: int, **options: str) -> Tensor:
    """What each token keeps of itself if only residual connections are walked."""
    kept = torch.ones(size, dtype=torch.float64)
    for record in records:
        alpha = residual_weight(record, size, **options)
        for row, token in enumerate(record.rows.tolist()):
            if _equivalent(record)[row].sum() > 0:
                kept[token] *= alpha[token]
    return kept


def extended_attention(record: Record, size: int) -> Tensor:
    """The equivalent attention among all tokens, absent ones included (eq. 13, 14)."""
    extended = torch.eye(size, dtype=torch.float64)
    equivalent = _equivalent(record)
    for row, token in enumerate(record.rows.tolist()):
        total = equivalent[row].sum()
        if total > 0:
            extended[token] = 0
            extended[token, record.columns] = equivalent[row] / total
    return extended


def _equivalent(record: Record) -> Tensor:
    return torch.relu(record.attention * record.attention_gradient).mean(0)


def residual_weight(
    record: Record,
    size: int,
    *,
    weights: str = "sensitivity",
    granularity: str = "layer",
    clamp: str = "element",
    gradient: str = "total",
) -> Tensor:
    """Alpha of every token; absent ones have any (here one half)."""
    alpha = torch.full((size,), 0.5, dtype=torch.float64)
    if weights == "equal":
        return alpha
    at_stream = record.after_gradient if gradient == "branch" else record.before_gradient
    kept = _importance(record.before * at_stream, clamp)
    taken = _importance(record.after * record.after_gradient, clamp)
    if granularity == "layer":
        kept, taken = kept.mean().expand_as(kept), taken.mean().expand_as(taken)
    total = kept + taken
    alpha[record.rows] = torch.where(total > 0, kept / total, 0.5)
    return alpha


def _importance(product: Tensor, clamp: str) -> Tensor:
    """Mean over features; the positive part is taken before it or after it."""
    return torch.relu(product).mean(-1) if clamp == "element" else torch.relu(product.mean(-1))
