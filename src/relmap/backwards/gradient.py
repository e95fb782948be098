"""The plain gradient: every operation passes back what autograd computes."""

from __future__ import annotations

from relmap.backwards import BACKWARDS


@BACKWARDS.register("gradient", reference="chain rule")
def gradient() -> dict[str, str]:
    """The ordinary gradient, dy/dx: the table of rules is empty."""
    return {}
