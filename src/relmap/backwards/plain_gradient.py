"""The plain gradient: every operation passes back what autograd computes."""

from __future__ import annotations

from relmap.backwards import BACKWARDS
from relmap.backwards.operation_rules import Backward


@BACKWARDS.register("gradient", reference="chain rule", family="gradient")
def gradient() -> Backward:
    """The ordinary gradient, dy/dx: the table of rules is empty, and nothing is intercepted."""
    return Backward("gradient", "gradient", {})
