"""Sufficiency: is the rationale alone enough for the answer?

The counterpart of comprehensiveness. Everything but the most relevant units is hidden, and the
model is asked whether it would still say the same.
"""

from __future__ import annotations

from relmap.metrics import METRICS
from relmap.metrics.trial import Measured, Trial

__all__ = ["sufficiency"]

BINS = (0.01, 0.05, 0.1, 0.2, 0.5)


@METRICS.register(
    "sufficiency",
    direction="lower",
    category="faithfulness",
    reference="DeYoung et al., ERASER, ACL 2020, eq. 2 and the AOPC over five bins",
    needs=("model",),
)
def sufficiency(trial: Trial, *, source: str = "text", fill: str = "") -> Measured:
    """How far the probability falls when only the most relevant units stay, in [-1, 1].

    sufficiency = 1/|B| · Σ_{k in B} (p(x) - p(r_k)), with p the probability of the explained
    choice, r_k the ceil(k n) most relevant of n units alone, and B = {1, 5, 10, 20, 50} %. Lower
    is better; below 0 the rationale convinces more than the whole. With very few units left every
    input is unlike any that the model has learned from.

    Args:
        trial: The examples with their attribution, and the model.
        source: "text", "image" or "features".
        fill: What hides a unit; by default text and boxes are taken out, patches made the mean.

    Raises:
        InputError: The source or fill does not fit the model.

    Example:
        >>> BINS
        (0.01, 0.05, 0.1, 0.2, 0.5)
    """
    return {"sufficiency": trial.drops(source, fill, BINS, alone=True).mean(dim=1)}
