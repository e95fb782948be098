"""How single operations pass a gradient, or relevance, back.

`backward_mode` sees every torch function while a network runs and asks a table what shall become of
it; `factors` holds the rules of the gradient family (factors that count as constants, gradients
that are halved), `products`, `sums` and `passing` those of the relevance family. A backward in
`relmap.backwards` is such a table.
"""

from relmap.backwards.operation_rules import gradient, zplus
from relmap.backwards.operation_rules.backward_mode import (
    MOVEMENT,
    Backward,
    BackwardContext,
    BackwardMode,
)
from relmap.backwards.operation_rules.operation import BackwardRule, Operation
from relmap.trace.operations.registered import OPERATIONS

__all__ = ["Backward", "BackwardContext", "BackwardMode", "BackwardRule", "Operation"]

OPERATIONS.reserve(
    "gradient",
    MOVEMENT | gradient.table(attention=gradient.ordinary, softmax=gradient.ordinary).keys(),
)
OPERATIONS.reserve("relevance", MOVEMENT | zplus.RULES.keys())
