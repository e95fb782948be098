"""Rules of the gradient family: the ordinary gradient, with some factors taken for constants.

Every network is a product of what it reads and of factors computed on the way: attention maps,
standard deviations, gates. A factor that counts as a constant leaves a function that is linear in
the rest, so that Input x Gradient adds up to the output. Values are never changed, only what flows
back; written in gradient form, an LRP rule is such a factor (Achtibat et al., ICML 2024, app. B).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from relmap._torch_private import autograd_order, is_copy
from relmap.backwards.operation_rules.operation import BackwardRule, Operation, tensors_of

LINEAR = """
    add sub neg sum mean nansum embedding batch_norm index_add scatter_add index_put dropout
    feature_dropout alpha_dropout dropout1d dropout2d dropout3d native_dropout avg_pool1d
    avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
    interpolate upsample boolean_dispatch max_pool1d max_pool2d max_pool3d _max_pool2d fn
    max_pool2d_with_indices adaptive_max_pool1d adaptive_max_pool2d amax amin max min maximum
    minimum clamp clamp_min clamp_max nan_to_num"""
"""Linear (or piecewise linear) functions: their own gradient is the rule."""

ACTIVATIONS = """
    gelu silu mish relu relu6 elu celu selu leaky_relu prelu hardswish hardtanh softsign square
    abs"""
"""Functions of single numbers."""

GATES = "sigmoid hardsigmoid tanh erf"
"""Functions of single numbers that are factors where they are multiplied."""

SCALES = "rsqrt sqrt reciprocal var std norm linalg_norm vector_norm linalg_vector_norm"
"""What norms divide by."""

PRODUCTS = "mul matmul mm bmm rmatmul mv dot einsum addmm baddbmm addbmm addmv _grouped_mm inner"
"""Products, of two things that carry or of one with a weight."""

WEIGHTED = """
    linear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d"""
"""Products that nearly always have a weight, which may carry too."""


def named(rules: dict[BackwardRule, str]) -> dict[str, BackwardRule]:
    """A table by name, from lists of names for each rule."""
    return {name: rule for rule, names in rules.items() for name in names.split()}


def table(
    *,
    attention: BackwardRule,
    softmax: BackwardRule,
    activations: BackwardRule | None = None,
    addition: BackwardRule | None = None,
) -> dict[str, BackwardRule]:
    """The rules that this family shares, with those that its members differ in."""
    rules = named(
        {
            shifted: LINEAR,
            activations or ratio: ACTIVATIONS,
            gate: GATES,
            constant: SCALES,
            with_statistics: "var_mean std_mean",
            product: f"{PRODUCTS} {WEIGHTED}",
            power: "pow",
            accumulated: "scatter_reduce scatter",
            quotient: "div",
            gated_half: "glu",
            layer_norm: "layer_norm",
            rms_norm: "rms_norm",
            group_norm: "group_norm",
            instance_norm: "instance_norm",
            unit_length: "normalize",
        }
    )
    # What may be the same rule under two names comes apart from the lists above.
    rules |= {"softmax": softmax, "_softmax": softmax, "scaled_dot_product_attention": attention}
    return rules if addition is None else rules | {"add": addition}


def ordinary(operation: Operation) -> Any:
    """The function's own gradient."""
    return operation.run()


def shifted(operation: Operation) -> Any:
    """The function's own gradient; a gate that is shifted or scaled by a constant stays one."""
    result = operation.run()
    carrying = operation.carrying()
    if len(carrying) == 1 and operation.context.is_gate(carrying[0]):
        operation.context.gate(result)
    return result


def constant(operation: Operation) -> Any:
    """The result counts as a constant."""
    return operation.run().detach()


def with_statistics(operation: Operation) -> Any:
    """`var_mean` and `std_mean`: the deviation counts as a constant, the mean does not."""
    scale, mean = operation.run()
    return type((scale, mean))((scale.detach(), mean))


def ratio(operation: Operation) -> Tensor:
    """Y = f(x) as the product of x with the constant f(x) / x."""
    operand = operation.args[0]
    if not operation.context.carries(operand):
        raise operation.refuse("has a variable parameter, for which there is no rule")
    factor, value = _quotient(operation, operand)
    return operation.context.pass_back(value, lambda arriving: (arriving * factor,), operand)


def power(operation: Operation) -> Tensor:
    """Roots and their inverses are the scales of norms, as `sqrt` is; other powers as `ratio`."""
    return constant(operation) if is_root(operation) else ratio(operation)


def is_root(operation: Operation) -> bool:
    """Whether a power is what norms divide or multiply by."""
    exponent = operation.argument(1, "exponent")
    return isinstance(exponent, (int, float)) and exponent < 1 and exponent != 0


def accumulated(operation: Operation) -> Any:
    """Values added up, or compared, where they are written."""
    if operation.argument(4, "reduce") in ("prod", "multiply"):
        raise operation.refuse("multiplies values, for which there is no rule")
    return operation.run()


