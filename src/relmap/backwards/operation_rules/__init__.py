"""How single operations pass a gradient, or relevance, back.

`interception` sees every torch function while a network runs and asks a table what shall become of
it; `factors` holds the rules of the gradient family (factors that count as constants, gradients
that are halved), `products`, `sums` and `passing` those of the relevance family. A backward in
`relmap.backwards` is such a table.
"""

from relmap.backwards.operation_rules.interception import Backward, Interception, Passage
from relmap.backwards.operation_rules.operation import Operation, Rule

__all__ = ["Backward", "Interception", "Operation", "Passage", "Rule"]
