"""Rules of the relevance family for products.

With x+ and x- the positive and negative parts, a product with weights follows the z+ rule (Chefer
et al., CVPR 2021, eq. 8: only positive contributions take part, biases never do),

    joint:     s = R / (x+ W+ + x- W-),   R_x = x+ (s W+^T) + x- (s W-^T)
    separate:  the same with a denominator for each of the two terms (it does not conserve).

Since x+ W+ + x- W- = (x W + |x| |W|) / 2 and x W is known from the forward, the joint rule costs
three products in place of four. Two operands that both carry share relevance by value, half each.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from relmap.backwards.operation_rules.operation import Operation
from relmap.backwards.operation_rules.sums import ExampleTotals, unchanged
from relmap.relevance.attention_maps import STABILIZER, safe_divide

Product = Callable[[Tensor, Tensor], Tensor]


def linear(operation: Operation) -> Tensor:
    """`linear(x, W, b)`: the z+ rule."""
    operand, weight = operation.argument(0, "input"), operation.argument(1, "weight")
    bias = operation.argument(2, "bias")
    return _weighted(operation, operand, weight, bias, functional.linear, _linear_back)


def _linear_back(operand: Tensor, weight: Tensor, share: Tensor) -> Tensor:
    return share @ weight


def multiplied(operation: Operation) -> Any:
    """`mul`: by a constant or a gate relevance passes; two things that carry get half each."""
    context, carrying = operation.context, operation.carrying()
    if len(carrying) < 2:
        if len(operation.args) > 1 and operation.args[0] is operation.args[1]:
            return unchanged(operation)
        return _scaled(operation, carrying[0])
    gates = [one for one in carrying if context.is_gate(one)]
    if len(gates) == 1:
        (other,) = [one for one in carrying if one is not gates[0]]
        return _scaled(operation, other)
    value = operation.run()
    shapes = [one.shape for one in carrying]

    def back(arriving: Tensor) -> tuple[Tensor, ...]:
        return tuple(0.5 * arriving.sum_to_size(shape) for shape in shapes)

    return context.pass_back(value, back, *carrying)


def _scaled(operation: Operation, operand: Tensor) -> Tensor:
    """A product with constants: relevance passes, but to nothing that is multiplied by zero."""
    context, value = operation.context, operation.run()
    shape, dtype = operand.shape, operand.dtype

    def back(arriving: Tensor) -> tuple[Tensor]:
        return (arriving.sum_to_size(shape).to(dtype),)

    result = context.pass_back(value, back, operand)
    return context.gate(result) if context.is_gate(operand) else result


def quotient(operation: Operation) -> Any:
    """A denominator counts as a constant: it is the scale of a norm."""
    above = operation.args[0]
    if not operation.context.carries(above):
        raise operation.refuse("divides a constant by something that carries relevance")
    return _scaled(operation, above)


def contraction(operation: Operation) -> Any:
    """`matmul`, `einsum` and their kin: z+ with weights, by value between two that carry."""
    name, carrying = operation.name, operation.carrying()
    if name in ("addmm", "baddbmm", "addbmm", "addmv"):
        return _added_product(operation, carrying)
    if len(carrying) == 2:
        return _between(operation, carrying, 0.0)
    if name == "matmul" and carrying[0] is operation.args[0] and operation.args[1].ndim <= 2:
        return _weighted(
            operation, carrying[0], operation.args[1], None, torch.matmul, _matmul_back
        )
    if len(carrying) > 2:
        raise operation.refuse("multiplies three things that carry relevance")
    return _generally_weighted(operation, carrying[0])


def _added_product(operation: Operation, carrying: list[Tensor]) -> Tensor:
    """`addmm` and its kin: what is added is a bias, or a bias of scores."""
    added, scale = operation.args[0], operation.argument(3, "beta", 1)
    if operation.context.carries(added):
        raise operation.refuse("adds something that carries relevance")
    if len(carrying) == 2:
        return _between(operation, carrying, added.detach() * scale)
    one, other = operation.argument(1, "mat1"), operation.argument(2, "mat2")
    if operation.name != "addmm" or operation.kwargs or carrying[0] is not one:
        raise operation.refuse("has its weights in front, or scales them")
    return _weighted(operation, one, other, added, torch.matmul, _matmul_back)


def _matmul_back(operand: Tensor, weight: Tensor, share: Tensor) -> Tensor:
    return share @ weight.transpose(-1, -2) if weight.ndim > 1 else share[..., None] * weight


def convolution(operation: Operation) -> Tensor:
    """A convolution: the z+ rule, and the z^B rule where the pixels themselves enter.

    z^B (Montavon et al. 2017, eq. 14), with L and H the lowest and highest value of the example:

        s = R / (x W - L W+ - H W-),   R_x = x (s W^T) - L (s W+^T) - H (s W-^T)
    """
    operand, weight = operation.argument(0, "input"), operation.argument(1, "weight")
    if not operation.context.carries(operand) or _carries(operation, weight):
        raise operation.refuse("has weights that carry relevance")
    if operation.context.is_raw_input(operand):
        return _bounded(operation, operand, weight)
    return _generally_weighted(operation, operand)


def _bounded(operation: Operation, operand: Tensor, weight: Tensor) -> Tensor:
    value = operation.run()
    pixels = operation.context.keep(operand)

    def product(one: Tensor, other: Tensor) -> Tensor:
        return _biasless(operation, operand, weight)(one, other)

    def back(arriving: Tensor) -> tuple[Tensor]:
        axes = tuple(range(1, pixels.ndim))
        lowest = pixels.amin(axes, keepdim=True).expand_as(pixels)
        highest = pixels.amax(axes, keepdim=True).expand_as(pixels)
        parts = ((pixels, weight), (-lowest, weight.clamp_min(0)), (-highest, weight.clamp_max(0)))
        below = sum(product(one, other) for one, other in parts) + STABILIZER
        share = arriving / below
        relevance = torch.zeros_like(pixels)
        for one, other in parts:
            relevance += one * _transposed(product, one, other, share)
        return (relevance,)

    return operation.context.pass_back(value, back, operand)


def _biasless(operation: Operation, operand: Tensor, weight: Tensor) -> Product:
    """The operation as a function of its operand and its weights, without a bias."""
    args = list(operation.args)
    kwargs = {key: value for key, value in operation.kwargs.items() if key != "bias"}
    if operation.name.startswith("conv") and len(args) > 2:
        args[2] = None

    def product(one: Tensor, other: Tensor) -> Tensor:
        exchanged = {id(operand): one, id(weight): other}
        bare = Operation(operation.name, operation.function, tuple(args), kwargs, operation.context)
        return bare.run(exchanged)

    return product


def _transposed(product: Product, like: Tensor, weight: Tensor, share: Tensor) -> Tensor:
    """The transposed product, by autograd."""
    with torch.enable_grad():
        alone = torch.zeros_like(like, requires_grad=True)
        (found,) = torch.autograd.grad(product(alone, weight), alone, share)
    return found


def _generally_weighted(operation: Operation, operand: Tensor) -> Tensor:
    """The z+ rule for a product of any form, transposed by autograd."""
    values = (*operation.args, *operation.kwargs.values())
    tensors = [one for value in values for one in _tensors(value) if one is not operand]
    if not tensors:
        raise operation.refuse("has a form for which there is no rule")
    weight = tensors[0]
    product = _biasless(operation, operand, weight)
    bias = operation.argument(2, "bias") if operation.name.startswith("conv") else None
    if isinstance(bias, Tensor):
        bias = bias.reshape(-1, *[1] * (operand.ndim - 2))
    return _weighted(
        operation, operand, weight, bias, product,
        lambda one, other, share: _transposed(product, one, other, share),
    )  # fmt: skip


def _carries(operation: Operation, weight: Tensor) -> bool:
    return operation.context.carries(weight) and not operation.context.is_weight(weight)


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, (tuple, list)):
        return [part for part in value if isinstance(part, Tensor)]
    return [value] if isinstance(value, Tensor) else []


def _weighted(
    operation: Operation, operand: Tensor, weight: Tensor, bias: Tensor | None, product: Product,
    transposed: Callable[[Tensor, Tensor, Tensor], Tensor],
) -> Tensor:  # fmt: skip
    """The z+ rule of a product with weights, in one of its two forms."""
    context = operation.context
    if not context.carries(operand) or _carries(operation, weight):
        raise operation.refuse("has weights that carry relevance")
    value, tag = operation.run(), operation.tag()
    x, w, known_value = context.keep(operand), weight.detach(), context.keep(value)
    rescale = context.settings.get("rescale_linear", False)

    def joint(arriving: Tensor) -> Tensor:
        # Twice the denominator and twice the numerator: the halves cancel.
        size, magnitude = x.abs(), context.magnitude(weight)
        known = known_value if bias is None else known_value - bias.detach()
        below = product(size, magnitude).add_(known)
        # Where every contribution is negative, the two terms cancel to rounding noise.
        cancelled = below <= known * (-8 * torch.finfo(below.dtype).eps)
        share = (arriving / below.add_(2 * STABILIZER)).masked_fill_(cancelled, 0)
        found = transposed(x, magnitude, share).mul_(size)
        return found.addcmul_(transposed(x, w, share), x)

    def separate(arriving: Tensor) -> Tensor:
        found = torch.zeros_like(x)
        parts = ((x.clamp_min(0), w.clamp_min(0)), (x.clamp_max(0), w.clamp_max(0)))
        for one, other in parts:
            share = safe_divide(arriving, product(one, other))
            found += one * transposed(x, other, share)
        return found

    def back(arriving: Tensor) -> tuple[Tensor]:
        found = separate(arriving) if context.settings.get("separate") else joint(arriving)
        if rescale:
            totals = ExampleTotals(operation, tag, arriving)
            after = ExampleTotals(operation, tag, found)
            found = found * after.spread(safe_divide(totals.of(arriving), after.of(found)))
        return (found,)

    return context.pass_back(value, back, operand)


def _between(operation: Operation, carrying: list[Tensor], added: Tensor | float) -> Tensor:
    """A product z of two things that carry: R_p = p (dz/dp . R / z) / 2; z is without `added`."""
    value, context = operation.run(), operation.context
    kept, product = [context.keep(one) for one in carrying], context.keep(value)

    def back(arriving: Tensor) -> tuple[Tensor, ...]:
        share = safe_divide(arriving, product - added)
        with torch.enable_grad():
            alone = [one.clone().requires_grad_() for one in kept]
            pairs = zip(carrying, alone, strict=True)
            again = operation.run({id(one): other for one, other in pairs})
            found = torch.autograd.grad(again, alone, share)
        return tuple(0.5 * one * part for one, part in zip(kept, found, strict=True))

    return context.pass_back(value, back, *carrying)


# --- attention --------------------------------------------------------------------------------


def attention(operation: Operation) -> Tensor:
    """The fused kernel as what it computes: a product, a softmax and a product.

    R_A = A (R / O v^T) / 2, R_v = v (A^T R / O) / 2; the softmax passes R_A on to the scores, and
    R_q = q ((R_A / Z) k) / 2, R_k likewise, with Z = q k^T.
    """
    query, key, value = (operation.argument(i, n) for i, n in enumerate(("query", "key", "value")))
    output = operation.run()
    mask, causal = operation.argument(3, "attn_mask"), operation.argument(5, "is_causal", False)
    scale = operation.argument(6, "scale") or 1 / math.sqrt(query.shape[-1])
    context = operation.context
    parts, read = [context.keep(one) for one in (query, key, value)], context.keep(output)

    def back(arriving: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v = parts
        copies = q.shape[-3] // k.shape[-3] if q.ndim > 2 and k.ndim > 2 else 1
        if copies > 1:
            k, v = (one.repeat_interleave(copies, dim=-3) for one in (k, v))
        # Heads are views into one tensor, which every product would copy again.
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
        product = q @ k.transpose(-1, -2)
        probabilities = _softmax(product * scale, mask, bool(causal))
        half = safe_divide(arriving / 2, read)
        of_value = (probabilities.transpose(-1, -2) @ half).mul_(v)
        of_scores = (half @ v.transpose(-1, -2)).mul_(probabilities)
        inner = safe_divide(of_scores.div_(2), product)
        of_query = (inner @ k).mul_(q)
        of_key = (inner.transpose(-1, -2) @ q).mul_(k)
        if copies > 1:
            of_key, of_value = (
                one.unflatten(-3, (-1, copies)).sum(-3) for one in (of_key, of_value)
            )
        found = (of_query, of_key, of_value)
        return tuple(
            one.sum_to_size(part.shape) if context.carries(operand) else None
            for one, part, operand in zip(found, parts, (query, key, value), strict=True)
        )

    return context.pass_back(output, back, query, key, value)


def _softmax(scores: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    if causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(later, -math.inf)
    if mask is not None:
        if mask.dtype == torch.bool:
            scores = scores.masked_fill(~mask, -math.inf)
        else:
            scores = scores + mask.detach()
        return scores.softmax(-1).nan_to_num(nan=0.0)
    return scores.softmax(-1)