def gate(operation: Operation) -> Tensor:
    """A gate, as `ratio`, and a constant where something else is multiplied by it."""
    return operation.context.gate(ratio(operation))


def _quotient(operation: Operation, operand: Tensor) -> tuple[Tensor, Tensor]:
    """f(x) / x, which is f'(0) at 0, and f(x)."""
    with torch.no_grad():
        value = operation.run()
        zero = operand == 0
        quotient = value / torch.where(zero, 1, operand)
        if not bool(zero.any()):
            return quotient, value
    with torch.enable_grad():
        origin = torch.zeros_like(operand, requires_grad=True)
        (slope,) = torch.autograd.grad(operation.run({id(operand): origin}).sum(), origin)
    return torch.where(zero, slope, quotient), value


def product(operation: Operation) -> Any:
    """A product of two things that carry hands half of its gradient to each; gates are constants.

    The uniform rule of Achtibat et al. (ICML 2024, eq. 13) in gradient form.
    """
    # What is added to a product, or to a linear map, is no factor.
    added = operation.args[0] if operation.name.startswith(("add", "baddbmm")) else None
    factors = [
        one for one in tensors_of(operation.args, operation.kwargs)
        if operation.context.carries(one) and one is not added
    ]  # fmt: skip
    if len(factors) < 2:
        return shifted(operation) if operation.name == "mul" else operation.run()
    if operation.name == "mul":
        gates = [one for one in factors if operation.context.is_gate(one)]
        if len(gates) == 1:
            return operation.run({id(gates[0]): gates[0].detach()})
    # A tensor multiplied by itself counts twice.
    return operation.run({id(one): scaled(operation, one, 1 / len(factors)) for one in factors})


def quotient(operation: Operation) -> Any:
    """A denominator counts as a constant: it is the scale of a norm."""
    below = operation.argument(1, "other")
    if operation.context.carries(below):
        return operation.run({id(below): below.detach()})
    return shifted(operation)


def gated_half(operation: Operation) -> Any:
    """`glu`: the first half of the features times the gate of the second."""
    axis = operation.argument(1, "dim", -1)
    kept, gating = operation.args[0].chunk(2, dim=axis)
    return kept * gating.detach().sigmoid()


def scaled(operation: Operation, tensor: Tensor, factor: float | Tensor) -> Tensor:
    """The same value; its gradient times a factor."""
    context, value = operation.context, tensor.detach()
    return context.pass_back(value, lambda arriving: (arriving * factor,), tensor)


# --- norms ------------------------------------------------------------------------------------


def layer_norm(operation: Operation) -> Tensor:
    """Y = (x - mean) / std * w + b with the standard deviation taken for a constant."""
    operand, shape = operation.args[0], operation.argument(1, "normalized_shape")
    weight, epsilon = operation.argument(2, "weight"), operation.argument(4, "eps", 1e-5)
    axes = tuple(range(-len(shape), 0))
    with torch.no_grad():
        value = operation.run()
        wide = operand.float() if operand.dtype in (torch.float16, torch.bfloat16) else operand
        scale = (wide.var(axes, correction=0, keepdim=True) + epsilon).rsqrt()

    def back(arriving: Tensor) -> tuple[Tensor]:
        inner = arriving if weight is None else arriving * weight
        return (((inner - inner.mean(axes, keepdim=True)) * scale).to(operand.dtype),)

    return operation.context.pass_back(value, back, operand)


def rms_norm(operation: Operation) -> Tensor:
    """Y = x / rms * w with the root mean square taken for a constant."""
    operand, shape = operation.args[0], operation.argument(1, "normalized_shape")
    weight, epsilon = operation.argument(2, "weight"), operation.argument(3, "eps")
    axes = tuple(range(-len(shape), 0))
    with torch.no_grad():
        value = operation.run()
        wide = operand.float() if operand.dtype in (torch.float16, torch.bfloat16) else operand
        least = torch.finfo(operand.dtype).eps if epsilon is None else epsilon
        scale = (wide.square().mean(axes, keepdim=True) + least).rsqrt()

    def back(arriving: Tensor) -> tuple[Tensor]:
        inner = arriving if weight is None else arriving * weight
        return ((inner * scale).to(operand.dtype),)

    return operation.context.pass_back(value, back, operand)


def group_norm(operation: Operation) -> Tensor:
    """Like `layer_norm`, over groups of channels."""
    operand, groups = operation.args[0], operation.argument(1, "num_groups")
    weight, epsilon = operation.argument(2, "weight"), operation.argument(4, "eps", 1e-5)
    value = operation.run().detach()
    grouped = operand.detach().reshape(len(operand), groups, -1)
    scale = (grouped.var(-1, correction=0, keepdim=True) + epsilon).rsqrt()

    def back(arriving: Tensor) -> tuple[Tensor]:
        if weight is not None:
            arriving = arriving * weight.reshape(1, -1, *[1] * (arriving.ndim - 2))
        inner = arriving.reshape(grouped.shape)
        inner = (inner - inner.mean(-1, keepdim=True)) * scale
        return (inner.reshape(operand.shape),)

    return operation.context.pass_back(value, back, operand)


