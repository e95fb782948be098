"""Precision at k: how many of the k most relevant patches lie on the object."""

import torch
from torch import Tensor

from relmap import InputError
from relmap.metrics import METRICS, check_maps, to_mask_size


@METRICS.register("precision-at-k", direction="higher", category="localisation", needs=("mask",))
def precision_at_k(scores: Tensor, mask: Tensor, *, k: int = 10) -> Tensor:
    """Share of the k most relevant patches that lie mostly on the object, between 0 and 1."""
    check_maps(scores, mask)
    if not 1 <= k <= scores[0].numel():
        raise InputError(f"k={k}, but a map has {scores[0].numel()} patches: choose 1 to that many")
    cells = torch.arange(scores[0].numel()).reshape(scores[0].shape).expand(scores.shape)
    shares = []
    for relevance, places, inside in zip(scores, cells, mask, strict=True):
        best = places.flatten()[relevance.flatten().topk(k).indices]
        covered = torch.stack([_share_inside(int(cell), relevance, inside) for cell in best])
        shares.append((covered > 0.5).double().mean())
    return torch.stack(shares)


def _share_inside(cell: int, relevance: Tensor, inside: Tensor) -> Tensor:
    """How much of a patch the object covers."""
    alone = torch.zeros_like(relevance)
    alone.flatten()[cell] = 1
    weight = to_mask_size(alone[None], inside[None])[0]
    return (weight * inside).sum() / weight.sum()
