"""CP-LRP: conservative propagation (Ali et al., ICML 2022)."""

from __future__ import annotations

from typing import Literal

from relmap.backwards import BACKWARDS
from relmap.backwards.operation_rules import Backward, gradient


@BACKWARDS.register(
    "cp-lrp",
    aliases=("ali-lrp", "conservative-propagation"),
    reference="Ali et al., ICML 2022, sec. 4; Achtibat et al., ICML 2024 (CP-LRP epsilon)",
    family="gradient",
)
def cp_lrp(*, activations: Literal["ratio", "gradient"] = "ratio") -> Backward:
    """Attention maps and the deviations of norms taken for constants; relevance is conserved.

    `activations="ratio"` passes relevance through activations unchanged (act(x) / x is a constant:
    CP-LRP with the epsilon rule, as AttnLRP compares it), which makes it the same table as
    `libra`; "gradient" leaves activations their own gradient, as the code of Ali et al. does. Use
    it for text encoders.
    """
    rules = gradient.table(
        attention=gradient.attention_constant,
        softmax=gradient.constant,
        activations=gradient.ratio if activations == "ratio" else gradient.ordinary,
    )
    return Backward("cp-lrp", "gradient", rules, {"activations": activations})
