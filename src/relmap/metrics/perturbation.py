"""Perturbation tests: hide what the map calls relevant, and watch the answer go.

If a map is right, hiding the most relevant units first makes the model fail soon (the positive
test, a small area under the curve), and hiding the least relevant first leaves its answer alone
for long (the negative test, a large area). Published numbers differ mostly in what is hidden, with
what, in which steps, and what is counted under the curve; every such choice of a published protocol
is written down below as a preset, and an option changes it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from relmap.errors import InputError
from relmap.metrics import METRICS
from relmap.metrics.hiding import check_fill
from relmap.metrics.trial import Curve, Measured, Trial, Units, area
from relmap.options import suggestion

__all__ = ["PRESETS", "Protocol", "perturbation"]

_WRA = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.5, 0.75, 1.0)
_TENTHS = tuple(step / 10 for step in range(10))
_LXMERT = (0.0, 0.25, 0.5, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0)
_VISUALBERT = (0.0, 0.5, 0.75, 0.95, 0.96, 0.97, 0.98, 0.99, 1.0)


@dataclass(frozen=True)
class Protocol:
    """Every choice of a perturbation test.

    Attributes:
        reference: Where it was published.
        source: What is perturbed: "image", "text" or "features" (boxes).
        unit: "patch" or "pixel" of an image, "token" of the others.
        fill: What stands in the place of what is hidden (see `relmap.metrics.hiding.FILLS`).
        steps: The shares of the units that are hidden.
        count: How many units a share s of n is: "hidden", int(n s) are hidden; "kept",
            int(n (1 - s)) are kept.
        measure: What is read at each step: "accuracy", "agreement", "probability" or "logit".
        positive: Its name for most relevant first.
        negative: Its name for least relevant first; "" if only the positive test is run.
        tail: A point (1, 0) is added to the curve, as some code does.
        scale: The area is multiplied by it.
        difference: A name for (negative - positive), "" if none is published.
        insertion: A second test that starts with everything hidden by this fill and shows the
            most relevant first; "" if there is none.
    """

    reference: str
    source: str
    unit: str
    fill: str
    steps: tuple[float, ...]
    count: str = "hidden"
    measure: str = "accuracy"
    positive: str = "positive"
    negative: str = "negative"
    tail: bool = False
    scale: float = 100.0
    difference: str = ""
    insertion: str = ""


_CHEFER = Protocol(
    "Chefer et al., Transformer Interpretability Beyond Attention Visualization, CVPR 2021; the "
    "area as the authors say in issue 31 of their code",
    "image", "pixel", "black", _TENTHS,
)  # fmt: skip
_BOXES = Protocol(
    "Chefer et al., Generic Attention-model Explainability, ICCV 2021, their LXMERT script; "
    "the area is not in it: trapezoid",
    "features", "token", "remove", _LXMERT, count="kept",
)  # fmt: skip

PRESETS: dict[str, Protocol] = {
    "wra-image": Protocol(
        "WRA section 4.3.2, eq. none; fill and area are not in the paper: black, trapezoid",
        "image", "patch", "black", _WRA,
    ),
    "wra-text": Protocol(
        "WRA section 4.3.2; subwords are taken out, as in the code of GenAtt that it follows",
        "text", "token", "remove", _WRA,
    ),
    "chefer-vit": _CHEFER,
    "bth": replace(
        _CHEFER,
        reference="Chen et al., Beyond Intuition, NeurIPS 2023, code: Chefer's curve with (1, 0)",
        tail=True,
    ),
    "lxmert-image": _BOXES,
    "lxmert-text": replace(_BOXES, source="text"),
    "visualbert-image": replace(_BOXES, steps=_VISUALBERT),
    "visualbert-text": replace(_BOXES, source="text"),
    "srg": Protocol(
        "ResLRP; Blücher et al., Decoupling Pixel Flipping and Occlusion Strategy, 2024",
        "image", "patch", "mean", tuple(step / 100 for step in range(101)), measure="logit",
        positive="mif", negative="lif", scale=1.0, difference="srg",
    ),
    "mif": Protocol(
        "LibraGrad, CVPR 2025: most influential first, predicted labels; fill and steps are ours",
        "image", "patch", "mean", _TENTHS, measure="agreement", positive="mif", negative="lif",
        difference="srg",
    ),
    "grad-eclip": Protocol(
        "Zhao et al., Gradient-based Visual Explanation for CLIP, ICML 2024, code: half of the "
        "image in ten of a hundred steps",
        "image", "pixel", "noise", tuple(step / 20 for step in range(11)), positive="deletion",
        negative="", insertion="black",
    ),
}  # fmt: skip

_DIRECTION = {
    "positive": "lower", "negative": "higher", "mif": "lower", "lif": "higher", "srg": "higher",
    "deletion": "lower", "insertion": "higher",
}  # fmt: skip


def _check_names(*, preset: str = "wra-image", fill: str = "", **changes: str) -> None:
    protocol = _protocol(preset, fill=fill, **changes)
    check_fill(protocol.fill, protocol.source)


def _protocol(preset: str, **changes: str) -> Protocol:
    if preset not in PRESETS:
        raise InputError(
            f"there is no preset {preset!r}.{suggestion(preset, PRESETS)} There are: "
            f"{', '.join(PRESETS)}"
        )
    return replace(PRESETS[preset], **{name: value for name, value in changes.items() if value})


@METRICS.register(
    "perturbation",
    direction=_DIRECTION,
    category="faithfulness",
    reference="Samek et al. 2017; presets: WRA 4.3.2, Chefer et al. 2021, ResLRP, Grad-ECLIP",
    needs=("model",),
    check=_check_names,
)
def perturbation(
    trial: Trial,
    *,
    preset: str = "wra-image",
    source: Literal["", "image", "text", "features"] = "",
    fill: str = "",
    measure: Literal["", "accuracy", "agreement", "probability", "logit"] = "",
    unit: Literal["", "patch", "pixel", "token"] = "",
) -> Measured:
    """The area under the curve of what is left of an answer while units are hidden in order.

    AUC = scale · Σ_k (s_{k+1} - s_k) (y_k + y_{k+1}) / 2 with y_k the measure when the share s_k
    of the units is hidden: "positive" hides the most relevant first (lower is better), "negative"
    the least relevant (higher is better). Where a preset has a difference, it is
    AUC(least first) - AUC(most first). Equal scores are taken in reading order. Special tokens are
    never hidden and padding never counts.

    A curve is blind to relevance that is right but redundant, and hidden inputs are unlike any the
    model has learned from: read several fills, and a random map beside them. Not for maps that
    say which *sign* relevance has: negative relevance is only least relevant here.

    Args:
        trial: The examples with their attribution, and the model.
        preset: A published protocol, by name; each is a `Protocol` in `PRESETS`.
        source: "image", "text" or "features", if not the preset's.
        fill: What hides a unit, if not the preset's.
        measure: "accuracy", "agreement", "probability" or "logit", if not the preset's.
        unit: "patch" or "pixel", if not the preset's.

    Raises:
        InputError: No such preset, or an option does not fit the model or the example.

    Example:
        >>> PRESETS["chefer-vit"].steps[-1], PRESETS["wra-text"].fill
        (0.9, 'remove')
    """
    protocol = _protocol(preset, source=source, fill=fill, measure=measure, unit=unit)
    units = trial.units(protocol.source, protocol.unit)
    found: dict[str, Float[Tensor, " example"] | Curve] = {}
    names = [(protocol.positive, True)]
    if protocol.negative:
        names.append((protocol.negative, False))
    for name, descending in names:
        ranks = units.ranks(descending=descending)
        _judge(found, name, trial, units, protocol, ranks)
    if protocol.insertion:
        shown = replace(protocol, fill=protocol.insertion)
        _judge(found, "insertion", trial, units, shown, units.ranks(), inserted=True)
    if protocol.difference:
        least, most = found[protocol.negative], found[protocol.positive]
        assert isinstance(least, Tensor)
        assert isinstance(most, Tensor)
        found[protocol.difference] = least - most
    return found


def _judge(
    found: dict[str, Float[Tensor, " example"] | Curve], name: str, trial: Trial, units: Units,
    protocol: Protocol, ranks: Int[Tensor, "example unit"], inserted: bool = False,
) -> None:  # fmt: skip
    """One order: the curve of the measure over the steps, and the area under it."""
    number = units.number[:, None]
    shares = torch.tensor(protocol.steps, dtype=torch.float64)
    hidden = hidden_units(number, shares, protocol.count)
    place, taken = ranks[:, None, :], hidden[:, :, None]
    keep = (place < taken) if inserted else (place >= taken)
    keep |= ~units.counted[:, None, :]
    response = trial.respond(units, keep, protocol.fill)
    values = trial.credit(response, protocol.measure)
    curve = Curve(protocol.steps, values)
    if protocol.tail:
        end = torch.zeros(len(values), 1, dtype=values.dtype)
        curve = Curve((*protocol.steps, 1.0), torch.cat([values, end], dim=1))
    found[name] = protocol.scale * area(curve.steps, curve.values)
    found[f"{name}-curve"] = curve


def hidden_units(
    number: Int[Tensor, "example 1"], shares: Float[Tensor, " step"], count: str
) -> Int[Tensor, "example step"]:
    """How many of n units are hidden at each share: int(n s), or n - int(n (1 - s)).

    The product is rounded to nine digits first, so that 0.29 of 100 is 29 and not, by the last bit
    of a float, 28.

    Example:
        >>> import torch
        >>> hidden_units(torch.tensor([[7]]), torch.tensor([0.5], dtype=torch.float64), "kept")
        tensor([[4]])
    """
    if count == "hidden":
        return (number * shares).mul(1e9).round().div(1e9).floor().long()
    return number - (number * (1 - shares)).mul(1e9).round().div(1e9).floor().long()
