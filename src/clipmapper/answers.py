"""Answers: when two answers to a visual question are the same.

Ten people answered each question of VQA in their own words. Before answers are compared, the
official evaluation rewrites them: punctuation, articles, number words and contractions. The
targets of training and the accuracy of testing share this rewriting, and with it the vocabulary.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from relmap.errors import InputError

__all__ = [
    "choose_vocabulary",
    "main_answer",
    "normalise_answer",
    "read_vocabulary",
    "soft_targets",
    "strip_punctuation",
]

ARTICLES = frozenset({"a", "an", "the"})
DIGITS = "zero one two three four five six seven eight nine ten"
NUMBERS = {word: str(number) for number, word in enumerate(DIGITS.split())} | {"none": "0"}
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'

# Written as they should be; people leave one apostrophe out. Words on I are not restored: the
# official table writes them with a capital, which no lower-cased answer ever matches.
CONTRACTIONS = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't
    haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't
    mightn't've might've mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've
    should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've
    someone'll someone's something'd something'd've something'll that's there'd there'd've
    there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't
    what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's
    who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd
    you'd've you'll you're you've
"""
RESTORED = {
    word[:at] + word[at + 1 :]: word
    for word in CONTRACTIONS.split()
    for at, letter in enumerate(word)
    if letter == "'"
} | {"somebody'd": "somebodyd"}  # the one entry of the official table that goes the other way

_DIGITS_AROUND_COMMA = re.compile(r"\d,\d")
_FULL_STOP = re.compile(r"\.(?!\d)")


@lru_cache(maxsize=1 << 20)  # few answers are given to many questions: seconds of 440,000
def normalise_answer(answer: str) -> str:
    """An answer as the official VQA evaluation compares it.

    Punctuation goes (`strip_punctuation`); then, word by word in lower case, number words up to ten
    become digits, articles go, and a forgotten apostrophe comes back.

    Do not use it on captions: it removes their articles.

    Example:
        >>> normalise_answer("The two dogs, isnt it?")
        "2 dogs isn't it"
    """
    plain = strip_punctuation(answer.replace("\n", " ").replace("\t", " ").strip())
    words = [NUMBERS.get(word, word) for word in plain.lower().split()]
    return " ".join(RESTORED.get(word, word) for word in words if word not in ARTICLES)


def strip_punctuation(answer: str) -> str:
    """An answer without punctuation, by the official rule; apostrophes and colons stay.

    A mark beside a space disappears, as all do in an answer with a comma between digits; any other
    mark becomes a space. A full stop goes unless a digit follows.

    Example:
        >>> strip_punctuation("t-shirt, 1,000 at 2:50"), strip_punctuation("red/blue, no.")
        ('tshirt 1000 at 2:50', 'red blue no')
    """
    plain, has_number = answer, _DIGITS_AROUND_COMMA.search(answer) is not None
    for mark in PUNCTUATION:
        if mark in answer:
            beside_space = f"{mark} " in answer or f" {mark}" in answer
            plain = plain.replace(mark, "" if beside_space or has_number else " ")
    return _FULL_STOP.sub("", plain)


def soft_targets(humans: Sequence[str]) -> dict[str, float]:
    """Training targets of a question: how far each answer that people gave counts as right.

    y(a) = min(n(a) / 3, 1), where n(a) people gave the answer a after normalisation.
    (Teney et al., Tips and Tricks for Visual Question Answering, CVPR 2018, section 3.)

    Example:
        >>> soft_targets(["red", "Red", "red.", "dark red"])
        {'red': 1.0, 'dark red': 0.3333333333333333}
    """
    counts = Counter(map(normalise_answer, humans))
    return {answer: count / 3 if count < 3 else 1.0 for answer, count in counts.items()}


def main_answer(humans: Sequence[str]) -> str | None:
    """What most people said, normalised; of several answers the first, None if nobody answered.

    The soft targets cannot tell: from three people on, each answer counts fully.

    Example:
        >>> main_answer(["purple"] * 3 + ["Violet"] * 7)
        'violet'
    """
    counts = Counter(map(normalise_answer, humans))
    return max(counts, key=counts.__getitem__, default=None)


def choose_vocabulary(
    answers: Sequence[Mapping[str, float] | str], *, at_least: int = 9
) -> list[str]:
    """The classes of a VQA model: answers that are the main one of enough training questions.

    Nine questions, as the field has it, leave 3,129 answers of VQA v2's train and val together.
    The most frequent answer comes first; among equally frequent ones the alphabet decides.

    Args:
        answers: Per question its main answer as text, or its soft targets, of which the highest
            (the first of several) is the main one.
        at_least: Questions that an answer must be the main one of.

    Raises:
        InputError: If no answer is frequent enough.

    Example:
        >>> choose_vocabulary(["red", "Two", "two", {"2": 1.0, "3": 0.3}], at_least=2)
        ['2']
    """
    counts: Counter[str] = Counter()
    for given in answers:
        if isinstance(given, str):
            counts[normalise_answer(given)] += 1
        elif given:
            counts[max(given, key=given.__getitem__)] += 1
    chosen = [answer for answer, count in counts.items() if count >= at_least]
    if not chosen:
        raise InputError(
            f"no answer is the main one of at least {at_least} of {len(answers)} questions"
        )
    return sorted(chosen, key=lambda answer: (-counts[answer], answer))


def read_vocabulary(path: str | Path) -> list[str]:
    """The classes of a VQA model from a json file, in their order.

    The file is a list of answers (`trainval_label2ans.json`) or an object from answer to class
    number (`trainval_ans2label.json`), as the 3,129 answers of VQA v2 are handed around.

    Raises:
        InputError: If the file is missing, is not JSON, or is neither of the two.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"there is no vocabulary {path}") from error
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}") from error
    if isinstance(content, dict) and sorted(map(str, content.values())) == sorted(
        map(str, range(len(content)))
    ):
        content = sorted(content, key=lambda answer: int(content[answer]))
    if not (isinstance(content, list) and content and all(isinstance(a, str) for a in content)):
        raise InputError(
            f"{path} is no vocabulary: neither a list of answers nor an object that numbers them "
            "from 0 without gaps"
        )
    if len(set(content)) < len(content):
        twice = [answer for answer, count in Counter(content).items() if count > 1]
        raise InputError(f"{len(twice)} answers of {path} occur twice: {', '.join(twice[:3])}")
    return content
