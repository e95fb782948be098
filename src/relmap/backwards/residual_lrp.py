"""ResLRP: AttnLRP with a signed rule at residual additions (Berend et al. 2026)."""

from __future__ import annotations

from relmap.backwards import BACKWARDS
from relmap.backwards.operation_rules import Backward, gradient
from relmap.errors import InputError


@BACKWARDS.register(
    "reslrp",
    aliases=("res-lrp",),
    reference="Berend et al. 2026 (ResLRP), eq. 3-4, with the factor z_out that Table A.1 omits",
    family="gradient",
)
def reslrp(*, gamma: float = 1.0) -> Backward:
    """AttnLRP with a rule at residual additions: the addend of the sum's sign counts more.

        R_a = w(a) a / (w(a) a + w(b) b) R,   w(z) = 1 + gamma [sign z = sign(a + b)]

    which bounds |R_a| + |R_b| <= (1 + 2 / gamma) |R|. A residual addition is one whose one addend
    was computed from the other; sums of other things stay plain. Read at the pixels or tokens with
    `input-x-gradient`. Use it for image encoders, where plain AttnLRP is noisy; the paper leaves
    the language model of a vision-language model at plain AttnLRP.

    Raises:
        InputError: gamma is not positive.
    """
    if not gamma > 0:
        raise InputError(f"reslrp: gamma={gamma!r} is not positive; the paper uses 1.")
    return Backward("reslrp", "gradient", _RULES, {"gamma": gamma})


_RULES = gradient.table(
    attention=gradient.attention_halved,
    softmax=gradient.ordinary,
    addition=gradient.signed_share,
)
