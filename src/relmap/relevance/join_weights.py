"""How a join weighs its two addends, the residual stream and the attention beside it.

    R  <-  w_res R + w_att E R_keys

Each function here gives (w_res, w_att) of tokens from the sums of their rows of E and, where a
rule measures one, from a share of its own; see `relmap.relevance.rows.PropagationRule`.
"""

from __future__ import annotations

import torch
from torch import Tensor

Weights = tuple[Tensor, Tensor]


def added_up(sums: Tensor, share: Tensor | None) -> Weights:
    """(1, 1): both count whole, as in GenAtt."""
    return torch.ones_like(sums), torch.ones_like(sums)


def residual_alone(sums: Tensor, share: Tensor | None) -> Weights:
    """(1, 0): relevance stays on its token, and attention moves none."""
    return torch.ones_like(sums), torch.zeros_like(sums)


def attention_alone(sums: Tensor, share: Tensor | None) -> Weights:
    """(0, 1): all relevance moves with attention."""
    return torch.zeros_like(sums), torch.ones_like(sums)


def row_normalized(sums: Tensor, share: Tensor | None) -> Weights:
    """(1, 1) / (1 + sum of the row): the rows of I + E sum to one, as in rollout."""
    return 1 / (1 + sums), 1 / (1 + sums)


def shared_out(sums: Tensor, share: Tensor | None) -> Weights:
    """(share, 1 - share) on normalized rows of E; a row of zeros leaves all to the residual."""
    assert share is not None
    residual = torch.where(sums > 0, share, 1)
    return residual, 1 - residual


def both_scaled(sums: Tensor, share: Tensor | None) -> Weights:
    """(share, share): the token itself is scaled, wherever its relevance goes."""
    assert share is not None
    return share, share
