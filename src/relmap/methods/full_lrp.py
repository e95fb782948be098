"""Full LRP: relevance followed from the output to the tokens, and to the pixels."""

from __future__ import annotations

from torch import Tensor

from relmap.methods import METHODS
from relmap.relevance.entering_tokens import read_entrance
from relmap.relevance.traced_pass import RecordedPass


def pixel_relevance(passed: RecordedPass) -> dict[str, Tensor]:
    """The relevance of every pixel, summed over colour channels, with its sign: (batch, h, w)."""
    batch = passed.graph.batch
    return {
        name: found.sum(dim=1) for name, found in passed.arguments.items()
        if found.ndim == 4 and len(found) == batch
    }  # fmt: skip


@METHODS.register(
    "full-lrp",
    aliases=("lrp",),
    reference="Bach et al. 2015; as a baseline in Chefer, Gur & Wolf, CVPR 2021",
    needs=("token-relevance",),
    target_dependent=True,
    backward="lrp",
    pixels=pixel_relevance,
)
def full_lrp(passed: RecordedPass) -> dict[int, Tensor]:
    """Relevance of the tokens that enter the first attention, summed over features, signed.

    R_j = sum_d R_jd at the embedding output (positions included). For images `pixels` of the
    result holds the relevance of every pixel, by the z^B rule at the patch convolution. Use it as
    a baseline, or with the conserving backward `deep-taylor`; its maps barely depend on the class.
    """
    return read_entrance(passed, passed.relevance)
