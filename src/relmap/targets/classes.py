"""Targets of everything that chooses: a class's score, its probability, one class against another.

They read the same table for classifiers, language models (the choices are tokens) and detectors
(the choices are classes, each in the query that is surest of it).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from relmap.errors import InputError
from relmap.targets import TARGETS, Target, TargetContext, choose
from relmap.targets.answers import Answer, read_answer

__all__ = ["contrast", "logit", "probability"]


@TARGETS.register("logit")
def logit(choice: int | str | Sequence[int | str] | None = None) -> Target:
    """The score of a class before softmax: y_c.

    None is the class that the model predicts.

    Example:
        >>> logit("tench").about
        "logit of 'tench'"
    """

    def read(output: Any, context: TargetContext) -> tuple[Float[Tensor, " batch"], list[str]]:
        answer = read_answer(output, context)
        chosen = choose(choice, answer, context)
        return _take(answer.scores, chosen), _names(answer, chosen)

    return Target(f"logit of {_words(choice)}", read)


@TARGETS.register("probability")
def probability(choice: int | str | Sequence[int | str] | None = None) -> Target:
    """The probability of a class: softmax(y)_c, or sigmoid(y_c) where several may be true.

    A detector's class is judged in its query; an image-text score has no probability of its own.

    Example:
        >>> probability(281).about
        'probability of 281'
    """

    def read(output: Any, context: TargetContext) -> tuple[Float[Tensor, " batch"], list[str]]:
        answer = read_answer(output, context)
        if answer.kind in ("pair", "detection"):
            raise InputError(
                f"A probability needs choices of one example that exclude each other, which this "
                f"model's scores ({answer.kind}) are not: explain the score itself, or pass a "
                f"function."
            )
        chosen = choose(choice, answer, context)
        shares = answer.scores.softmax(1) if answer.exclusive else answer.scores.sigmoid()
        names = [f"probability of {name}" for name in _names(answer, chosen)]
        return _take(shares, chosen), names

    return Target(f"probability of {_words(choice)}", read)


@TARGETS.register("contrast")
def contrast(
    choice: int | str | Sequence[int | str], other: int | str | Sequence[int | str]
) -> Target:
    """How much one class is preferred to another: y_a - y_b.

    Example:
        >>> contrast(281, 207).about
        'contrast of 281 with 207'
    """

    def read(output: Any, context: TargetContext) -> tuple[Float[Tensor, " batch"], list[str]]:
        answer = read_answer(output, context)
        a, b = choose(choice, answer, context), choose(other, answer, context)
        names = zip(_names(answer, a), _names(answer, b), strict=True)
        values = _take(answer.scores, a) - _take(answer.scores, b)
        return values, [f"{one} rather than {another}" for one, another in names]

    return Target(f"contrast of {choice!r} with {other!r}", read)


def _take(scores: Tensor, chosen: Tensor) -> Tensor:
    return scores.gather(1, chosen[:, None]).squeeze(1)


def _names(answer: Answer, chosen: Tensor) -> list[str]:
    return [answer.name(example, int(index)) for example, index in enumerate(chosen)]


def _words(choice: Any) -> str:
    return "the model's choice" if choice is None else repr(choice)
