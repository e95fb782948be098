"""The faithfulness violation test: does the sign of the strongest relevance mean anything?

A method that says "this speaks for the answer" of something whose removal makes the answer surer
has the polarity wrong, however well it ranks.
"""

from __future__ import annotations

import torch

from relmap.metrics import METRICS
from relmap.metrics.trial import Measured, Trial

__all__ = ["faithfulness_violation"]


@METRICS.register(
    "faithfulness-violation",
    direction="lower",
    category="faithfulness",
    reference="Liu et al., Rethinking Attention-Model Explainability, ICML 2022, section 4",
    needs=("model",),
)
def faithfulness_violation(trial: Trial, *, source: str = "text", fill: str = "") -> Measured:
    """Whether the strongest unit's sign is wrong: 1 for a violation, 0 for none.

    violation = [sign(r_j) != sign(p(x) - p(x ∖ j))], with j = argmax_i |r_i| and p the probability
    of the explained choice; a change of exactly 0 agrees with no sign. The mean over examples is
    the share of violations; lower is better.

    Maps that are never negative (raw attention, rollout, GenAtt, WRA) cannot say that something
    speaks against the answer: each example whose strongest unit does so is a violation of theirs.
    Compare them with each other, not with signed methods.

    Args:
        trial: The examples with their attribution, and the model.
        source: "text", "image" or "features".
        fill: What hides the unit; by default text and boxes are taken out, a patch made the mean.

    Raises:
        InputError: The source or fill does not fit the model.

    Example:
        >>> METRICS.get("faithfulness-violation").direction
        'lower'
    """
    units = trial.units(source)
    strength = units.scores.abs().masked_fill(~units.counted, -1.0)
    strongest = strength.argmax(dim=1, keepdim=True)
    keep = torch.ones(len(strength), 2, strength.shape[1], dtype=torch.bool)
    keep[:, 1].scatter_(1, strongest, False)
    fill = fill or ("mean" if source == "image" else "remove")
    probability = trial.credit(trial.respond(units, keep, fill), "probability")
    change = probability[:, 0] - probability[:, 1]
    claimed = units.scores.gather(1, strongest)[:, 0]
    violated = (claimed.sign() != change.sign()).double()
    # A text of no content has nothing to remove.
    return {"faithfulness-violation": violated.where(units.number > 0, torch.nan)}
