"""VQA accuracy: an answer is right to the degree that people gave it.

An answer that three of ten people gave is as right as can be. To be comparable with a person, who
is judged by the nine others, it is averaged over the ten ways of leaving one person out.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from clipmapper.answers import normalise_answer, strip_punctuation
from relmap.errors import InputError
from relmap.files import write_whole

__all__ = ["PUBLISHED_RULE", "Accuracy", "summarise", "vqa_accuracy", "write_submission"]

PUBLISHED_RULE = (
    "VQA accuracy as visualqa.org/evaluation defines it, the model's and people's answers "
    "normalised alike; the official script (as_script=True) normalises people's answers less"
)
"""What `vqa_accuracy` measures by default, in words for a model card."""

FEWEST = 4  # people needed for an answer that all gave to be fully right with one left out


@dataclass(frozen=True)
class Accuracy:
    """Mean accuracy over all questions, by type of answer and by kind of question, from 0 to 1."""

    overall: float
    by_answer_type: Mapping[str, float]
    by_kind: Mapping[str, float]
    questions: int


def vqa_accuracy(
    answers: Sequence[str], humans: Sequence[Sequence[str]], *, as_script: bool = False
) -> Float[Tensor, " questions"]:
    """Accuracy of each answer under ten people's answers, as the VQA challenge defines it.

    accuracy(a) = mean over people j of min(n_j(a) / 3, 1), where n_j(a) counts the people other
    than j who gave the answer a, both sides normalised. (Antol et al., VQA, ICCV 2015, section 3.)

    Args:
        answers: What the model says to each question.
        humans: What people said to each, as they said it.
        as_script: Follow the official script where it parts from the published rule
            (visualqa.org/evaluation), which normalises both sides: in the script people's answers
            lose their punctuation only, and not even that where all people agree. On VQA v2 it
            makes an answer such as "t-shirt", if unanimous, impossible to give.

    Raises:
        InputError: If there is not one list of at least four human answers per answer.

    Example:
        >>> people = ["red"] * 2 + ["dark red"] * 8
        >>> vqa_accuracy(["Red.", "dark red", "blue"], [people] * 3)
        tensor([0.6000, 1.0000, 0.0000], dtype=torch.float64)
    """
    if len(answers) != len(humans):
        raise InputError(f"{len(answers)} answers to {len(humans)} questions")
    few = [str(at) for at, said in enumerate(humans) if len(said) < FEWEST]
    if few:
        raise InputError(
            f"{len(few)} of {len(humans)} questions have fewer than {FEWEST} human answers: "
            f"question {', '.join(few[:3])}{', ...' if len(few) > 3 else ''}"
        )
    found = []
    for answer, said in zip(answers, humans, strict=True):
        if not as_script:
            said = map(normalise_answer, said)
        elif len(set(said)) > 1:
            said = map(strip_punctuation, said)
        said = list(said)
        same = said.count(normalise_answer(answer))
        # leaving out one of the others keeps all that gave it, leaving out one of those loses one
        total = (len(said) - same) * min(same / 3, 1) + same * min((same - 1) / 3, 1)
        found.append(total / len(said))
    return torch.tensor(found, dtype=torch.float64)


def summarise(
    accuracy: Float[Tensor, " questions"], answer_types: Sequence[str], kinds: Sequence[str]
) -> Accuracy:
    """Means of the accuracy of single questions: overall, by type of answer, by kind of question.

    Raises:
        InputError: If there are no questions, or not a type and a kind for each.

    Example:
        >>> summarise(torch.tensor([1.0, 0.5]), ["yes/no", "other"], ["is", "what"]).by_kind
        {'is': 1.0, 'what': 0.5}
    """
    if not len(accuracy) == len(answer_types) == len(kinds) > 0:
        raise InputError(
            f"accuracies, answer types and kinds of the same questions: got {len(accuracy)}, "
            f"{len(answer_types)} and {len(kinds)}"
        )
    return Accuracy(
        overall=accuracy.double().mean().item(),
        by_answer_type=_means(accuracy, answer_types),
        by_kind=_means(accuracy, kinds),
        questions=len(accuracy),
    )


def _means(accuracy: Float[Tensor, " questions"], groups: Sequence[str]) -> dict[str, float]:
    members: dict[str, list[float]] = defaultdict(list)
    for value, group in zip(accuracy.tolist(), groups, strict=True):
        members[group].append(value)
    return {group: sum(values) / len(values) for group, values in sorted(members.items())}


def write_submission(
    path: str | Path, question_ids: Sequence[int | str], answers: Sequence[str]
) -> None:
    """Writes answers as the VQA evaluation server takes them: [{"question_id": 1, "answer": ...}].

    Raises:
        InputError: If there is not one answer per question, an id is no number or occurs twice, or
            the file cannot be written.
    """
    if len(question_ids) != len(answers):
        raise InputError(f"{len(answers)} answers to {len(question_ids)} questions")
    try:
        numbers = [int(number) for number in question_ids]
    except ValueError as error:
        raise InputError(f"the server knows questions by number: {error}") from error
    twice = [str(number) for number, count in Counter(numbers).items() if count > 1]
    if twice:
        raise InputError(
            f"{len(twice)} questions are answered more than once: {', '.join(twice[:3])}"
            f"{', ...' if len(twice) > 3 else ''}"
        )
    rows = [
        {"question_id": number, "answer": answer}
        for number, answer in zip(numbers, answers, strict=True)
    ]
    write_whole(Path(path), json.dumps(rows, ensure_ascii=False).encode())
