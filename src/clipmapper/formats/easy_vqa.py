"""easy-VQA: pictures of one coloured shape, with questions that have one right answer.

folder/train/questions.json      [["what color is the shape?", "blue", 0], ...]
folder/train/images/0.png
folder/test/...
"""

import json
from pathlib import Path
from typing import Any

from clipmapper.answers import normalise_answer
from relmap.data import DATA, Question, first_three, images_by_number, require_images
from relmap.errors import InputError

SHAPES = frozenset({"circle", "rectangle", "triangle"})


def _files(folder: Path, split: str) -> list[Path]:
    return [file for file in (folder / split / "questions.json",) if file.is_file()]


@DATA.register(
    "easy-vqa", reference="Zhou, easy-VQA, 2019, github.com/vzhou842/easy-VQA", files=_files
)
def easy_vqa(path: str | Path, split: str = "train") -> list[Question]:
    """Questions of a split ("train" or "test"), in the order of its file.

    The one published answer stands for ten people who agree, so that the official VQA accuracy is
    the share of right answers. The kind of a question is read off its answer: yes/no, shape, color.

    Raises:
        InputError: If a file is missing or broken, or pictures are missing or there twice; with
            their number and the first three.

    Example:
        >>> easy_vqa("no/such/folder")
        Traceback (most recent call last):
        relmap.errors.InputError: there is no folder no/such/folder/train
    """
    folder = Path(path) / split
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}")
    entries = _read(folder / "questions.json")
    pictures = folder / "images"
    needed = dict.fromkeys(number for _, _, number in entries)
    images = images_by_number([pictures] if pictures.is_dir() else [], needed)
    missing = [number for number in needed if number not in images]
    require_images(missing, len(needed), f"{split}/questions.json", [pictures])
    return [
        Question(
            name=str(at),
            image=images[number],
            text=text,
            answers={normalise_answer(answer): 1.0},
            humans=(answer,) * 10,
            kind=_kind(answer),
            answer_type="yes/no" if answer in ("yes", "no") else "other",
            image_id=number,
        )
        for at, (text, answer, number) in enumerate(entries)
    ]


def _kind(answer: str) -> str:
    if answer in ("yes", "no"):
        return "yes/no"
    return "shape" if answer in SHAPES else "color"


def _read(path: Path) -> list[tuple[str, str, int]]:
    try:
        entries: Any = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}") from error
    if not isinstance(entries, list) or not entries:
        raise InputError(f"{path} must be a JSON list with at least one question")
    wrong = [
        at
        for at, entry in enumerate(entries)
        if not (isinstance(entry, list) and [type(part) for part in entry] == [str, str, int])
    ]
    if wrong:
        raise InputError(
            f"{len(wrong)} of {len(entries)} entries of {path} are not [question, answer, image "
            f"number]: entry {first_three(wrong)}"
        )
    return [(text, answer, number) for text, answer, number in entries]
