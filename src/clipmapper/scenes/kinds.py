"""The kinds of question, each a rule that makes questions about a scene.

A rule yields queries: a text whose telling words stand in brackets, and a small program that
answers it on any set of things, or says that it cannot be asked of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from clipmapper.scenes.descriptions import (
    Description,
    describe,
    is_speakable,
    only,
    pairs,
    random_description,
)
from clipmapper.scenes.world import COLOURS, SHAPES, SIDE, SIZES, Scene, Thing

__all__ = ["KINDS", "ZERO_PRONE", "Found", "Query"]

Found = tuple[str, tuple[int, ...]]  # the answer, and the things that it depends on
_MARGIN = 8.0  # pixels: closer calls than this are not asked
_CHOICES = {
    "left": lambda one, other: one.x <= other.x - _MARGIN,
    "right": lambda one, other: one.x >= other.x + _MARGIN,
    "above": lambda one, other: one.y <= other.y - _MARGIN,
    "below": lambda one, other: one.y >= other.y + _MARGIN,
}
_PHRASES = {"left": "left of", "right": "right of", "above": "above", "below": "below"}
_OPPOSITES = {"left": "right", "right": "left", "above": "below", "below": "above"}


@dataclass(frozen=True, slots=True)
class Query:
    """A question before it is asked: `[...]` marks the telling words of its text."""

    text: str
    form: str
    solve: Callable[[Sequence[Thing]], Found | None]


def _attribute(name: str) -> Callable[[Scene, np.random.Generator], Iterator[Query]]:
    """What colour, shape or size is the thing so described?"""

    def queries(scene: Scene, random: np.random.Generator) -> Iterator[Query]:
        for index in range(len(scene.things)):
            description = describe(scene, index, random, hide=(name,))
            if description is None:
                continue

            def solve(things: Sequence[Thing], said: Description = description) -> Found | None:
                which = only(things, said)
                return None if which is None else (getattr(things[which], name), (which,))

            text = f"what [{name}] is the {description.phrase()}?"
            yield Query(text, description.form, solve)

    return queries


def _where(scene: Scene, random: np.random.Generator) -> Iterator[Query]:
    middle = SIDE / 2
    for index in range(len(scene.things)):
        description = describe(scene, index, random)
        if description is None:
            continue

        def solve(things: Sequence[Thing], said: Description = description) -> Found | None:
            which = only(things, said)
            if which is None:
                return None
            x, y = things[which].x - middle, things[which].y - middle
            if min(abs(x), abs(y)) < _MARGIN / 2:
                return None
            return f"{'top' if y < 0 else 'bottom'} {'left' if x < 0 else 'right'}", (which,)

        yield Query(f"[where] is the {description.phrase()}?", description.form, solve)


def _count(scene: Scene, random: np.random.Generator) -> Iterator[Query]:
    forms = [("colour",), ("shape",), ("size",), ("colour", "shape"), ("size", "shape")]
    for _ in range(10):
        description = random_description(scene, random, forms)
        if not is_speakable(description, scene):
            continue

        def solve(things: Sequence[Thing], said: Description = description) -> Found:
            which = tuple(i for i, thing in enumerate(things) if said.fits(thing))
            return str(len(which)), which

        text = f"[how] [many] {description.phrase(plural=True)} are there?"
        yield Query(text, description.form, solve)


def _exists(scene: Scene, random: np.random.Generator) -> Iterator[Query]:
    forms = [
        ("colour", "shape"),
        ("size", "colour"),
        ("size", "shape"),
        ("size", "colour", "shape"),
    ]
    for _ in range(8):
        description = random_description(scene, random, forms)
        if not is_speakable(description, scene):
            continue

        def solve(things: Sequence[Thing], said: Description = description) -> Found:
            which = tuple(i for i, thing in enumerate(things) if said.fits(thing))
            return ("yes" if which else "no"), which

        article = "an" if description.size is None and description.colour == "orange" else "a"
        text = f"[is] [there] {article} {description.phrase()}?"
        yield Query(text, description.form, solve)


def _both(things: Sequence[Thing], one: Description, other: Description) -> tuple[int, int] | None:
    first, second = only(things, one), only(things, other)
    return None if first is None or second is None or first == second else (first, second)


def _side_choice(words: tuple[str, str]) -> Callable[..., Iterator[Query]]:
    """Is one thing left or right of (above or below) another?"""

    def queries(scene: Scene, random: np.random.Generator) -> Iterator[Query]:
        for one, other in pairs(scene, random):

            def solve(
                things: Sequence[Thing], one: Description = one, other: Description = other
            ) -> Found | None:
                both = _both(things, one, other)
                if both is None:
                    return None
                for word in words:
                    if _CHOICES[word](things[both[0]], things[both[1]]):
                        return word, both
                return None

            said = f"[{words[0]}] or [{words[1]}]{' of' if words[0] == 'left' else ''}"
            text = f"is the {one.phrase()} {said} the {other.phrase()}?"
            yield Query(text, "", solve)

    return queries


def _side_yes_no(scene: Scene, random: np.random.Generator) -> Iterator[Query]:
    for one, other in pairs(scene, random):
        word = _pick(tuple(_PHRASES), random)

        def solve(
            things: Sequence[Thing],
            one: Description = one,
            other: Description = other,
            word: str = word,
        ) -> Found | None:
            both = _both(things, one, other)
            if both is None:
                return None
            if _CHOICES[word](things[both[0]], things[both[1]]):
                return "yes", both
            opposite = _CHOICES[_OPPOSITES[word]](things[both[0]], things[both[1]])
            return ("no", both) if opposite else None

        text = f"is the {one.phrase()} {_mark(_PHRASES[word])} the {other.phrase()}?"
        yield Query(text, word, solve)


def _larger(things: Sequence[Thing], both: tuple[int, int]) -> bool | None:
    sizes = things[both[0]].size, things[both[1]].size
    return None if sizes[0] == sizes[1] else sizes[0] == "large"


def _size_choice(scene: Scene, random: np.random.Generator) -> Iterator[Query]:
    for one, other in pairs(scene, random, hide=("size",)):

        def solve(
            things: Sequence[Thing], one: Description = one, other: Description = other
        ) -> Found | None:
            both = _both(things, one, other)
            larger = None if both is None else _larger(things, both)
            return None if both is None or larger is None else (_compared(larger), both)

        text = f"is the {one.phrase()} [larger] or [smaller] than the {other.phrase()}?"
        yield Query(text, "", solve)


def _size_yes_no(scene: Scene, random: np.random.Generator) -> Iterator[Query]:
    for one, other in pairs(scene, random, hide=("size",)):
        word = _pick(("larger", "smaller"), random)

        def solve(
            things: Sequence[Thing],
            one: Description = one,
            other: Description = other,
            word: str = word,
        ) -> Found | None:
            both = _both(things, one, other)
            larger = None if both is None else _larger(things, both)
            if both is None or larger is None:
                return None
            return ("yes" if _compared(larger) == word else "no"), both

        text = f"is the {one.phrase()} [{word}] than the {other.phrase()}?"
        yield Query(text, word, solve)


def _compared(larger: bool) -> str:
    return "larger" if larger else "smaller"


def _relation_open(scene: Scene, random: np.random.Generator) -> Iterator[Query]:
    """What colour or shape is the only thing on one side of another; four things or more."""
    if len(scene.things) < 4:
        return
    for _ in range(8):
        reference = describe(scene, int(random.integers(len(scene.things))), random)
        if reference is None:
            continue
        word = _pick(tuple(_PHRASES), random)
        name = _pick(("colour", "shape"), random)

        def solve(
            things: Sequence[Thing],
            said: Description = reference,
            word: str = word,
            name: str = name,
        ) -> Found | None:
            origin = only(things, said)
            if origin is None:
                return None
            others = [index for index in range(len(things)) if index != origin]
            there = [i for i in others if _CHOICES[word](things[i], things[origin])]
            away = [i for i in others if _CHOICES[_OPPOSITES[word]](things[i], things[origin])]
            if len(there) != 1 or len(there) + len(away) != len(others):
                return None
            return getattr(things[there[0]], name), (there[0], origin)

        text = f"what [{name}] is the thing {_mark(_PHRASES[word])} the {reference.phrase()}?"
        yield Query(text, name, solve)


def _compare_counts(scene: Scene, random: np.random.Generator) -> Iterator[Query]:
    """Are there more or fewer of these than of those? Ties are not asked."""
    for _ in range(8):
        name = _pick(("colour", "shape", "size"), random)
        values = {"size": SIZES, "colour": COLOURS, "shape": SHAPES}[name]
        first, second = random.choice(len(values), 2, replace=False)
        one, other = (Description(**{name: values[index]}) for index in (first, second))
        if not any(said.fits(thing) for said in (one, other) for thing in scene.things):
            continue

        def solve(
            things: Sequence[Thing], one: Description = one, other: Description = other
        ) -> Found | None:
            ones = [index for index, thing in enumerate(things) if one.fits(thing)]
            others = [index for index, thing in enumerate(things) if other.fits(thing)]
            if len(ones) == len(others):
                return None
            return ("more" if len(ones) > len(others) else "fewer"), (*ones, *others)

        phrases = one.phrase(plural=True), other.phrase(plural=True)
        text = f"are there [more] or [fewer] {phrases[0]} than {phrases[1]}?"
        yield Query(text, name, solve)


def _pick(words: Sequence[str], random: np.random.Generator) -> str:
    return words[int(random.integers(len(words)))]


def _mark(phrase: str) -> str:
    word, _, rest = phrase.partition(" ")
    return f"[{word}] {rest}".rstrip()


ZERO_PRONE = frozenset({"count", "exists"})
"""Kinds whose answer may rest on nothing that is there."""

# What is asked, simple kinds first.
KINDS: dict[str, Callable[[Scene, np.random.Generator], Iterator[Query]]] = {
    "colour": _attribute("colour"),
    "shape": _attribute("shape"),
    "size": _attribute("size"),
    "where": _where,
    "count": _count,
    "exists": _exists,
    "left-or-right": _side_choice(("left", "right")),
    "above-or-below": _side_choice(("above", "below")),
    "larger-or-smaller": _size_choice,
    "relation-open": _relation_open,
    "compare-counts": _compare_counts,
    "relation-yes-no": _side_yes_no,
    "size-yes-no": _size_yes_no,
}
