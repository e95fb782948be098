"""GIM: gradients that look through the softmax's self-repair (Edin et al., 2025).

A token that is taken away hands its attention on to the others, which often say the same: the
plain gradient of the softmax sees that little changes, and calls all of them unimportant. Passed
back at a higher temperature the redistribution is flatter, and what they share is seen.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from relmap.backwards import BACKWARDS
from relmap.backwards.operation_rules import Backward, Operation, gradient
from relmap.errors import InputError


@BACKWARDS.register(
    "gim",
    aliases=("gradient-interaction-modifications",),
    reference="Edin et al., GIM, 2025 (arXiv 2505.17630)",
    family="gradient",
)
def gim(*, temperature: float = 2.0) -> Backward:
    """AttnLRP's products and norms with a softened softmax; activations keep their gradient.

    The softmax passes back dx = s (g - <g, s>) with s = softmax(x / T), without another 1 / T;
    both products of an attention hand half to each factor, and the statistics of norms count as
    constants. T = 2 as published; T = 1 is the softmax's own gradient. Use it for language models,
    under Input x Gradient as its authors do; it is not conserved.

    Raises:
        InputError: the temperature is not above 0.
    """
    if not temperature > 0:
        raise InputError(f"gim: temperature={temperature!r} has to be above 0")
    return Backward("gim", "gradient", _RULES, {"temperature": temperature})


def softened(operation: Operation) -> Tensor:
    """Softmax, whose gradient is that at a higher temperature."""
    scores, axis = operation.args[0].detach(), operation.argument(1, "dim", -1)
    temperature = operation.context.settings["temperature"]

    def back(arriving: Tensor) -> tuple[Tensor]:
        return (_through_softmax(scores, arriving, temperature, int(axis)),)

    return operation.context.pass_back(operation.run().detach(), back, operation.args[0])


def attention_softened(operation: Operation) -> Tensor:
    """A fused attention, whose softmax is passed back at a higher temperature.

    With O = softmax(S) V, S = Q K^T scale + mask: dV = A^T dO / 2, dS = softened(dO V^T / 2), and
    Q and K get half of what comes through their product.
    """
    query, key, value = (
        operation.argument(place, name) for place, name in enumerate(("query", "key", "value"))
    )
    temperature = operation.context.settings["temperature"]
    read = [operation.context.keep(tensor) for tensor in (query, key, value)]

    def back(arriving: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        groups = arriving.shape[-3] // read[1].shape[-3] if arriving.ndim > 2 else 1
        keys, values = (tensor.repeat_interleave(groups, -3) for tensor in read[1:])
        scale = operation.argument(6, "scale", None)
        scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
        scores = read[0] @ keys.transpose(-1, -2) * scale + _closed(operation, arriving, keys)
        from_scores = _through_softmax(
            scores, arriving @ values.transpose(-1, -2) / 2, temperature, -1
        )
        to_query = from_scores @ keys * (scale / 2)
        to_key = from_scores.transpose(-1, -2) @ read[0] * (scale / 2)
        to_value = scores.softmax(-1).transpose(-1, -2) @ arriving / 2
        parts = (to_query, _grouped(to_key, groups), _grouped(to_value, groups))
        return tuple(part.sum_to_size(one.shape) for part, one in zip(parts, read, strict=True))  # type: ignore[return-value]

    return operation.context.pass_back(operation.run().detach(), back, query, key, value)


def _through_softmax(scores: Tensor, arriving: Tensor, temperature: float, axis: int) -> Tensor:
    soft = (scores / temperature).softmax(axis)
    return soft * (arriving - (arriving * soft).sum(axis, keepdim=True))


def _closed(operation: Operation, arriving: Tensor, keys: Tensor) -> Any:
    """What is added to the scores: a mask, or minus infinity above the diagonal."""
    mask = operation.argument(3, "attn_mask", None)
    if operation.argument(5, "is_causal", False):
        mask = arriving.new_ones(arriving.shape[-2], keys.shape[-2], dtype=torch.bool).tril()
    if mask is None:
        return 0.0
    if mask.dtype == torch.bool:
        return arriving.new_zeros(mask.shape).masked_fill(~mask, -math.inf)
    return mask.detach()


def _grouped(gradient_of_heads: Tensor, groups: int) -> Tensor:
    """Heads that share keys and values add up what they hand to them."""
    return (
        gradient_of_heads.unflatten(-3, (-1, groups)).sum(-3) if groups > 1 else gradient_of_heads
    )


_RULES = gradient.table(
    attention=attention_softened, softmax=softened, activations=gradient.ordinary
)
