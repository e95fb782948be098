"""Phrases that speak of things: "the small red star", "blue things"."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from clipmapper.scenes.world import COLOURS, SHAPES, SIZES, UNSEEN_PAIRS, Scene, Thing

__all__ = ["Description", "describe", "is_speakable", "only", "pairs", "random_description"]


@dataclass(frozen=True, slots=True)
class Description:
    """What is said of a thing; what is None is left open."""

    size: str | None = None
    colour: str | None = None
    shape: str | None = None

    def fits(self, thing: Thing) -> bool:
        """Whether a thing is so described."""
        return (
            (self.size is None or self.size == thing.size)
            and (self.colour is None or self.colour == thing.colour)
            and (self.shape is None or self.shape == thing.shape)
        )

    def phrase(self, plural: bool = False) -> str:
        """In words, the telling ones in brackets: "[small] [red] thing"."""
        adjectives = [f"[{word}]" for word in (self.size, self.colour) if word]
        ending = "s" if plural else ""
        noun = f"[{self.shape}{ending}]" if self.shape else f"thing{ending}"
        return " ".join([*adjectives, noun])

    @property
    def form(self) -> str:
        """Which attributes it names: questions are balanced within a form."""
        return "".join("01"[value is not None] for value in (self.size, self.colour, self.shape))

    @property
    def unseen(self) -> bool:
        """Whether it names a pair that training must not hear of."""
        return (self.colour, self.shape) in UNSEEN_PAIRS


def only(things: Sequence[Thing], description: Description) -> int | None:
    """The one thing that fits, or None."""
    fitting = [index for index, thing in enumerate(things) if description.fits(thing)]
    return fitting[0] if len(fitting) == 1 else None


def describe(
    scene: Scene, index: int, random: np.random.Generator, hide: tuple[str, ...] = ()
) -> Description | None:
    """A random description that fits this thing alone and does not name the hidden attributes."""
    thing = scene.things[index]
    names = [name for name in ("size", "colour", "shape") if name not in hide]
    options = []
    for chosen in range(1, 2 ** len(names)):
        said = {n: getattr(thing, n) for bit, n in enumerate(names) if chosen >> bit & 1}
        description = Description(**said)
        if only(scene.things, description) is not None:
            options.append(description)
    return options[int(random.integers(len(options)))] if options else None


def random_description(
    scene: Scene, random: np.random.Generator, forms: Sequence[tuple[str, ...]]
) -> Description:
    """Attributes of things in the scene, mixed: half of the time of one thing, else of several."""
    names = forms[int(random.integers(len(forms)))]
    whole = random.random() < 0.5
    one = scene.things[int(random.integers(len(scene.things)))]
    said = {}
    for name in names:
        source = one if whole else scene.things[int(random.integers(len(scene.things)))]
        said[name] = getattr(source, name)
    if random.random() < 0.3:  # one attribute from anywhere in the world
        name = names[int(random.integers(len(names)))]
        values = {"size": SIZES, "colour": COLOURS, "shape": SHAPES}[name]
        said[name] = values[int(random.integers(len(values)))]
    return Description(**said)


def is_speakable(description: Description, scene: Scene) -> bool:
    """Training never speaks of unseen pairs, not even to deny them."""
    return scene.has_unseen_pair or not description.unseen


def pairs(
    scene: Scene, random: np.random.Generator, hide: tuple[str, ...] = ()
) -> Iterator[tuple[Description, Description]]:
    """Two different things, each described so that it is the only one."""
    count = len(scene.things)
    for _ in range(8):
        first, second = random.choice(count, 2, replace=False)
        one = describe(scene, int(first), random, hide)
        other = describe(scene, int(second), random, hide)
        if one is not None and other is not None:
            yield one, other
