"""One example as evaluation sees it: what goes into the model, and what is known to be true.

Formats differ in what they say: a class, answers of people, an object's outline, the words that
people marked. Every sample of every format can say it in these terms, so that a metric asks for
what it needs and never for where it came from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxtyping import Bool
from torch import Tensor

__all__ = ["Example"]


@dataclass(frozen=True, slots=True)
class Example:
    """One example of a data set: its inputs, and its truth as far as the data set tells it.

    Attributes:
        name: Unique within the data set.
        image: What `relmap.explain(image=)` takes, a path as a rule; None without a picture.
        text: The text that goes in; None without one.
        label: The right class, by number or by name.
        answers: How much each answer is worth, between 0 and 1, where several are right.
        captions: Sentences in which people described the picture.
        mask: Opens the pixels of the object, with the picture's own height and width; None from it
            means that there is no such object.
        regions: Opens the pixels of every class in the picture, by number; a pixel of no class is
            one that nobody labelled. `about["categories"]` names the classes.
        words: Character spans of the text that carry its class or its answer; None where nobody
            marked any, empty where people marked none.
        arguments: The forward's own arguments, prepared already and without a batch axis, for
            models whose inputs are no pictures and texts (boxes of a detector); image and text are
            not used then.
        about: Whatever else the data set says.
        files: Where mask and regions are read from; a run that goes on sees by their contents that
            they are what they were, and otherwise by opening the mask.
    """

    name: str
    image: Any = None
    text: str | None = None
    label: int | str | None = None
    answers: Mapping[str, float] = field(default_factory=dict)
    captions: tuple[str, ...] = ()
    mask: Callable[[], Bool[Tensor, "height width"] | None] | None = None
    regions: Callable[[], Mapping[int, Bool[Tensor, "height width"]]] | None = None
    words: tuple[tuple[int, int], ...] | None = None
    arguments: Mapping[str, Tensor] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)
    files: tuple[Path, ...] = ()

    def inputs(self) -> dict[str, Any]:
        """What `relmap.explain` is given: image=, text=, or both."""
        given = {"image": self.image, "text": self.text}
        return {name: value for name, value in given.items() if value is not None}
