"""Captions of scenes: five of each, as COCO has them, in the words that questions use too."""

from collections.abc import Sequence

import numpy as np

from clipmapper.scenes.world import Scene, Thing

__all__ = ["describe_scene", "phrase"]

_NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five"}


def phrase(thing: Thing) -> str:
    """A thing with all its attributes: "a small red star"."""
    return f"a {thing.size} {thing.colour} {thing.shape}"


def describe_scene(scene: Scene, random: np.random.Generator) -> list[str]:
    """Five captions: things from left to right, from top to bottom, with their number or ground.

    Example:
        >>> star = Thing("red", "star", "small", 30.0, 50.0, 10.0, 0.0)
        >>> circle = Thing("blue", "circle", "large", 80.0, 50.0, 18.0, 0.0)
        >>> scene = Scene((star, circle), "plain", 0)
        >>> describe_scene(scene, np.random.default_rng(0))[0]
        'a small red star and a large blue circle'
    """
    across = sorted(scene.things, key=lambda thing: thing.x)
    down = sorted(scene.things, key=lambda thing: thing.y)
    number = _NUMBERS[len(scene.things)]
    return [
        _enumerate(across),
        f"from top to bottom {_enumerate(down)}",
        f"{number} things: {_enumerate(across)}",
        f"{_relate(scene.things, random)} on a {scene.background} ground",
        _relate(scene.things, random),
    ]


def _enumerate(things: Sequence[Thing]) -> str:
    *most, last = [phrase(thing) for thing in things]
    return f"{', '.join(most)} and {last}" if most else last


def _relate(things: Sequence[Thing], random: np.random.Generator) -> str:
    first, second = random.choice(len(things), 2, replace=False)
    one, other = things[first], things[second]
    if abs(one.x - other.x) >= abs(one.y - other.y):
        relation = "left of" if one.x < other.x else "right of"
    else:
        relation = "above" if one.y < other.y else "below"
    return f"{phrase(one)} {relation} {phrase(other)}"
