"""METEOR: words matched by stem, synonym and paraphrase, with a penalty for disorder.

The program needs seconds to read its table of paraphrases, so it is started once and then kept:
asked again, it answers in milliseconds.
"""

import atexit
import os
import subprocess
import threading
from collections.abc import Sequence
from functools import lru_cache

import torch

from relmap.errors import InputError
from relmap.scoring import SCORES, Score, Words, check_captions, java

_JAR = "meteor/meteor-1.5.jar"
_ONE_AT_A_TIME = threading.Lock()


def _ready() -> None:
    java("METEOR", _JAR)


@SCORES.register(
    "meteor",
    reference="Denkowski and Lavie, Meteor Universal, WMT 2014 (version 1.5)",
    needs=("java",),
    ready=_ready,
)
def meteor(captions: Sequence[Words], references: Sequence[Sequence[Words]]) -> Score:
    """METEOR 1.5 for English, as COCO's evaluation runs it: the best of the references counts.

    METEOR = (1 - γ (chunks / matches)^β) P R / (α P + (1 - α) R), from weighted matches of words,
    stems, synonyms and paraphrases, with the parameters tuned for English. Overall is computed from
    the summed statistics of all captions, not from the mean.

    The program takes up to 2 GB of memory and stays until Python ends.

    Raises:
        InputError: If captions and references do not fit, or there is no Java, or it fails.
        MissingExtraError: If the extra `captions` is not installed.
    """
    check_captions(captions, references)
    _ready()
    with _ONE_AT_A_TIME:
        program = _start(os.getpid())
        try:
            return _ask_all(program, captions, references)
        except (OSError, ValueError) as error:
            _start.cache_clear()
            _stop(program)
            raise InputError(
                f"METEOR's Java program failed ({error}): it needs 2 GB of free memory"
            ) from error


def _ask_all(
    program: "subprocess.Popen[str]",
    captions: Sequence[Words],
    references: Sequence[Sequence[Words]],
) -> Score:
    statistics = []
    for words, texts in zip(captions, references, strict=True):
        parts = [" ".join(text).replace("|||", " ") for text in (*texts, words)]
        _tell(program, " ||| ".join(["SCORE", *parts]))
        statistics.append(_line(program))
    _tell(program, " ||| ".join(["EVAL", *statistics]))
    each = [float(_line(program)) for _ in captions]
    return Score(float(_line(program)), torch.tensor(each, dtype=torch.float64))


@lru_cache(maxsize=1)
def _start(process: int) -> "subprocess.Popen[str]":
    """The running program; a forked process starts its own."""
    java_program, jar = java("METEOR", _JAR)
    program = subprocess.Popen(
        [java_program, "-Xmx2G", "-jar", jar.name, "-", "-", "-stdio", "-l", "en", "-norm"],
        cwd=jar.parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        encoding="utf-8",
    )
    atexit.register(_stop, program)
    return program


def _stop(program: "subprocess.Popen[str]") -> None:
    program.kill()
    program.communicate()


def _tell(program: "subprocess.Popen[str]", text: str) -> None:
    assert program.stdin is not None
    program.stdin.write(text + "\n")
    program.stdin.flush()


def _line(program: "subprocess.Popen[str]") -> str:
    assert program.stdout is not None
    line = program.stdout.readline().strip()
    if not line:
        raise ValueError("it ended without an answer")
    return line
