"""Examples to train on: rows of cached features, joined with what should be answered or said.

A data set here is asked for whole batches of positions and answers with whole tensors, so that a
batch costs a few array operations however small the model is. What it keeps in memory is a handful
of numbers per example; the features stay on disk.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import Dataset

from clipmapper.training.course import Course
from clipmapper.training.features import (
    Encoders,
    PictureStates,
    TextStates,
    picture_states,
    text_states,
)
from relmap.data import DATA, CaptionedImage, Question
from relmap.errors import InputError

__all__ = [
    "NEUTRAL_TEXT",
    "Blind",
    "Examples",
    "FeatureSource",
    "Targets",
    "caption_examples",
    "pictures_of",
    "question_examples",
    "read_captions",
    "read_questions",
    "reserve",
    "soft_targets",
]

Blind = Literal["image", "question"]
"""What a control does not see: without the image, only the question is left, and the reverse."""

NEUTRAL_TEXT = "?"
"""What stands in the place of every question for a model that must not read it."""

Item = TypeVar("Item", str, Path)
Read = TypeVar("Read", Question, CaptionedImage)


@dataclass(frozen=True)
class FeatureSource:
    """Where features come from: the encoders, the cache, and who opens the pictures.

    `picture_shape` is that of one picture's states, for a model that is not shown any.
    """

    encoders: Encoders
    cache: Path
    picture_shape: tuple[int, int]
    workers: int = 0
    blind: Blind | None = None


@dataclass(frozen=True)
class Targets:
    """Soft targets of many questions: classes and values, one question after another."""

    starts: Int[np.ndarray, " rows_and_one"]
    classes: Int[np.ndarray, " entries"]
    values: Float[np.ndarray, " entries"]
    number: int

    def take(self, rows: Int[np.ndarray, " b"]) -> Float[Tensor, "b classes"]:
        """The targets of some questions, zero where nothing was answered."""
        wanted = torch.zeros(len(rows), self.number)
        counts = self.starts[rows + 1] - self.starts[rows]
        offsets = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        places = np.repeat(self.starts[rows], counts) + offsets
        which = torch.from_numpy(np.repeat(np.arange(len(rows)), counts))
        wanted[which, torch.from_numpy(self.classes[places])] = torch.from_numpy(
            self.values[places]
        )
        return wanted

    def mean(self) -> Float[Tensor, " classes"]:
        """The mean target of each class over all questions."""
        total = np.bincount(self.classes, weights=self.values, minlength=self.number)
        return torch.from_numpy(total / max(len(self.starts) - 1, 1)).float()


@dataclass(frozen=True)
class Examples(Dataset[dict[str, Tensor]]):
    """Rows of data as batches for a CLIPmapper.

    With a course, positions are places in training; without, they are rows. Questions have
    `targets`; captions have none, since their labels are their own words.
    """

    pictures: PictureStates
    texts: TextStates
    picture_rows: Int[np.ndarray, " rows"]
    text_rows: Int[np.ndarray, " rows"]
    targets: Targets | None = None
    course: Course | None = None

    def __len__(self) -> int:
        return len(self.picture_rows) if self.course is None else len(self.course)

    def __getitem__(self, position: int) -> dict[str, Tensor]:
        return {name: value[0] for name, value in self.__getitems__([position]).items()}

    def __getitems__(self, positions: Sequence[int]) -> dict[str, Tensor]:
        """A whole batch at once, which torch's loader asks for when this method is there."""
        rows = np.asarray(positions, dtype=np.int64)
        if self.course is not None:
            rows = self.course.rows(rows)
        states, ids, mask = self.texts.take(self.text_rows[rows])
        images = self.pictures.take(self.picture_rows[rows])
        batch = {"image_states": images, "text_states": states, "attention_mask": mask}
        if self.targets is not None:
            return batch | {"labels": self.targets.take(rows)}
        return batch | {"labels": ids.masked_fill(mask == 0, -100)}

    def following(self, course: Course) -> Examples:
        """The same examples in the order of a course."""
        return replace(self, course=course)


def read_questions(form: str, data: Path, split: str) -> list[Question]:
    """The questions of a split in one of the data formats.

    Raises:
        InputError: The format is unknown or holds no questions, or the split cannot be read.
    """
    found = DATA.get(form).function(data, split=split)
    return _all_of(found, Question, f"the format {form!r} is not one of questions, as 'vqa-v2' is")


