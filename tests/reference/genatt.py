"""GenAtt and attention rollout, equation by equation, with one N x N map over all inputs.

(5)      C = mean over heads of the positive part of A * dA
(6, 7)   self-attention: all columns of the rows that ask get C times the rows that are read
(8, 9)   N(R) = (R - I) / rowsum(R - I) + I
(10)     cross-attention, s asks q:  R_sq += N(R_ss)^T C N(R_qq)
(11)     and                         R_ss += C R_qs
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor

from .records import Record


def relevance_map(
    records: Sequence[Record],
    size: int,
    *,
    normalize: bool = True,
    self_in_rule_10: bool = True,
    aggregate: bool = True,
) -> Tensor:
    """R after the last layer; side by side attentions read the maps as they were before."""
    relevance = torch.eye(size, dtype=torch.float64)
    for _, group in groupby(records, key=lambda record: record.step):
        before = relevance.clone()
        for record in group:
            weighted = torch.relu(record.attention * record.attention_gradient).mean(0)
            added = torch.zeros_like(relevance)
            if torch.equal(record.rows, record.columns):
                added[record.rows] = weighted @ before[record.rows]
                touched = torch.ones(len(record.rows), size, dtype=torch.bool)
            else:
                touched = torch.zeros(len(record.rows), size, dtype=torch.bool)
                touched[:, record.rows] = touched[:, record.columns] = True
                mine, theirs = _block(before, record.rows), _block(before, record.columns)
                if not self_in_rule_10:
                    both = weighted
                elif normalize:
                    both = normalised(mine).T @ weighted @ normalised(theirs)
                else:
                    both = mine.T @ weighted @ theirs
                _write(added, record.rows, record.columns, both)
                back = before[record.columns][:, record.rows]
                if _answered(record, records):
                    _write(added, record.rows, record.rows, weighted @ back)
                else:
                    touched[:, record.rows] = False
            kept = before[record.rows] if aggregate else before[record.rows] * ~touched
            relevance[record.rows] = kept + added[record.rows]
    return relevance


def _answered(record: Record, records: Sequence[Record]) -> bool:
    """Whether the tokens read ask back somewhere; eq. 11 speaks of nothing in a plain decoder."""
    return any(
        torch.equal(other.rows, record.columns) and torch.equal(other.columns, record.rows)
        for other in records
    )


def normalised(block: Tensor) -> Tensor:
    """Eq. 8 and 9; a row without relevance of others stays a row of the identity."""
    identity = torch.eye(len(block), dtype=block.dtype)
    beyond = block - identity
    for row in range(len(block)):
        total = beyond[row].sum()
        if total != 0:
            beyond[row] /= total
    return beyond + identity


def rollout(records: Sequence[Record], size: int, *, normalize: bool = True) -> Tensor:
    """Abnar and Zuidema's product of maps, with half an identity each, for self-attention."""
    relevance = torch.eye(size, dtype=torch.float64)
    for record in records:
        layer = torch.eye(size, dtype=torch.float64)
        mixed = torch.eye(len(record.rows), dtype=torch.float64) + record.attention.mean(0)
        if normalize:
            mixed = mixed / mixed.sum(-1, keepdim=True)
        layer[record.rows] = 0
        _write(layer, record.rows, record.columns, mixed)
        relevance = layer @ relevance
    return relevance


def rollout_across(records: Sequence[Record], rows: Tensor, columns: Tensor) -> Tensor:
    """Eq. 24-26 of the WRA paper: (self maps of s)^T, the last cross-attention, self maps of q.

    The self maps of the stream that asks are those before its last cross-attention; what comes
    after that multiplies its own map alone.
    """
    crossing = [
        torch.equal(one.rows, rows) and torch.equal(one.columns, columns) for one in records
    ]
    last = max(index for index, crosses in enumerate(crossing) if crosses)
    mine = _own(records[:last], rows)
    theirs = _own(records[:last], columns)
    return mine.T @ records[last].attention.mean(0) @ theirs


def _own(records: Sequence[Record], tokens: Tensor) -> Tensor:
    product = torch.eye(len(tokens), dtype=torch.float64)
    for record in records:
        if torch.equal(record.rows, tokens) and torch.equal(record.columns, tokens):
            mixed = torch.eye(len(tokens), dtype=torch.float64) + record.attention.mean(0)
            product = mixed / mixed.sum(-1, keepdim=True) @ product
    return product


def _block(whole: Tensor, tokens: Tensor) -> Tensor:
    return whole[tokens][:, tokens]


def _write(whole: Tensor, rows: Tensor, columns: Tensor, block: Tensor) -> None:
    whole[rows[:, None], columns[None, :]] = block
