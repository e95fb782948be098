"""The target of models that compare images with texts."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor

from relmap.errors import InputError
from relmap.targets import TARGETS, Target, TargetContext
from relmap.targets.answers import read_answer

__all__ = ["similarity"]


@TARGETS.register("similarity")
def similarity() -> Target:
    """The score of the i-th text for the i-th image: s cos(f_image, f_text), s the model's scale.

    Example:
        >>> similarity().about
        'similarity of image and text'
    """

    def read(output: Any, context: TargetContext) -> tuple[Float[Tensor, " batch"], list[str]]:
        answer = read_answer(output, context)
        if answer.kind != "pair":
            raise InputError(
                f"The model compares no image with a text: its output holds scores of another kind "
                f"({answer.kind})."
            )
        names = [f"similarity with {answer.name(i, i)}" for i in range(context.batch)]
        return answer.scores.diagonal(), names

    return Target("similarity of image and text", read)