def read_captions(form: str, data: Path, split: str) -> list[CaptionedImage]:
    """The pictures of a split with their captions, in one of the data formats.

    Raises:
        InputError: The format is unknown or holds no captions, or the split cannot be read.
    """
    found = DATA.get(form).function(data, split=split)
    wrong = f"the format {form!r} is not one of captions, as 'coco-captions' is"
    return _all_of(found, CaptionedImage, wrong)


def _all_of(items: Sequence[Any], kind: type[Read], wrong: str) -> list[Read]:
    if not all(isinstance(one, kind) for one in items):
        raise InputError(f"{wrong}: see 'relmap list data'")
    return list(items)


def question_examples(
    questions: Sequence[Question], vocabulary: Sequence[str], source: FeatureSource
) -> Examples:
    """Questions as examples, their features computed where the cache has none.

    Raises:
        InputError: There are no questions, or a picture cannot be read.
    """
    if not questions:
        raise InputError("there are no questions")
    texts = [
        NEUTRAL_TEXT if source.blind == "question" else question.text for question in questions
    ]
    pictures, picture_rows = pictures_of([question.image for question in questions], source)
    unique, text_rows = _distinct(texts)
    return Examples(
        pictures,
        text_states(unique, source.encoders, source.cache),
        picture_rows,
        text_rows,
        soft_targets([question.answers for question in questions], vocabulary),
    )


def caption_examples(images: Sequence[CaptionedImage], source: FeatureSource) -> Examples:
    """Every caption of every picture as an example.

    Raises:
        InputError: There are no captions, or a picture cannot be read.
    """
    pairs = [(image.image, caption) for image in images for caption in image.captions]
    if not pairs:
        raise InputError("there are no captions")
    pictures, picture_rows = pictures_of([path for path, _ in pairs], source)
    unique, text_rows = _distinct([caption for _, caption in pairs])
    texts = text_states(unique, source.encoders, source.cache)
    return Examples(pictures, texts, picture_rows, text_rows)


def soft_targets(answers: Sequence[Mapping[str, float]], vocabulary: Sequence[str]) -> Targets:
    """The soft targets of questions over a vocabulary; answers that are not in it are left out.

    Example:
        >>> targets = soft_targets([{"red": 1.0, "pink": 0.3}, {"2": 1.0}], ["2", "red"])
        >>> targets.take(np.array([0, 1])).tolist()
        [[0.0, 1.0], [1.0, 0.0]]
    """
    number = {answer: index for index, answer in enumerate(vocabulary)}
    found = [
        [(number[answer], value) for answer, value in given.items() if answer in number]
        for given in answers
    ]
    flat = [pair for pairs in found for pair in pairs]
    return Targets(
        np.cumsum([0, *map(len, found)]),
        np.array([index for index, _ in flat], dtype=np.int64),
        np.array([value for _, value in flat], dtype=np.float32),
        len(vocabulary),
    )


def reserve(
    questions: Sequence[Question], number: int, seed: int
) -> tuple[list[Question], list[Question]]:
    """Questions to train on, and `number` of them set aside, chosen by the seed alone.

    The choice does not depend on the order of the questions.

    Raises:
        InputError: There are not more questions than should be set aside.
    """
    if number >= len(questions):
        raise InputError(f"cannot reserve {number} of {len(questions)} questions")
    names = sorted(question.name for question in questions)
    places = np.random.default_rng(seed).choice(len(names), size=number, replace=False)
    aside = {names[place] for place in places}
    if len(set(names)) < len(names):
        raise InputError("questions cannot be reserved, since some have the same name")
    kept = [question for question in questions if question.name not in aside]
    return kept, [question for question in questions if question.name in aside]


def pictures_of(
    paths: Sequence[Path], source: FeatureSource
) -> tuple[PictureStates, Int[np.ndarray, " paths"]]:
    """The states of pictures, each once and in the order of their names, and the row of each path.

    Raises:
        InputError: A picture cannot be read.
    """
    unique, rows = _distinct(paths)  # in an order that does not depend on who asks
    if source.blind == "image":
        return PictureStates((len(unique), *source.picture_shape)), rows
    return picture_states(unique, source.encoders, source.cache, workers=source.workers), rows


def _distinct(items: Sequence[Item]) -> tuple[list[Item], Int[np.ndarray, "_"]]:
    """The distinct items, sorted, and which of them each item is."""
    unique = sorted(set(items))
    place = {item: row for row, item in enumerate(unique)}
    return unique, np.array([place[item] for item in items], dtype=np.int64)
