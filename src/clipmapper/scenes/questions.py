"""Questions about scenes, each a small program that can be run on any set of things.

Because a question can be run, its evidence can be tested: take the things away that the answer is
said to depend on, run it again, and a question that still gives its old answer is rejected. Only
`count` and `exists` are exempt, as a zero or a "no" rests on nothing one could take away; their
label says so. Answers are kept balanced per kind and form of question: of the questions that a
scene allows, the one with the rarest answer so far is asked.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from clipmapper.scenes.kinds import KINDS, ZERO_PRONE, Found, Query
from clipmapper.scenes.world import Scene, Thing

__all__ = ["SceneQuestion", "ask", "survives"]


@dataclass(frozen=True, slots=True)
class SceneQuestion:
    """A question with its answer and the ground truth of an explanation.

    Attributes:
        kind: One of `KINDS`.
        text: The question.
        answer: Its answer, in words as the data set has them.
        evidence: Numbers of the things that the answer depends on.
        words: Character spans of the words that carry the question.
        label: "objects", or for zero-prone kinds "count" and "exists".
    """

    kind: str
    text: str
    answer: str
    evidence: tuple[int, ...]
    words: tuple[tuple[int, int], ...]
    label: str


def ask(
    scene: Scene, kind: str, random: np.random.Generator, asked: Counter[tuple[str, str, str]]
) -> SceneQuestion | None:
    """One question of a kind about a scene, its answer the rarest so far; None if there is none.

    `asked` counts (kind, form, answer) and is updated.

    Raises:
        KeyError: If there is no such kind.

    Example:
        >>> from clipmapper.scenes.world import sample_siblings
        >>> random = np.random.default_rng(1)
        >>> question = ask(sample_siblings(random, held_out=False)[0], "exists", random, Counter())
        >>> question.text, question.answer
        ('is there an orange circle?', 'yes')
    """
    best: tuple[float, Query, Found] | None = None
    for query in KINDS[kind](scene, random):
        found = query.solve(scene.things)
        if found is None or (kind not in ZERO_PRONE and survives(query.solve, scene, found)):
            continue
        frequency = asked[kind, query.form, found[0]] + random.random()
        if best is None or frequency < best[0]:
            best = frequency, query, found
    if best is None:
        return None
    _, query, (answer, evidence) = best
    asked[kind, query.form, answer] += 1
    text, words = _strip(query.text)
    label = kind if kind in ZERO_PRONE else "objects"
    return SceneQuestion(kind, text, answer, evidence, words, label)


def survives(solve: Callable[[Sequence[Thing]], Found | None], scene: Scene, found: Found) -> bool:
    """Whether the answer is the same once the evidence has been taken away."""
    answer, evidence = found
    rest = [thing for index, thing in enumerate(scene.things) if index not in evidence]
    without = solve(rest)
    return without is not None and without[0] == answer


def _strip(marked: str) -> tuple[str, tuple[tuple[int, int], ...]]:
    """The text without its brackets, and where the bracketed words are."""
    words, shift = [], 0
    for match in re.finditer(r"\[([^\]]*)\]", marked):
        start = match.start() - shift
        words.append((start, start + len(match.group(1))))
        shift += 2
    return marked.replace("[", "").replace("]", ""), tuple(words)
