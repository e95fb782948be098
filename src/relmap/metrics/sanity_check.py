"""The sanity check: does the map still look the same when the model has forgotten what it learned?

Weights are randomised from the output downwards, layer after layer. A map that hardly changes was
never about the model: an edge detector would pass for an explanation.
"""

from __future__ import annotations

import copy
import zlib

import torch
from jaxtyping import Float
from torch import Tensor, nn

from relmap.errors import InputError
from relmap.metrics import METRICS
from relmap.metrics.trial import Curve, Measured, Trial
from relmap.result.attribution import Attribution

__all__ = ["randomised", "rank_correlation", "sanity_check"]


@METRICS.register(
    "sanity-check",
    direction="lower",
    category="randomisation",
    reference="Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018 (cascading)",
    needs=("model",),
)
def sanity_check(
    trial: Trial, *, source: str = "image", stages: int = 4, seed: int = 0
) -> Measured:
    """Rank correlation of a map with those of the model randomised ever further, in [-1, 1].

    sanity-check = 1/K · Σ_k ρ(|r|, |r_k|), with ρ Spearman's rank correlation over content units
    and r_k the same method's map when the last k/K of the weight tensors, from the output down,
    have their values shuffled: each keeps its distribution and loses what it learned (the paper
    draws anew from the initialisation, which a model does not tell). The explained class stays.
    The curve shows every stage. Lower is better; a map that depends on nothing learned scores
    near 1. Passing proves little: a random map passes too.

    Args:
        trial: The examples with their attribution, and the model.
        source: "image", "text" or "features".
        stages: K, how many networks are made.
        seed: Of the shuffling.

    Raises:
        InputError: There is no such source, or no stage.

    Example:
        >>> rising, squares = torch.tensor([[[1.0, 2.0, 3.0]], [[1.0, 4.0, 9.0]]])
        >>> found = rank_correlation(rising, squares)
        >>> round(found.item(), 4)
        1.0
    """
    if stages < 1:
        raise InputError(f"stages={stages}: give at least 1")
    shares = tuple((stage + 1) / stages for stage in range(stages))
    first = trial.units(source)
    found = []
    for share in shares:
        network = randomised(trial.subject.network, share, seed)
        other = _scores(trial.explain(network), source)
        found.append(_over_content(first.scores.abs(), other.abs(), first.counted))
    values = torch.stack(found, dim=1)
    return {"sanity-check": values.mean(dim=1), "sanity-check-curve": Curve(shares, values)}


def randomised(network: nn.Module, share: float, seed: int) -> nn.Module:
    """A copy of a network in which the last share of the weight tensors is shuffled.

    "Last" is the order in which a module's parameters are listed, which follows the forward pass
    in the libraries that this is meant for. Each tensor's shuffle depends on its name and the
    seed alone, so that a later stage goes on from the one before.
    """
    other = copy.deepcopy(network)
    tensors = list(other.named_parameters())
    kept = len(tensors) - max(1, round(share * len(tensors)))
    with torch.no_grad():
        for name, tensor in tensors[kept:]:
            generator = torch.Generator().manual_seed(seed + zlib.crc32(name.encode()))
            order = torch.randperm(tensor.numel(), generator=generator).to(tensor.device)
            tensor.copy_(tensor.flatten()[order].view_as(tensor))
    return other


def rank_correlation(
    some: Float[Tensor, "example unit"], other: Float[Tensor, "example unit"]
) -> Float[Tensor, " example"]:
    """Spearman's rank correlation: Pearson's of ranks, equal values sharing their mean rank.

    A map of equal values has no order, and correlates with nothing: 0.
    """
    left, right = _ranks(some), _ranks(other)
    left, right = (one - one.mean(dim=1, keepdim=True) for one in (left, right))
    norms = left.norm(dim=1) * right.norm(dim=1)
    return torch.where(norms > 0, (left * right).sum(dim=1) / norms.where(norms > 0, 1), 0)


def _ranks(values: Float[Tensor, "example unit"]) -> Tensor:
    rows = []
    for row in values:
        _, place, count = torch.unique(row, return_inverse=True, return_counts=True)
        last = count.cumsum(0)
        rows.append((last - (count - 1) / 2)[place].to(row.dtype))
    return torch.stack(rows)


def _scores(attribution: Attribution, source: str) -> Tensor:
    if source == "image":
        return attribution.image.scores.flatten(1).detach().cpu().double()
    names = [name for name, layout in attribution.layout.items() if layout.modality == source]
    return attribution.scores[names[0]].detach().cpu().double()


def _over_content(some: Tensor, other: Tensor, counted: Tensor) -> Float[Tensor, " example"]:
    return torch.cat(
        [
            rank_correlation(a[mask][None], b[mask][None])
            for a, b, mask in zip(some, other, counted, strict=True)
        ]
    )
