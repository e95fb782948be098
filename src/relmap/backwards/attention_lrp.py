"""AttnLRP: LRP with rules for attention (Achtibat et al., ICML 2024)."""

from __future__ import annotations

from relmap.backwards import BACKWARDS
from relmap.backwards.operation_rules import Backward, gradient


@BACKWARDS.register(
    "attnlrp",
    aliases=("attn-lrp", "lxt"),
    reference="Achtibat et al., ICML 2024, eq. 8-15, in gradient form",
    family="gradient",
)
def attnlrp() -> Backward:
    """Softmax keeps its gradient; products share by halves; norms and activations pass relevance.

    In gradient form Input x Gradient is the epsilon rule: R_x = x * (W^T R / z) at linear layers,
    R_i = x_i (R_i - s_i sum_k R_k) at the softmax, half of R to each operand of a product (eq. 13,
    so q and k / 4, v / 2). Not conserved at the softmax, where biases of the scores take their
    part. Use it for language models, one backward pass per token; on vision transformers the
    paper tunes gamma rules that this epsilon form does not have.
    """
    return Backward("attnlrp", "gradient", _RULES)


_RULES = gradient.table(attention=gradient.attention_halved, softmax=gradient.ordinary)
