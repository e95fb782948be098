"""SaCo: do units that are called twice as relevant matter twice as much?

Perturbation curves only see an order. The salience-guided faithfulness coefficient compares groups
of units pair by pair, weighing each pair by how different the map says they are: a map that ranks
well but exaggerates differences that do not exist is told apart from one that is right.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from relmap.errors import InputError
from relmap.metrics import METRICS
from relmap.metrics.trial import Measured, Trial

__all__ = ["coefficient", "saco"]


@METRICS.register(
    "saco",
    direction="higher",
    category="faithfulness",
    reference="Wu et al., On the Faithfulness of ViT Explanations (SaCo), CVPR 2024, alg. 1",
    needs=("model",),
)
def saco(trial: Trial, *, source: str = "image", groups: int = 10, fill: str = "") -> Measured:
    """The salience-guided faithfulness coefficient, between -1 and 1.

    Units in the order of relevance are cut into K groups of equal size; s_i is the relevance that
    group i sums up to, d_i = p(x) - p(x ∖ group i). Then
    SaCo = Σ_{i<j} w_ij / Σ_{i<j} |w_ij| with w_ij = s_i - s_j if d_i >= d_j, else -(s_i - s_j).
    1: every pair is in the order of its effects; 0: as good as chance. A map that says nothing
    (all equal) scores 0. The paper's code leaves K and the fill open: 10 and the mean are ours.

    Args:
        trial: The examples with their attribution, and the model.
        source: "image", "text" or "features".
        groups: K; fewer where an example has fewer units.
        fill: What hides a group; by default patches are made the mean, text and boxes taken out.

    Raises:
        InputError: Fewer than two groups, or the source or fill does not fit the model.

    Example:
        >>> coefficient(torch.tensor([[3.0, 1.0]]), torch.tensor([[0.5, 0.1]]))
        tensor([1.])
    """
    if groups < 2:
        raise InputError(f"groups={groups}: pairs need at least 2 groups")
    units = trial.units(source)
    ranks, number = units.ranks(), units.number[:, None]
    # group(rank) = floor(rank K / n): sizes differ by at most one
    group = (ranks * groups).div(number.clamp(min=1), rounding_mode="floor")
    member = group[:, None, :] == torch.arange(groups)[None, :, None]
    member &= units.counted[:, None, :]
    keep = torch.cat([torch.ones_like(member[:, :1]), ~member], dim=1)
    fill = fill or ("mean" if source == "image" else "remove")
    probability = trial.credit(trial.respond(units, keep, fill), "probability")
    effects = probability[:, :1] - probability[:, 1:]
    salience = (units.scores[:, None, :] * member).sum(dim=2)
    return {"saco": coefficient(salience, effects)}


def coefficient(
    salience: Float[Tensor, "example group"], effects: Float[Tensor, "example group"]
) -> Float[Tensor, " example"]:
    """SaCo from the salience of groups, most salient first, and what hiding each took away."""
    weights = salience[:, :, None] - salience[:, None, :]
    agree = effects[:, :, None] >= effects[:, None, :]
    pairs = torch.ones(weights.shape[1:], dtype=torch.bool).triu(diagonal=1)
    signed = torch.where(agree, weights, -weights)[:, pairs].sum(dim=1)
    total = weights[:, pairs].abs().sum(dim=1)
    return torch.where(total > 0, signed / total.where(total > 0, 1), 0)
