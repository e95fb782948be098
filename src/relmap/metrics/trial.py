"""A trial: examples, one attribution of them, and the model to ask again.

What a metric of faithfulness judges is never the map alone but the map against the model. A trial
holds both, and gives a metric what it needs in the terms of the papers: the units of an input with
their relevance, an order among them, and the model's response when some are hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from relmap.data.example import Example
from relmap.errors import InputError
from relmap.metrics.hiding import Response, Subject
from relmap.result.attribution import Attribution
from relmap.result.layout import Layout

__all__ = ["Again", "Curve", "Measured", "Trial", "Units", "area"]


@dataclass(frozen=True, eq=False)
class Curve:
    """A quantity at several steps, for every example: what is drawn, and what an area is under."""

    steps: tuple[float, ...]
    values: Float[Tensor, "example step"]


Measured = Mapping[str, Float[Tensor, " example"] | Curve | list[str]]
"""What a metric says: one number for each example by quantity, or a curve.

Under the name "detail" there may be one JSON text for each example, for metrics that are summed up
from more than numbers.
"""


@dataclass(frozen=True, eq=False)
class Units:
    """The parts of one input that may be hidden, with the relevance of each.

    `counted` marks those that take part: content, neither special nor padding.
    """

    source: str
    layout: Layout
    scores: Float[Tensor, "example unit"]
    counted: Bool[Tensor, "example unit"]

    @property
    def number(self) -> Int[Tensor, " example"]:
        """How many units of each example take part."""
        return self.counted.sum(dim=1)

    def ranks(self, *, descending: bool = True) -> Int[Tensor, "example unit"]:
        """The place of each unit in the order of relevance, 0 first; equal ones in reading order.

        Units that do not take part come after all others.
        """
        scores = self.scores if descending else -self.scores
        order = scores.argsort(dim=1, descending=True, stable=True)
        apart = (~self.counted).gather(1, order).int().argsort(dim=1, stable=True)
        order = order.gather(1, apart)
        return order.argsort(dim=1)


@runtime_checkable
class Again(Protocol):
    """The same model and method, asked about more than the trial's attribution explains.

    Each question is about one example, by its number in the batch, which is prepared alone: no
    answer depends on its neighbours.
    """

    def arguments(self, example: int) -> dict[str, Any]:
        """The forward's arguments of one example."""
        ...

    def targets(self, example: int, targets: Sequence[Any]) -> list[Attribution]:
        """The attribution of one example for each of several targets."""
        ...

    def texts(self, example: int, texts: Sequence[str]) -> Attribution:
        """The attribution of its picture beside each of several texts, as one batch."""
        ...

    def caption(self, example: int, weighting: str, documents: str, most: int) -> Attribution:
        """The attribution of the whole caption that the model writes (WRA, eq. 20)."""
        ...

    def write(self, arguments: Mapping[str, Any], example: int, most: int) -> list[str]:
        """What the model writes, greedily, of each row of changed arguments of one example."""
        ...

    def fit(self, example: int, captions: Sequence[str], clip: str) -> Float[Tensor, " caption"]:
        """RefCLIPScore of captions of one example."""
        ...

    def mask(self, example: int, source: str) -> Bool[Tensor, "1 height width"] | None:
        """The example's mask as the model sees the picture; None where it has or shows none."""
        ...

    def regions(self, example: int, source: str) -> dict[int, Bool[Tensor, "height width"]]:
        """The pixels of every class in the example, by number, as the model sees the picture."""
        ...


