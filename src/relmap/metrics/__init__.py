"""Metrics: numbers that say how good an attribution is.

A metric is a function of what it judges; it keeps no state and draws nothing. Each file here
registers one, and declares with it the `direction` in which it improves, its `category`, the
`reference` it follows (see `MetricEntry`), and what it judges, its `needs`:

    ("mask",)    function(map, mask): the relevance of patches against an object's pixels
    ("words",)   function(scores, marked): the relevance of words against those that people marked
    ("model",)   function(trial): the map against the model, which is asked again

A number of a data set is the mean over examples, unless a `summary` says how it is put together.
How a map of patches is brought to the size of a mask is settled once, below.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from relmap.errors import InputError
from relmap.registry import Entry, Registry

__all__ = ["METRICS", "Judged", "MetricEntry", "check_maps", "to_mask_size"]

CATEGORIES = ("faithfulness", "localisation", "plausibility", "randomisation")


class Judged(StrEnum):
    """What a metric judges a map against."""

    MASK = "mask"
    WORDS = "words"
    MODEL = "model"


_OPERANDS = {
    Judged.MASK: ("map", "mask"),
    Judged.WORDS: ("scores", "marked"),
    Judged.MODEL: ("trial",),
}


@dataclass(frozen=True, kw_only=True)
class MetricEntry(Entry[Callable[..., Any]]):
    """A metric and what it declares.

    Attributes:
        needs: What it judges a map against: one of `Judged`, in a tuple.
        direction: "higher" or "lower", whichever is better; by quantity where it has several.
        category: One of faithfulness, localisation, plausibility, randomisation.
        summary: How the number of a data set is made of those of its examples, for the quantities
            of which it is not the mean.
        check: Called with the options that were chosen, before the first forward pass; it raises
            an InputError where one names nothing.
    """

    needs: tuple[Judged, ...]
    direction: str | Mapping[str, str]
    category: str
    summary: Mapping[str, Callable[..., Any]] = field(default_factory=dict[str, Any])
    check: Callable[..., Any] | None = None

    def check_options(self, chosen: Mapping[str, Any]) -> dict[str, Any]:
        """The options, each with a value that the metric knows, before anything is computed."""
        typed = super().check_options(chosen)
        if self.check is not None:
            self.check(**typed)
        return typed

    @classmethod
    def read(cls, declared: Mapping[str, Any]) -> dict[str, Any]:
        """What it needs becomes a member of `Judged`; mappings can no longer be changed."""
        needs, known = declared["needs"], [str(one) for one in Judged]
        if isinstance(needs, str) or len(needs) != 1 or needs[0] not in known:
            raise InputError(
                f"needs={needs!r} is not one of {', '.join(known)} in a tuple, as ('mask',) is"
            )
        frozen = {
            key: MappingProxyType(dict(value)) if isinstance(value, Mapping) else value
            for key, value in declared.items()
        }
        return {**frozen, "needs": (Judged(needs[0]),)}

    def __post_init__(self) -> None:
        ways = self.directions
        if not ways or not set(ways.values()) <= {"higher", "lower"}:
            raise InputError(f"direction={self.direction!r} is neither 'higher' nor 'lower'")
        if self.category not in CATEGORIES:
            raise InputError(f"category={self.category!r} is not one of {', '.join(CATEGORIES)}")
        unknown = [name for name in self.summary if name not in ways]
        if unknown:
            raise InputError(f"its summary has {unknown[0]!r}, of which it declares no direction")

    @property
    def directions(self) -> dict[str, str]:
        """In which direction each quantity improves; a metric of one number is named itself."""
        declared = self.direction
        return dict(declared) if isinstance(declared, Mapping) else {self.name: declared}

    def called_with(self) -> tuple[str, ...]:
        """The map and what it is judged against, or the trial."""
        return _OPERANDS[self.needs[0]]

    def notes(self) -> str:
        """Its category, and what is better."""
        ways = self.directions.items()
        better = self.direction if isinstance(self.direction, str) else None
        better = better or ", ".join(f"{name} {way}" for name, way in ways)
        return f" Category: {self.category}. Better: {better}."


METRICS = Registry("metric", "relmap.metrics", MetricEntry)


def check_maps(
    scores: Float[Tensor, "batch rows columns"], mask: Bool[Tensor, "masks height width"]
) -> None:
    """Refuses maps and masks that no localisation metric can judge.

    Raises:
        InputError: If shapes or types do not fit, a map is not finite, or a mask is empty.
    """
    if scores.ndim != 3 or mask.ndim != 3 or len(scores) != len(mask):
        raise InputError(
            f"a metric takes one map and one mask per example, shapes (batch, rows, columns) and "
            f"(batch, height, width); got {tuple(scores.shape)} and {tuple(mask.shape)}"
        )
    if mask.dtype != torch.bool:
        raise InputError(f"a mask is a boolean tensor, got {mask.dtype}: pass `mask > 0`")
    if not scores.isfinite().all():
        raise InputError("a map holds NaN or infinite scores, which no metric can judge")
    if not mask.flatten(1).any(dim=1).all():
        raise InputError("a mask is empty: leave out examples whose object is not in the image")


def to_mask_size(
    scores: Float[Tensor, "batch rows columns"], mask: Bool[Tensor, "batch height width"]
) -> Float[Tensor, "batch height width"]:
    """Maps interpolated bilinearly to the size of the masks they are judged by.

    Patch centres are the nodes of the interpolation and the half patch outside the outermost
    centres repeats them (`align_corners=False`), so every patch keeps the same total weight.

    Example:
        >>> import torch
        >>> to_mask_size(torch.rand(2, 14, 14), torch.ones(2, 224, 224, dtype=torch.bool)).shape
        torch.Size([2, 224, 224])
    """
    # half-precision maps are widened: a peak must not depend on how the interpolation rounds
    wide = scores.to(torch.promote_types(scores.dtype, torch.float32))
    size = (mask.shape[1], mask.shape[2])
    large = torch.nn.functional.interpolate(wide[:, None], size, mode="bilinear")
    return large[:, 0]
