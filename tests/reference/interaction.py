"""The modified interaction map of WRA, with one N x N map over all inputs.

(16)  S = 0
(17)  S += R_q^T Ahat R_k, with the rows of R of the tokens that ask and of those that are read
(18)  Ahat: mean over heads of the positive part of A * dA, not normalised
(19)  M = S_mn * (S_nm)^T

R is carried by one of the methods' own references, one step at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

import torch
from torch import Tensor

from .records import Record

Carried = Callable[[Sequence[Record], int], Tensor]
"""(sub-layers so far, tokens) -> R after them."""


def interaction_sum(
    records: Sequence[Record],
    size: int,
    carried: Carried,
    own: Sequence[Tensor] = (),
    after: bool = False,
    counted: Callable[[Record], bool] = lambda record: True,
) -> Tensor:
    """S over all inputs, of the sub-layers that are counted.

    With `own` (the tokens of each source) only their diagonal blocks of R are read; with `after`, R
    is that of after the sub-layer.
    """
    total = torch.zeros(size, size, dtype=torch.float64)
    known: list[Record] = []
    for _, together in groupby(records, key=lambda record: record.step):
        group = list(together)
        # Attentions side by side read the same map.
        before = carried(known, size)
        known += group
        relevance = carried(known, size) if after else before
        if own:
            kept = torch.zeros_like(relevance)
            for tokens in own:
                kept[tokens[:, None], tokens] = relevance[tokens[:, None], tokens]
            relevance = kept
        for record in filter(counted, group):
            weighted = torch.relu(record.attention * record.attention_gradient).mean(0)
            total += relevance[record.rows].T @ weighted @ relevance[record.columns]
    return total


def across(record: Record, rows: Tensor, columns: Tensor) -> bool:
    """Whether tokens of one source ask and tokens of the other are read."""

    def holds(some: Tensor, wanted: Tensor) -> bool:
        return bool(torch.isin(wanted, some).any())

    return (holds(record.rows, rows) and holds(record.columns, columns)) or (
        holds(record.rows, columns) and holds(record.columns, rows)
    )
