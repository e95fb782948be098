"""easy-VQA as pictures with captions, which it does not have: they are read off its questions.

A picture shows one shape of one colour. What its questions and their answers say of it is put
together: "what is the blue shape? rectangle" makes "a blue rectangle"; where only one of the two
is said, the caption is "a blue shape" or "a rectangle".
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from relmap.data import DATA, CaptionedImage, Question, files_of, first_three
from relmap.errors import InputError

KINDS = ("color", "shape")


def _files(folder: Path, split: str) -> list[Path]:
    return files_of("easy-vqa", folder, split)


@DATA.register(
    "easy-vqa-captions",
    reference="Zhou, easy-VQA, 2019, github.com/vzhou842/easy-VQA",
    files=_files,
)
def easy_vqa_captions(path: str | Path, split: str = "train") -> list[CaptionedImage]:
    """Pictures of easy-VQA, each with the caption that its questions and answers amount to.

    A word is true of a picture if it is the answer, if an open question takes it for granted
    ("what color is the triangle?"), or if a yes-or-no question is affirmed with it or its negation
    denied ("is no red shape present? no"). Pictures come in the order of their first question;
    about one in a hundred is left out, since its questions say neither colour nor shape. The
    captions name nothing that the questions leave open: do not take them for descriptions of
    people.

    Raises:
        InputError: If the questions cannot be read, contradict each other, or say nothing of any
            picture; with the number of such pictures and the first three.

    Example:
        >>> easy_vqa_captions("no/such/folder")
        Traceback (most recent call last):
        relmap.errors.InputError: there is no folder no/such/folder/train
    """
    questions: list[Question] = DATA.get("easy-vqa").function(path, split=split)
    known = {kind: {_answer(one) for one in questions if one.kind == kind} for kind in KINDS}
    asked: dict[int | str, list[Question]] = {}
    for question in questions:
        asked.setdefault(question.image_id, []).append(question)
    said = {
        number: {kind: _said(about, words) for kind, words in known.items()}
        for number, about in asked.items()
    }
    file = Path(path) / split / "questions.json"
    torn = [number for number, words in said.items() if max(map(len, words.values())) > 1]
    if torn:
        raise InputError(
            f"the questions of {len(torn)} of {len(said)} pictures of {file} contradict each "
            f"other: {first_three(torn)}"
        )
    told = [number for number, words in said.items() if any(words.values())]
    if not told:
        raise InputError(f"the questions of {file} tell no colour or shape of any picture")
    return [
        CaptionedImage(
            name=str(number),
            image=asked[number][0].image,
            captions=(_caption(said[number]["color"], said[number]["shape"]),),
            image_id=number,
        )
        for number in told
    ]


def _said(questions: Sequence[Question], words: set[str]) -> set[str]:
    """Those of the words that the questions about one picture say of it."""
    found: set[str] = set()
    for question in questions:
        named = set(re.findall(r"\w+", question.text.lower()))
        answer = _answer(question)
        negated = not named.isdisjoint({"no", "not"})
        if question.kind != "yes/no":
            found |= words & (named | {answer})
        elif (answer == "yes") is not negated:
            found |= words & named
    return found


def _answer(question: Question) -> str:
    return next(iter(question.answers))


def _caption(colours: Iterable[str], shapes: Iterable[str]) -> str:
    return " ".join(["a", *colours, *(shapes or ["shape"])])
