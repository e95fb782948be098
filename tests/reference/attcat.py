"""AttCAT from records: the class activation of each token times the attention it is given."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .records import Record


def relevance(records: Sequence[Record], size: int, attention: bool = True) -> Tensor:
    """Sum over sub-layers of mean_{h,i}(A_hij) <h_j, dy/dh_j>; of <v_j, dy/dv_j> across streams."""
    total = torch.zeros(size, dtype=torch.float64)
    for record in records:
        heads, queries, keys = record.attention.shape
        for key in range(keys):
            given = sum(
                record.attention[head, query, key].item() / heads / queries
                for head in range(heads)
                for query in range(queries)
            )
            if record.rows.tolist() == record.columns.tolist():
                product = record.before[key] @ record.before_gradient[key]
            else:  # dA_ij = <dO_i, v_j>, so that A dA summed over queries is <v_j, dy/dv_j>
                product = (record.attention * record.attention_gradient)[:, :, key].sum()
            total[record.columns[key]] += (given if attention else 1.0) * product
    return total
