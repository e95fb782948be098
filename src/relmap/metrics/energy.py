"""Energy: how much of the map's positive relevance lies on the object?

The pointing game asks for one point; this asks for all of the map's mass, so that a map spread
over the background loses what it spreads. A uniform map scores the object's share of the image:
read the number beside the two controls.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from relmap.metrics import METRICS, check_maps, to_mask_size


@METRICS.register(
    "energy",
    direction="higher",
    category="localisation",
    reference="Wang et al., Score-CAM (energy-based pointing game), CVPR Workshops 2020",
    needs=("mask",),
)
def energy(
    scores: Float[Tensor, "batch rows columns"], mask: Bool[Tensor, "masks height width"]
) -> Float[Tensor, " batch"]:
    """Share of each map's positive relevance that lies inside its mask, between 0 and 1.

    energy = sum over p in mask of up(S⁺)[p] / sum over all p of up(S⁺)[p], where S⁺ = max(S, 0)
    is taken on the patches, before the bilinear interpolation up to the size of the mask.
    A map without positive relevance scores 0.

    Args:
        scores: One map per example, on the patch grid.
        mask: One mask per example, true inside the object.

    Raises:
        InputError: If a map or a mask cannot be judged.

    Example:
        >>> import torch
        >>> mask = torch.tensor([[[True, False], [False, False]]])
        >>> energy(torch.tensor([[[3.0, 1.0], [0.0, -2.0]]]), mask)
        tensor([0.7500])
    """
    check_maps(scores, mask)
    positive = to_mask_size(scores.clamp(min=0), mask).flatten(1)
    # the largest value is divided out first, so that no sum overflows or vanishes
    positive = positive / positive.amax(dim=1, keepdim=True).clamp(min=_TINY)
    inside = (positive * mask.flatten(1)).sum(dim=1)
    total = positive.sum(dim=1)
    return torch.where(total > 0, inside / total.clamp(min=_TINY), 0.0)


_TINY = torch.finfo(torch.float32).tiny
