"""Guided backpropagation: what passes an activation on the way back must be positive."""

from typing import Any

from relmap.backwards import BACKWARDS, Backward
from relmap.backwards.operation_rules import Operation
from relmap.backwards.operation_rules.gradient import ACTIVATIONS, constant, ordinary, table


@BACKWARDS.register(
    "guided-backpropagation",
    reference="Springenberg et al., Striving for Simplicity, ICLR workshop 2015",
    family="gradient",
)
def guided_backpropagation() -> Backward:
    """The gradient, of which activations pass the positive part alone: g_x = act'(x) max(g, 0)."""
    rules = dict.fromkeys(table(attention=ordinary, softmax=constant), ordinary)
    rules |= dict.fromkeys(ACTIVATIONS.split(), _guided)
    return Backward("guided-backpropagation", "gradient", rules)


def _guided(operation: Operation) -> Any:
    result = operation.run()
    if result.requires_grad:
        result.register_hook(lambda gradient: gradient.clamp_min(0))
    return result