def instance_norm(operation: Operation) -> Tensor:
    """Like `group_norm`, with every channel a group; recorded statistics are constants anyway."""
    operand, weight = operation.args[0], operation.argument(3, "weight")
    if not operation.argument(5, "use_input_stats", True):
        return operation.run()
    epsilon = operation.argument(7, "eps", 1e-5)
    value, axes = operation.run().detach(), tuple(range(2, operand.ndim))
    scale = (operand.detach().var(axes, correction=0, keepdim=True) + epsilon).rsqrt()

    def back(arriving: Tensor) -> tuple[Tensor]:
        if weight is not None:
            arriving = arriving * weight.reshape(1, -1, *[1] * (arriving.ndim - 2))
        return ((arriving - arriving.mean(axes, keepdim=True)) * scale,)

    return operation.context.pass_back(value, back, operand)


def unit_length(operation: Operation) -> Tensor:
    """`normalize`: the length counts as a constant."""
    operand = operation.args[0]
    power, axis = operation.argument(1, "p", 2.0), operation.argument(2, "dim", 1)
    least = operation.argument(3, "eps", 1e-12)
    value = operation.run().detach()
    length = operand.detach().norm(power, axis, keepdim=True).clamp_min(least)
    return operation.context.pass_back(value, lambda arriving: (arriving / length,), operand)


# --- attention --------------------------------------------------------------------------------


def attention_constant(operation: Operation) -> Any:
    """Softmax(q k^T) v with the attention map taken for a constant."""
    query, key, value, *rest, kwargs = _attention_operands(operation)
    return operation.function(query.detach(), key.detach(), value, *rest, **kwargs)


def attention_halved(operation: Operation) -> Any:
    """Softmax(q k^T) v with the gradients of both products halved: q and k / 4, v / 2."""
    query, key, value, *rest, kwargs = _attention_operands(operation)
    parts = zip((query, key, value), (0.25, 0.25, 0.5), strict=True)
    halved = [scaled(operation, part, factor) for part, factor in parts]
    return operation.function(*halved, *rest, **kwargs)


def _attention_operands(operation: Operation) -> list[Any]:
    """Query, key, value and what else was given; by place, since one tensor may be all three."""
    names = ("query", "key", "value")
    operands = [operation.argument(place, name) for place, name in enumerate(names)]
    kwargs = {name: value for name, value in operation.kwargs.items() if name not in names}
    return [*operands, *operation.args[3:], kwargs]


# --- residual streams -------------------------------------------------------------------------


def signed_share(operation: Operation) -> Tensor:
    """The gamma rule at a residual addition (Berend et al. 2026, eq. 3-4, gamma = 1 by default).

        R_a = w(a) a / (w(a) a + w(b) b) R,    w(z) = 1 + gamma [sign z = sign(a + b)]

    In gradient form the gradient of each addend is multiplied by (a + b) w / (w(a) a + w(b) b);
    the paper's listing leaves the factor a + b out, without which nothing is conserved.
    """
    carrying = operation.carrying()
    if len(carrying) != 2 or carrying[0].shape != carrying[1].shape:
        return shifted(operation)
    one, other = carrying
    if not (_descends(one, other) or _descends(other, one)):
        return operation.run()
    gamma = operation.context.settings["gamma"]
    with torch.no_grad():
        whole = operation.run()
        alpha = operation.argument(2, "alpha", 1)
        addends = [one, other * alpha] if one is operation.args[0] else [one * alpha, other]
        weights = [1 + gamma * (part * whole > 0).to(whole.dtype) for part in addends]
        below = weights[0] * addends[0] + weights[1] * addends[1]
        factor = torch.where(below == 0, 1, whole / torch.where(below == 0, 1, below))
    weighed = zip(carrying, weights, strict=True)
    return operation.run(
        {id(part): scaled(operation, part, factor * weight) for part, weight in weighed}
    )


def _descends(tensor: Tensor, ancestor: Tensor) -> bool:
    """Whether one tensor was computed from another, by autograd's own graph."""
    wanted = get_gradient_edge(ancestor).node
    while is_copy(wanted):  # what an in-place addition reads is a copy
        parent = wanted.next_functions[0][0]
        assert parent is not None
        wanted = parent
    oldest = autograd_order(wanted) or 0  # a leaf may be older than anything
    # Nodes themselves are kept, since autograd makes a wrapper anew once the last one is gone.
    waiting, seen = [get_gradient_edge(tensor).node], set[Any]()
    while waiting:
        node = waiting.pop()
        if node is wanted:
            return True
        for parent, _ in node.next_functions:
            if parent is None or parent in seen:
                continue
            seen.add(parent)
            order = autograd_order(parent)
            if parent is wanted or order is None or order >= oldest:
                waiting.append(parent)
    return False
