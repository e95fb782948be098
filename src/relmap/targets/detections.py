"""The target of detectors: one query and the class it finds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from relmap.errors import InputError
from relmap.targets import TARGETS, Target, TargetContext, choose
from relmap.targets.answers import Answer, fields, read_answer

__all__ = ["detection_query"]


@TARGETS.register("detection-query")
def detection_query(
    query: int | Sequence[int], choice: int | str | Sequence[int | str] | None = None
) -> Target:
    """The score of a class in one object query: y_qc.

    None is the query's own class, "no object" left out.

    Example:
        >>> detection_query(5, "cat").about
        "query 5, 'cat'"
    """

    def read(output: Any, context: TargetContext) -> tuple[Float[Tensor, " batch"], list[str]]:
        answer = read_answer(output, context)
        if answer.kind != "detection":
            raise InputError(f"The model is no detector: its scores are of kind {answer.kind!r}.")
        scores = _of_query(fields(output)["logits"], query, answer.scores.shape[1], context)
        best = scores.detach().argmax(dim=1)
        own = Answer("detection", scores, best, _namer(context, query), exclusive=False)
        chosen = choose(choice, own, context)
        names = [own.name(example, int(index)) for example, index in enumerate(chosen)]
        return scores.gather(1, chosen[:, None]).squeeze(1), names

    return Target(f"query {query}" + ("" if choice is None else f", {choice!r}"), read)


def _of_query(
    logits: Tensor, query: int | Sequence[int], real: int, context: TargetContext
) -> Tensor:
    queries = [query] * context.batch if isinstance(query, int) else [int(one) for one in query]
    if len(queries) != context.batch:
        raise InputError(f"There are {len(queries)} queries for {context.batch} examples.")
    outside = [one for one in queries if not 0 <= one < logits.shape[1]]
    if outside:
        raise InputError(
            f"There is no query {outside[0]}: the model has {logits.shape[1]}, from 0."
        )
    return logits[torch.arange(context.batch), queries, :real]


def _namer(context: TargetContext, query: int | Sequence[int]) -> Any:
    def name(example: int, choice: int) -> str:
        label = (context.labels or {}).get(choice)
        words = f"class {choice}" if label is None else f"{label} ({choice})"
        return f"{words} in query {query if isinstance(query, int) else query[example]}"

    return name
