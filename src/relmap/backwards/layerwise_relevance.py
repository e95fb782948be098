"""Layer-wise relevance propagation as the baselines of Chefer, Gur & Wolf (CVPR 2021) have it."""

from __future__ import annotations

from relmap.backwards import BACKWARDS
from relmap.backwards.operation_rules import Backward
from relmap.backwards.operation_rules.zplus import RULES


@BACKWARDS.register(
    "lrp",
    aliases=("alpha-beta-lrp",),
    reference="Bach et al. 2015, alpha = 1; Chefer, Gur & Wolf, CVPR 2021 (layers_lrp)",
    family="relevance",
)
def lrp() -> Backward:
    """The older rules: a denominator for each sign of the inputs, and plain additions.

    R_x = x+ (R / (x+ W+)) W+^T + x- (R / (x- W-)) W-^T; an addition shares by value and rescales
    nothing. Relevance is not conserved (it may grow a thousandfold over a network). Use it to
    reproduce the published baselines `partial-lrp` and `full-lrp`, and nothing else.
    """
    return Backward("lrp", "relevance", RULES, {"separate": True})