@dataclass(frozen=True, eq=False)
class Trial:
    """One attribution of a batch of examples, and the model that it explains.

    Attributes:
        examples: What went in, and what is true of it.
        attribution: Of the whole batch.
        subject: The model, to be asked with parts of the inputs hidden.
        label: The number and the name of a choice, which an example's `answers` are about.
        right: The choice that a label means, as `relmap.explain(target=)` reads it.
        explain: The same method and options on another network: explain(network) -> Attribution.
        again: The same method and options about something else.
    """

    examples: tuple[Example, ...]
    attribution: Attribution
    subject: Subject
    label: Callable[[int], tuple[int, str | None]]
    right: Callable[[int | str], int]
    explain: Callable[[Any], Attribution]
    again: Again

    def units(self, source: str, unit: str = "patch") -> Units:
        """The units of the image ("patch" or "pixel"), the text ("token") or the boxes.

        `source` is "image", "text" or "features". A map of pixels is the method's own where it
        gives one, else that of the patches, interpolated bilinearly.

        Raises:
            InputError: There is no such input, or its tokens lie on no grid.
        """
        if source == "image":
            return self._of_image(unit)
        for name, layout in self.attribution.layout.items():
            if layout.modality == source:
                scores = self.attribution.scores[name].detach().cpu().double()
                return Units(name, layout, scores, layout.content.cpu())
        raise InputError(
            f"no {source} went into this model; it took {', '.join(self.attribution.scores)}"
        )

    def _of_image(self, unit: str) -> Units:
        view = self.attribution.image
        layout = self.attribution.layout[view.name]
        if unit == "patch":
            scores = view.scores.flatten(1)
        elif unit == "pixel":
            size = self.subject.arguments[view.name].shape[-2:]
            large = view.scores[:, None].float()
            pixels = view.pixels
            if pixels is None:
                pixels = torch.nn.functional.interpolate(large, size, mode="bilinear")[:, 0]
            scores = pixels.flatten(1)
        else:
            raise InputError(f"unit={unit!r} of an image is 'patch' or 'pixel'")
        scores = scores.detach().cpu().double()
        return Units(view.name, layout, scores, torch.ones_like(scores, dtype=torch.bool))

    def drops(
        self, source: str, fill: str, shares: Sequence[float], *, alone: bool = False
    ) -> Float[Tensor, "example share"]:
        """How far the probability of the explained choice falls without the most relevant units.

        p(x) - p(x ∖ r), with r the ceil(share · n) most relevant of an example's n units; `alone`
        hides everything but them instead, p(x) - p(r). Without a fill, patches become the mean
        colour, and text and boxes are taken out.

        Raises:
            InputError: The source or fill does not fit the model.
        """
        units = self.units(source)
        product = units.number[:, None] * torch.tensor(shares, dtype=torch.float64)
        # a tenth of ten units is one, also where the product lies a little above it
        chosen = product.mul(1e9).round().div(1e9).ceil()[:, :, None]
        ranks = units.ranks()[:, None, :]
        keep = (ranks < chosen if alone else ranks >= chosen) | ~units.counted[:, None, :]
        keep = torch.cat([torch.ones_like(keep[:, :1]), keep], dim=1)
        fill = fill or ("mean" if source == "image" else "remove")
        probability = self.credit(self.respond(units, keep, fill), "probability")
        return probability[:, :1] - probability[:, 1:]

    def respond(self, units: Units, keep: Bool[Tensor, "example step unit"], fill: str) -> Response:
        """What the model says where only some units are kept."""
        return self.subject.respond(units.source, units.layout, keep, fill)

    def credit(self, response: Response, measure: str) -> Float[Tensor, "example step"]:
        """What is left of the answer.

        "accuracy" is whether the highest choice is the example's right one (its worth, where
        answers have one), "agreement" whether it is what was said of the unperturbed input,
        "probability" and "logit" are those of the explained choice.

        Raises:
            InputError: The measure is none of these, or an example has nothing to compare with, or
                a label that is no class of the model.
        """
        if measure in ("probability", "logit"):
            values = getattr(response, measure)
            if values.isnan().any():
                raise InputError("an image-text score is no probability: pass measure='logit'")
            return values
        if measure not in ("accuracy", "agreement"):
            raise InputError(
                f"measure={measure!r} is none of accuracy, agreement, probability, logit"
            )
        if self.subject.kind == "pair":
            raise InputError(
                f"an image-text score has no {measure}, since nothing is chosen: pass "
                "measure='logit'"
            )
        if measure == "agreement":
            whole = [self.subject.known[("whole", at)][2] for at in range(len(self.examples))]
            return (response.choice == torch.tensor(whole)[:, None]).double()
        worth = [
            [self._worth(example, choice) for choice in row]
            for example, row in zip(self.examples, response.choice.tolist(), strict=True)
        ]
        return torch.tensor(worth, dtype=torch.float64)

    def _worth(self, example: Example, choice: int) -> float:
        if example.answers:
            return float(example.answers.get(self.label(choice)[1] or "", 0.0))
        if example.label is None:
            raise InputError(
                f"example '{example.name}' has no label, which accuracy needs: pass "
                "measure='agreement' to compare with what the model says of the whole input"
            )
        return float(choice == self.right(example.label))


def area(
    steps: Sequence[float], values: Float[Tensor, "example step"]
) -> Float[Tensor, " example"]:
    """The area under each curve by the trapezoid rule, over the steps as they are.

    AUC = Σ_k (s_{k+1} - s_k) (y_k + y_{k+1}) / 2. Nothing is divided by the range of the steps, so
    steps from 0 to 0.9 give at most 0.9.

    Example:
        >>> import torch
        >>> area((0.0, 0.5, 1.0), torch.tensor([[1.0, 1.0, 0.0]]))
        tensor([0.7500])
    """
    return torch.trapezoid(values, torch.tensor(steps, dtype=values.dtype), dim=1)
