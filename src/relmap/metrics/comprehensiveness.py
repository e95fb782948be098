"""Comprehensiveness: is the answer gone once the rationale is taken away?

Its counterpart is sufficiency: is the rationale alone enough? Both ask the model itself, so both
depend on what an input looks like with a hole in it.
"""

from __future__ import annotations

from relmap.metrics import METRICS
from relmap.metrics.trial import Measured, Trial

__all__ = ["comprehensiveness"]

BINS = (0.01, 0.05, 0.1, 0.2, 0.5)


@METRICS.register(
    "comprehensiveness",
    direction="higher",
    category="faithfulness",
    reference="DeYoung et al., ERASER, ACL 2020, eq. 1 and the AOPC over five bins",
    needs=("model",),
)
def comprehensiveness(trial: Trial, *, source: str = "text", fill: str = "") -> Measured:
    """How far the probability falls when the most relevant units are taken away, in [-1, 1].

    comprehensiveness = 1/|B| · Σ_{k in B} (p(x) - p(x ∖ r_k)), with p the probability of the
    explained choice, r_k the ceil(k n) most relevant of n units, and B = {1, 5, 10, 20, 50} %.
    Higher is better. Methods can be tuned to it without being any truer: read it beside
    sufficiency, and beside a random map.

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
    return {"comprehensiveness": trial.drops(source, fill, BINS).mean(dim=1)}
