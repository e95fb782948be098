"""Deep-Taylor relevance, the rules of Transformer Attribution (Chefer, Gur & Wolf, CVPR 2021)."""

from __future__ import annotations

from relmap.backwards import BACKWARDS
from relmap.backwards.operation_rules import Backward
from relmap.backwards.operation_rules.zplus import RULES


@BACKWARDS.register(
    "deep-taylor",
    aliases=("dtd", "transformer-lrp"),
    reference="Chefer, Gur & Wolf, CVPR 2021, eq. 3-10 (layers_ours of their code)",
    family="relevance",
)
def deep_taylor(*, rescale_linear: bool = False) -> Backward:
    """Relevance by the z+ rule, with the sums of products and additions rescaled to what came in.

    Starts with dy/d(output) (a one-hot for a logit) and keeps its total from layer to layer, for
    every example by itself. So explain one score: that of a difference of two, or of a log
    probability, starts with a total of zero, of which only rounding errors would be left, and is
    refused. Every attention map gets R_A = A (R_O / O v^T) / 2. With `rescale_linear` the outputs
    of linear layers are rescaled to the incoming total, too, and learned positions take nothing:
    the rules of the DETR model of Chefer et al. 2021 (ICCV). Needs float32 or better; in float32
    the maps are noisy to about 1e-2.
    """
    settings = {
        "normalize_sums": True,
        "rescale_linear": rescale_linear,
        "share_positions": not rescale_linear,
    }
    return Backward("deep-taylor", "relevance", RULES, settings)
