"""Squareplus, an activation of its own, with a backward and a method that go well with it."""

from typing import Any

import torch
from torch import Tensor

from relmap.backwards import BACKWARDS, Backward
from relmap.backwards.operation_rules import Operation
from relmap.backwards.operation_rules.gradient import ACTIVATIONS, constant, ordinary, table
from relmap.methods import METHODS
from relmap.relevance.entering_tokens import read_entrance
from relmap.relevance.traced_pass import RecordedPass
from relmap.trace.operations import OPERATIONS


@torch.library.custom_op("smooth::squareplus", mutates_args=())
def squareplus(x: Tensor) -> Tensor:
    """Squareplus: y = (x + sqrt(x^2 + 4)) / 2."""
    return (x + (x * x + 4).sqrt()) / 2


def _remember(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _slope(ctx: Any, gradient: Tensor) -> Tensor:
    (x,) = ctx.saved_tensors
    return gradient * (1 + x / (x * x + 4).sqrt()) / 2


squareplus.register_autograd(_slope, setup_context=_remember)


def _share(operation: Operation) -> Tensor:
    """Relevance goes through as it came: one number went in for each that comes out."""
    (x,) = operation.args
    value = operation.run().detach()
    return operation.context.pass_back(value, lambda arriving: (arriving,), x)


# To tokens it does what silu does: each stays itself. What flows back is said family by family.
OPERATIONS.register(
    "smooth.squareplus", tokens="silu", gradient="silu", relevance=_share, reference="Barron, 2021"
)


@BACKWARDS.register(
    "straight-through", reference="Bengio, Leonard & Courville, 2013", family="gradient"
)
def straight_through() -> Backward:
    """The gradient, with every activation taken for the identity on the way back: g_x = g_y."""
    rules = dict.fromkeys(table(attention=ordinary, softmax=constant), ordinary)
    rules |= dict.fromkeys(ACTIVATIONS.split(), _share)
    return Backward("straight-through", "gradient", rules)


@METHODS.register(
    "gradient-magnitude",
    reference="Simonyan et al., ICLR workshop 2014",
    needs=("stream-gradient",),
    target_dependent=True,
)
def gradient_magnitude(passed: RecordedPass) -> dict[int, Tensor]:
    """How much a small change of any feature of a token can do: the sum of |dy/dx_jf| over f."""
    return read_entrance(passed, lambda activation: _magnitude(passed.gradient(activation)))


def _magnitude(gradient: Tensor | None) -> Tensor | None:
    return None if gradient is None else gradient.abs()
