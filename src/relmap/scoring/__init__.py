"""Scores: how well a model answers questions and captions pictures.

The metrics judge an explanation; the scores judge the model that is explained, and a caption's
weight in its own explanation is how far its score falls without it. Each caption score is a file
here that registers one function of tokenised captions. BLEU, ROUGE, METEOR and SPICE are those of
COCO's published evaluation (pycocoevalcap, the extra `captions`), the last two as Java programs.
CIDEr needs nothing: COCO's cannot be given the document frequencies of another corpus.
"""

import importlib
import importlib.util
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

from jaxtyping import Float
from torch import Tensor

from relmap.errors import InputError, MissingExtraError
from relmap.registry import Entry, Registry

__all__ = [
    "SCORES",
    "Score",
    "ScoreEntry",
    "Words",
    "check_captions",
    "find_score",
    "java",
    "n_grams",
    "published",
    "scores_here",
]

Words: TypeAlias = tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Score:
    """A score of a set of captions, and that of each caption alone.

    `overall` is what papers report; for BLEU it is not the mean of `each`.
    """

    overall: float
    each: Float[Tensor, " captions"]


@dataclass(frozen=True, kw_only=True)
class ScoreEntry(Entry[Callable[..., Score]]):
    """A caption score and what it declares.

    Attributes:
        needs: Programs that it runs, in words.
        ready: A function that raises where this machine cannot compute it.
    """

    operands = ("captions", "references")

    needs: tuple[str, ...] = ()
    ready: Callable[[], Any] | None = None

    def notes(self) -> str:
        """What it runs."""
        return f" Needs {', '.join(self.needs)}." if self.needs else ""


SCORES = Registry("caption score", "relmap.scoring", ScoreEntry)


def scores_here() -> list[str]:
    """The caption scores that can be computed on this machine, as it is installed now.

    Example:
        >>> {"bleu-4", "cider", "rouge-l"} <= set(scores_here())
        True
    """

    def runs(name: str) -> bool:
        try:
            find_score(name)
        except (InputError, MissingExtraError):
            return False
        return True

    return [name for name in SCORES.names() if runs(name)]


def find_score(name: str) -> ScoreEntry:
    """A caption score, once it is sure that this machine can compute it.

    Raises:
        InputError: If there is no such score, or it needs a program that is not here.
        MissingExtraError: If it needs the extra `captions`.
    """
    entry = SCORES.get(name)
    if entry.ready is not None:
        entry.ready()
    return entry


def check_captions(captions: Sequence[Words], references: Sequence[Sequence[Words]]) -> None:
    """Refuses captions that no score can judge.

    Raises:
        InputError: If there are none, not one list of references each, or an empty list among them.
    """
    if not captions or len(captions) != len(references):
        raise InputError(
            f"a score takes captions and one list of references for each; got {len(captions)} "
            f"captions and {len(references)} lists"
        )
    alone = [str(at) for at, texts in enumerate(references) if not any(texts)]
    if alone:
        raise InputError(
            f"{len(alone)} of {len(captions)} captions have no reference with a word in it: "
            f"caption {', '.join(alone[:3])}{', ...' if len(alone) > 3 else ''}"
        )


def n_grams(words: Words, longest: int = 4) -> Counter[Words]:
    """How often every sequence of 1 to 4 words occurs in a sentence.

    Example:
        >>> n_grams(("a", "a", "b"), 2)
        Counter({('a',): 2, ('b',): 1, ('a', 'a'): 1, ('a', 'b'): 1})
    """
    return Counter(
        words[start : start + length]
        for length in range(1, longest + 1)
        for start in range(len(words) - length + 1)
    )


def published(module: str = "bleu.bleu_scorer") -> ModuleType:
    """A module of COCO's published evaluation of captions.

    Raises:
        MissingExtraError: If the extra `captions` is not installed.
    """
    try:
        return importlib.import_module(f"pycocoevalcap.{module}")
    except ImportError as error:
        raise MissingExtraError("captions") from error


def java(what: str, jar: str) -> tuple[str, Path]:
    """The Java program and one of the jar files that the extra `captions` brings along.

    Raises:
        InputError: If there is no Java, or no such jar.
        MissingExtraError: If the extra is not installed.
    """
    found = importlib.util.find_spec("pycocoevalcap")
    if found is None or not found.submodule_search_locations:
        raise MissingExtraError("captions")
    program = shutil.which("java")
    if program is None:
        raise InputError(
            f"{what} is a Java program and no `java` is on the PATH: install a Java runtime (such "
            "as Debian's default-jre-headless), or ask for other scores"
        )
    path = Path(next(iter(found.submodule_search_locations)), jar)
    if not path.is_file():
        raise InputError(f"{what} needs {path}, which is not there: reinstall pycocoevalcap")
    return program, path
