"""What a scene is: two to five things on a textured ground, and how scenes are drawn by lot.

Scenes come in groups of four *siblings*: a first one and three that differ from it in one respect
(where things are, how colours, shapes or sizes are dealt out, one thing changed, added or taken
away). A model that looks at the gist of a picture cannot tell siblings apart. Within a scene, near
duplicates (a thing and its copy but for one attribute) keep descriptions from being too easy.

Three of the 24 pairs of colour and shape never occur in training or validation: the pictures of
the held-out split have at least one of them each.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

__all__ = [
    "BACKGROUNDS",
    "COLOURS",
    "SHAPES",
    "SIDE",
    "SIZES",
    "UNSEEN_PAIRS",
    "Scene",
    "Thing",
    "sample_siblings",
]

SIDE = 112  # pixels of a picture's side
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange")
SHAPES = ("circle", "square", "triangle", "star")
SIZES = ("small", "large")
BACKGROUNDS = ("plain", "striped", "dotted", "checked", "grainy")
UNSEEN_PAIRS = frozenset({("red", "star"), ("blue", "triangle"), ("yellow", "circle")})

_RADII = {"small": (10.0, 11.5), "large": (17.0, 19.0)}  # pixels, from the centre to the farthest
_GAP = 3.0  # pixels between the circles around two things
_COUNTS = (2, 3, 4, 5)  # equally often: half of the scenes have four or five


@dataclass(frozen=True, slots=True)
class Thing:
    """One coloured shape: what it is and where (pixels, x to the right, y downwards)."""

    colour: str
    shape: str
    size: str
    x: float
    y: float
    radius: float
    angle: float


@dataclass(frozen=True, slots=True)
class Scene:
    """Things on a ground; `seed` decides the grain of the ground."""

    things: tuple[Thing, ...]
    background: str
    seed: int

    @property
    def has_unseen_pair(self) -> bool:
        """Whether a thing has a pair of colour and shape that training never shows."""
        return any((one.colour, one.shape) in UNSEEN_PAIRS for one in self.things)


def sample_siblings(random: np.random.Generator, held_out: bool) -> list[Scene]:
    """Four scenes that differ from the first in one respect each.

    With `held_out` every scene has at least one unseen pair of colour and shape, else none has.

    Example:
        >>> scenes = sample_siblings(np.random.default_rng(0), held_out=False)
        >>> [scene.has_unseen_pair for scene in scenes]
        [False, False, False, False]
    """

    def allowed(things: Sequence[Thing]) -> bool:
        return _apart(things) and _has_unseen(things) == held_out

    count = _COUNTS[random.integers(len(_COUNTS))]  # before any is refused: crowds are refused more
    first = _until(lambda: _sample_things(count, random, held_out), allowed)
    changes = [_CHANGES[index] for index in random.choice(len(_CHANGES), 3, replace=False)]
    groups = [first]
    for change in changes:
        groups.append(_until(lambda change=change: change(first, random), allowed, first))
    grounds = random.choice(len(BACKGROUNDS), 4)
    return [
        Scene(tuple(things), BACKGROUNDS[ground], int(random.integers(2**31)))
        for things, ground in zip(groups, grounds, strict=True)
    ]


def _until(
    sample: Callable[[], list[Thing]],
    allowed: Callable[[Sequence[Thing]], bool],
    otherwise: list[Thing] | None = None,
    tries: int = 200,
) -> list[Thing]:
    """The first allowed sample; a change that cannot be had leaves things as they are."""
    while True:
        for _ in range(tries):
            things = sample()
            if allowed(things):
                return things
        if otherwise is not None:
            return list(otherwise)


def _has_unseen(things: Sequence[Thing]) -> bool:
    return any((one.colour, one.shape) in UNSEEN_PAIRS for one in things)


def _sample_things(count: int, random: np.random.Generator, held_out: bool) -> list[Thing]:
    looks = [_sample_look(random, held_out) for _ in range(count)]
    if random.random() < 0.6:  # a near duplicate
        source, copy = random.choice(count, 2, replace=False)
        looks[copy] = _vary(looks[source], random)
    if held_out and not any(look[:2] in UNSEEN_PAIRS for look in looks):
        pair = sorted(UNSEEN_PAIRS)[random.integers(len(UNSEEN_PAIRS))]
        looks[random.integers(count)] = (*pair, SIZES[random.integers(2)])
    return _place([_thing(look, random) for look in looks], random)


def _sample_look(random: np.random.Generator, held_out: bool) -> tuple[str, str, str]:
    while True:
        colour = COLOURS[random.integers(len(COLOURS))]
        shape = SHAPES[random.integers(len(SHAPES))]
        if held_out or (colour, shape) not in UNSEEN_PAIRS:
            return colour, shape, SIZES[random.integers(2)]


def _vary(look: tuple[str, str, str], random: np.random.Generator) -> tuple[str, str, str]:
    """The same look but for one attribute."""
    which = int(random.integers(3))
    values = (COLOURS, SHAPES, SIZES)[which]
    others = [value for value in values if value != look[which]]
    changed = list(look)
    changed[which] = others[random.integers(len(others))]
    return (changed[0], changed[1], changed[2])


def _thing(look: tuple[str, str, str], random: np.random.Generator) -> Thing:
    colour, shape, size = look
    radius = float(random.uniform(*_RADII[size]))
    angle = float(random.uniform(-20, 20))
    return Thing(colour, shape, size, 0.0, 0.0, radius, angle)


def _place(things: Sequence[Thing], random: np.random.Generator) -> list[Thing]:
    """Each thing at a place of its own; one that finds no room stays where it does not fit."""
    placed: list[Thing] = []
    for thing in things:
        for _ in range(30):
            x, y = random.uniform(thing.radius + 1, SIDE - thing.radius - 1, 2)
            moved = replace(thing, x=float(x), y=float(y))
            if all(_clear(moved, other) for other in placed):
                placed.append(moved)
                break
        else:
            return list(things)  # all at one spot: refused by `_apart`, and drawn again
    return placed


def _clear(one: Thing, other: Thing) -> bool:
    far = one.radius + other.radius + _GAP
    return (one.x - other.x) ** 2 + (one.y - other.y) ** 2 >= far**2


def _apart(things: Sequence[Thing]) -> bool:
    inside = all(
        one.radius <= place <= SIDE - one.radius for one in things for place in (one.x, one.y)
    )
    return inside and all(_clear(one, other) for one, other in combinations(things, 2))


def _move(things: Sequence[Thing], random: np.random.Generator) -> list[Thing]:
    return _place(things, random)


def _deal(attribute: str) -> Callable[[Sequence[Thing], np.random.Generator], list[Thing]]:
    """Deals the values of one attribute out anew among the things."""

    def change(things: Sequence[Thing], random: np.random.Generator) -> list[Thing]:
        order = random.permutation(len(things))
        values = [getattr(things[index], attribute) for index in order]
        dealt = [replace(t, **{attribute: v}) for t, v in zip(things, values, strict=True)]
        return _resize(dealt, random) if attribute == "size" else dealt

    return change


def _change_one(things: Sequence[Thing], random: np.random.Generator) -> list[Thing]:
    changed = list(things)
    index = int(random.integers(len(changed)))
    one = changed[index]
    colour, shape, size = _vary((one.colour, one.shape, one.size), random)
    changed[index] = replace(one, colour=colour, shape=shape, size=size)
    return _resize(changed, random)


def _add_one(things: Sequence[Thing], random: np.random.Generator) -> list[Thing]:
    if len(things) >= max(_COUNTS):
        return _take_one(things, random)
    look = _sample_look(random, held_out=_has_unseen(things))
    thing = _thing(look, random)
    x, y = random.uniform(thing.radius + 1, SIDE - thing.radius - 1, 2)
    return [*things, replace(thing, x=float(x), y=float(y))]


def _take_one(things: Sequence[Thing], random: np.random.Generator) -> list[Thing]:
    if len(things) <= min(_COUNTS):
        return _add_one(things, random)
    gone = int(random.integers(len(things)))
    return [thing for index, thing in enumerate(things) if index != gone]


def _resize(things: Sequence[Thing], random: np.random.Generator) -> list[Thing]:
    """Radii that fit the sizes again."""
    found = []
    for thing in things:
        low, high = _RADII[thing.size]
        fits = low <= thing.radius <= high
        radius = thing.radius if fits else float(random.uniform(low, high))
        found.append(replace(thing, radius=radius))
    return found


_CHANGES = (_move, _deal("colour"), _deal("shape"), _deal("size"), _change_one, _add_one, _take_one)
