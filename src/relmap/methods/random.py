"""Random relevance: the control that every method must beat."""

from __future__ import annotations

import torch
from torch import Tensor

from relmap.methods import METHODS
from relmap.relevance.rows import RecordedPass


@METHODS.register(
    "random",
    aliases=("random-control",),
    reference="control",
    needs=(),
    target_dependent=False,
)
def random(passed: RecordedPass, *, seed: int = 0) -> dict[int, Tensor]:
    """Uniform random numbers in [0, 1), the same for every example; padding is zero.

    The numbers depend on the seed and the token's place alone, so that a batch equals its
    examples. Use it as a control, with several seeds; never as an explanation.
    """
    relevance: dict[int, Tensor] = {}
    for source in passed.graph.sources:
        generator = torch.Generator().manual_seed(seed)
        numbers = torch.rand(source.tokens.shape[1], generator=generator)
        values = torch.zeros(passed.graph.states[source.state].tokens)
        tokens = source.tokens
        values[tokens[tokens >= 0]] = numbers.expand(tokens.shape)[tokens >= 0]
        padding = passed.padding.get(source.state)
        if padding is not None:
            values[padding.cpu()] = 0
        relevance[source.state] = values.to(passed.graph.device())
    return relevance
