"""LibraGrad: gradients that keep the balance (Mehri, Soleymani & Pilehvar, CVPR 2025)."""

from __future__ import annotations

from relmap.backwards import BACKWARDS
from relmap.backwards.operation_rules import Backward, gradient


@BACKWARDS.register(
    "libra",
    aliases=("libragrad", "libra-grad"),
    reference="Mehri et al., CVPR 2025 (arXiv 2411.16760), sec. 3",
    family="gradient",
)
def libra() -> Backward:
    """Attention maps, gates and the deviations of norms taken for constants; products halved.

    What is left is linear in the input but for the biases, so Input x Gradient and the bias terms
    of FullGrad add up to the target. On pre-LN models without biases its Input x Gradient equals
    DecompX. Use it under any gradient method; it changes dA too. The softmax being a constant, no
    gradient says how queries and keys led to the attention.
    """
    return Backward("libra", "gradient", _RULES)


_RULES = gradient.table(attention=gradient.attention_constant, softmax=gradient.constant)
