"""Rules of the relevance family for sums, and for what relevance passes unchanged.

Relevance that reaches a sum is shared by value (LRP-0). A division that may meet zero follows the
published code: the denominator moves away from zero by 1e-9, and nothing comes out of a zero.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from relmap.backwards.operation_rules.gradient import is_root
from relmap.backwards.operation_rules.operation import Operation
from relmap.relevance.attention_maps import safe_divide
from relmap.trace.tags import Pair


def unchanged(operation: Operation) -> Any:
    """Relevance passes as it is: norms, activations, softmax, products with constants."""
    value = operation.run()
    carrying = operation.carrying()
    if len(carrying) != 1 or carrying[0].shape != value.shape:
        raise operation.refuse("has operands that relevance cannot be shared between")
    context = operation.context
    result = context.pass_back(
        value, lambda arriving: (arriving.to(carrying[0].dtype),), carrying[0]
    )
    return context.gate(result) if context.is_gate(carrying[0]) else result


def gate(operation: Operation) -> Tensor:
    """A sigmoid or tanh: relevance passes, unless something else is multiplied by it."""
    return operation.context.gate(unchanged(operation))


def gated_half(operation: Operation) -> Tensor:
    """`glu`: relevance goes to the first half of the features, none to the gates."""
    operand, axis = operation.args[0], operation.argument(1, "dim", -1)

    def back(arriving: Tensor) -> tuple[Tensor]:
        return (torch.cat([arriving, torch.zeros_like(arriving)], dim=axis),)

    return operation.context.pass_back(operation.run(), back, operand)


def stop(operation: Operation) -> Any:
    """A factor that counts as a constant: no relevance enters it."""
    result = operation.run()
    parts = result if isinstance(result, (tuple, list)) else [result]
    for part in parts:
        operation.context.stop(part)
    return result


def with_statistics(operation: Operation) -> Any:
    """`var_mean` and `std_mean`: none enters the deviation."""
    scale, mean = operation.run()
    operation.context.stop(scale)
    return type((scale, mean))((scale, mean))


def shared_by_value(operation: Operation) -> Any:
    """Sums over tokens or features, pooling, resizing: z = sum_i w_i x_i, R_i = w_i x_i R / z."""
    operand = operation.args[0]
    value = operation.run()
    if not isinstance(value, Tensor) or not operation.context.carries(operand):
        raise operation.refuse("has a form for which there is no rule")
    return _by_value(operation, value, [operand])


def accumulated(operation: Operation) -> Any:
    """Values added up where they are written: every addend takes its share by value."""
    if operation.argument(4, "reduce") in ("prod", "multiply"):
        raise operation.refuse("multiplies values, for which there is no rule")
    return _by_value(operation, operation.run(), operation.carrying())


def _by_value(operation: Operation, value: Tensor, operands: list[Tensor]) -> Tensor:
    """Z = sum_i w_i x_i, R_i = w_i x_i R / z, with the w_i by autograd."""
    context = operation.context
    total, kept = context.keep(value), [context.keep(one) for one in operands]

    def back(arriving: Tensor) -> tuple[Tensor, ...]:
        share = safe_divide(arriving, total)
        with torch.enable_grad():
            alone = [one.clone().requires_grad_() for one in kept]
            pairs = zip(operands, alone, strict=True)
            again = operation.run({id(one): other for one, other in pairs})
            weights = torch.autograd.grad(again, alone, share)
        return tuple(one * weight for one, weight in zip(kept, weights, strict=True))

    return context.pass_back(value, back, *operands)


def power(operation: Operation) -> Any:
    """Roots are the scales of norms; through other powers relevance passes."""
    return stop(operation) if is_root(operation) else unchanged(operation)


def addition(operation: Operation) -> Any:
    """Z = a + b: R_a = a R / z and R_b = b R / z; a constant takes nothing.

    A table of learned positions is no constant: it takes its share, which is then lost, as in the
    published code. With the setting `normalize_sums` both shares are rescaled so that their totals,
    of every example by itself, keep their proportion and sum to what came in (Chefer et al., CVPR
    2021, eq. 10, as their code computes it).
    """
    context, addends = operation.context, _addends(operation)
    value = operation.run()
    if len(addends) == 1:
        return _shifted(operation, value, addends[0][0])
    if any(context.is_gate(one) for one, _ in addends):
        raise operation.refuse("adds gates, for which there is no rule")
    kept, total = [(context.keep(one), sign) for one, sign in addends], context.keep(value)
    shapes = [one.shape for one, _ in addends]
    normalize = context.settings.get("normalize_sums", False)
    tag = operation.tag()

    def back(arriving: Tensor) -> tuple[Tensor | None, ...]:
        share = safe_divide(arriving, total)
        parts = [one * share if sign == 1 else one * share * sign for one, sign in kept]
        if normalize:
            totals = ExampleTotals(operation, tag, arriving)
            parts = _rescaled(parts, arriving, totals)
        summed = [part.sum_to_size(shape) for part, shape in zip(parts, shapes, strict=True)]
        return tuple(
            part if one.requires_grad else None
            for part, (one, _) in zip(summed, addends, strict=True)
        )

    return context.pass_back(value, back, *(one for one, _ in addends))


def _addends(operation: Operation) -> list[tuple[Tensor, float]]:
    """The addends that take relevance, with the factor they are added with."""
    context, sign = operation.context, -1.0 if operation.name == "sub" else 1.0
    sign *= operation.argument(2, "alpha", 1.0)
    scores = any(isinstance(context.recorder.tag(one), Pair) for one in operation.args)
    found: list[tuple[Tensor, float]] = []
    positions: list[tuple[Tensor, float]] = []
    for one, factor in zip((operation.args[0], operation.argument(1, "other")), (1.0, sign),
                           strict=True):  # fmt: skip
        if not isinstance(one, Tensor):
            continue
        learned = context.is_learned(one) and _is_table(one)
        # A bias of scores is part of the softmax, as in the fused kernel.
        constant = scores or not context.settings.get("share_positions", True)
        if learned and constant:
            positions.append((one, factor))
        elif context.carries(one) or (learned and isinstance(one, nn.Parameter)):
            found.append((one, factor))
    if any(context.carries(one) for one, _ in found):
        return found
    return [part for part in positions if context.carries(part[0])]  # learned queries alone


def _is_table(tensor: Tensor) -> bool:
    return sum(size > 1 for size in tensor.shape) >= 2


def _shifted(operation: Operation, value: Tensor, operand: Tensor) -> Tensor:
    context = operation.context
    shape, dtype = operand.shape, operand.dtype
    result = context.pass_back(
        value, lambda arriving: (arriving.sum_to_size(shape).to(dtype),), operand
    )
    return context.gate(result) if context.is_gate(operand) else result


def _rescaled(parts: list[Tensor], arriving: Tensor, totals: ExampleTotals) -> list[Tensor]:
    sums = [totals.of(part) for part in parts]
    whole = torch.stack([one.abs() for one in sums]).sum(0)
    entering = totals.of(arriving)
    return [
        part.mul_(totals.spread(safe_divide(safe_divide(one.abs(), whole) * entering, one)))
        for part, one in zip(parts, sums, strict=True)
    ]


class ExampleTotals:
    """Sums of a tensor over everything but the examples of the batch.

    A sum over the whole tensor, as the published code has it, would mix the examples of a batch.
    """

    def __init__(self, operation: Operation, tag: Any, like: Tensor) -> None:
        self.batch = operation.context.batch
        self.examples = None
        if self.batch == 1:
            return
        labels = None if tag is None else tag.labels.broadcast_to(tuple(like.shape))
        known = None if tag is None else tag.state.examples
        if labels is not None and known is not None and labels.values.numel():
            numbers = known.to(like.device)[labels.values.to(like.device).clamp_min(0)]
            if bool((numbers >= 0).all()):
                self.examples = numbers
                return
        # Constants alone have no tag: whatever they are handed, no token gets any of it.
        axes = range(like.ndim) if labels is None else labels.varying
        axes = [axis for axis in axes if like.shape[axis] == self.batch]
        if not axes or (labels is not None and len(axes) > 1):
            raise operation.refuse(
                "sums over tokens of which relmap cannot tell the example; explain one example "
                "at a time"
            )
        sizes = [self.batch if axis == axes[0] else 1 for axis in range(like.ndim)]
        self.examples = torch.arange(self.batch, device=like.device).reshape(sizes)

    def of(self, tensor: Tensor) -> Tensor:
        """One total for each example."""
        if self.examples is None:
            return tensor.sum().reshape(1)
        axes = [axis for axis, size in enumerate(self.examples.shape) if size == 1]
        reduced = tensor.sum(axes, keepdim=True) if axes else tensor
        totals = reduced.new_zeros(self.batch)
        return totals.index_add(0, self.examples.reshape(-1), reduced.reshape(-1))

    def spread(self, totals: Tensor) -> Tensor:
        """Numbers of the examples, laid along a tensor."""
        return totals if self.examples is None else totals[self.examples]
