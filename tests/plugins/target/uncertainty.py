"""The uncertainty of a classifier: what makes it hesitate?"""

from typing import Any

from torch import Tensor

from relmap.targets import TARGETS, Target, TargetContext, read_answer


@TARGETS.register("uncertainty")
def uncertainty() -> Target:
    """The entropy of the predicted distribution: H = -sum_c p_c log p_c, p = softmax(y)."""

    def read(output: Any, context: TargetContext) -> tuple[Tensor, list[str]]:
        logits = read_answer(output, context).scores
        entropy = -(logits.softmax(-1) * logits.log_softmax(-1)).sum(-1)
        return entropy, ["uncertainty"] * len(entropy)

    return Target("uncertainty of the prediction", read)
