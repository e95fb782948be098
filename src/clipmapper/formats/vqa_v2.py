"""VQA v2, as its authors publish it: questions, ten answers to each, and COCO's pictures.

    folder/v2_OpenEnded_mscoco_train2014_questions.json
    folder/v2_mscoco_train2014_annotations.json
    folder/train2014/COCO_train2014_000000000009.jpg

The json files may also lie in `annotations/` and the picture folders in `images/`; other sets in
this format, with their own names and .png files, are read in the same way.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clipmapper.answers import soft_targets
from relmap.data import (
    DATA,
    Question,
    file_of_split,
    first_three,
    images_of_split,
    read_json,
    require_file_of_split,
)
from relmap.errors import InputError

KNOWN = frozenset(
    {"question_id", "image_id", "question", "question_type", "answer_type", "answers"}
)


def _files(folder: Path, split: str) -> list[Path]:
    found = (file_of_split(folder, split, f"{what}.json") for what in ("questions", "annotations"))
    return [file for file in found if file is not None]


@DATA.register(
    "vqa-v2", reference="Goyal et al., Making the V in VQA Matter, CVPR 2017", files=_files
)
def vqa_v2(path: str | Path, split: str = "train") -> list[Question]:
    """Questions of a split of VQA v2, in the order of its questions file.

    Where a split's annotations are not public (test, test-dev), `answers` and `humans` are empty.
    Keys of an annotation that have no field of their own are kept in `about`.

    Raises:
        InputError: If a file is missing, broken or ambiguous, the ids of questions and annotations
            differ, or pictures are missing or there twice; with their number and the first three.

    Example:
        >>> vqa_v2("no/such/folder")
        Traceback (most recent call last):
        relmap.errors.InputError: there is no folder no/such/folder
    """
    folder = Path(path)
    asked = require_file_of_split(folder, split, "questions.json")
    find = file_of_split if split.startswith("test") else require_file_of_split
    answered = find(folder, split, "annotations.json")
    questions = _read(asked, "questions", {"question_id": int, "image_id": int, "question": str})
    annotations: dict[int, dict[str, Any]] = {}
    if answered is not None:
        known = {"question_id": int, "image_id": int, "answers": list}
        entries = _read(answered, "annotations", known)
        annotations = {entry["question_id"]: entry for entry in entries}
        _check_pairs(questions, annotations, asked, answered)
    needed = dict.fromkeys(entry["image_id"] for entry in questions)
    images = images_of_split(folder, split, needed, asked.name)
    return [
        _question(entry, annotations.get(entry["question_id"], {}), images) for entry in questions
    ]


def _question(
    entry: Mapping[str, Any], annotation: Mapping[str, Any], images: Mapping[int, Path]
) -> Question:
    humans = tuple(annotation.get("answers", ()))
    return Question(
        name=str(entry["question_id"]),
        image=images[entry["image_id"]],
        text=entry["question"],
        answers=soft_targets(humans),
        humans=humans,
        kind=annotation.get("question_type", ""),
        answer_type=annotation.get("answer_type", ""),
        image_id=entry["image_id"],
        about={key: value for key, value in annotation.items() if key not in KNOWN},
    )


def _read(path: Path, name: str, types: Mapping[str, type]) -> list[dict[str, Any]]:
    """The entries of a file, each checked to have the keys that are needed and its own id."""
    entries = read_json(path, [name], object_hook=_answer_alone)[name]
    for key, kind in types.items():
        wrong = [at for at, entry in enumerate(entries) if not isinstance(entry.get(key), kind)]
        if wrong:
            raise InputError(
                f'{len(wrong)} of {len(entries)} {name} of {path} have no "{key}" of type '
                f"{kind.__name__}: entry {first_three(wrong)}"
            )
    seen: set[int] = set()
    twice = [i for entry in entries if (i := entry["question_id"]) in seen or seen.add(i)]
    if twice:
        raise InputError(
            f"{len(twice)} {name} of {path} repeat a question_id: {first_three(twice)}"
        )
    return entries


def _answer_alone(entry: dict[str, Any]) -> Any:
    """One person's answer as plain text, while the file is parsed: it saves a gigabyte."""
    return entry["answer"] if "answer_id" in entry and "answer" in entry else entry


def _check_pairs(
    questions: Sequence[Mapping[str, Any]],
    annotations: Mapping[int, Mapping[str, Any]],
    asked: Path,
    answered: Path,
) -> None:
    """Checks that every question has its annotation, about the same picture, and the reverse."""
    pictures = {entry["question_id"]: entry["image_id"] for entry in questions}
    alone = [number for number in pictures if number not in annotations]
    if alone:
        raise InputError(
            f"{len(alone)} of {len(pictures)} questions of {asked} have no annotation in "
            f"{answered}: {first_three(alone)}"
        )
    alone = [number for number in annotations if number not in pictures]
    if alone:
        raise InputError(
            f"{len(alone)} of {len(annotations)} annotations of {answered} have no question in "
            f"{asked}: {first_three(alone)}"
        )
    other = [n for n, image in pictures.items() if annotations[n]["image_id"] != image]
    if other:
        raise InputError(
            f"{len(other)} of {len(pictures)} questions of {asked} are about another picture than "
            f"their annotation in {answered}: {first_three(other)}"
        )
    wrong = [
        number
        for number, entry in annotations.items()
        if not all(type(answer) is str for answer in entry["answers"])
    ]
    if wrong:
        raise InputError(
            f"{len(wrong)} of {len(annotations)} annotations of {answered} have answers that are "
            f'not {{"answer": text, "answer_id": number}}: {first_three(wrong)}'
        )
