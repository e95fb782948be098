"""Scenes as they were written by `relmap scenes`: questions with the truth of an explanation.

What is asked and answered is read as VQA v2; the objects that an answer depends on come from
COCO's instances beside it. This is what the evidence of a map is measured on.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from relmap.data import DATA, Example, Question, decode_mask, read_json
from relmap.errors import InputError

__all__ = ["SceneEvidence", "scenes"]


@dataclass(frozen=True, slots=True)
class SceneEvidence:
    """A question about a scene, and what its answer rests on.

    Attributes:
        question: The question itself.
        objects: COCO's segmentations of the evidence, maybe none ("no" rests on nothing there).
        words: Character spans of the words that carry the question.
        label: "objects", or "count" or "exists" where the evidence may be nothing at all.
    """

    question: Question
    objects: tuple[Any, ...]
    words: tuple[tuple[int, int], ...]
    label: str

    def open_mask(self) -> Bool[Tensor, "height width"] | None:
        """The pixels of all evidence objects together; None if there are none."""
        if not self.objects:
            return None
        name = self.question.name
        masks = [decode_mask(one, f"the evidence of {name}") for one in self.objects]
        return torch.from_numpy(np.any(masks, axis=0))

    def example(self) -> Example:
        """The question as evaluation sees it, with its evidence as mask and words."""
        return replace(self.question.example(), mask=self.open_mask, words=self.words)


@DATA.register("scenes")
def scenes(path: str | Path, split: str = "test") -> list[SceneEvidence]:
    """The questions of a split with their evidence, in the order of the questions file.

    Raises:
        InputError: A file is missing or broken, or questions have no evidence, with their number.

    Example:
        >>> scenes("no/such/folder")
        Traceback (most recent call last):
        relmap.errors.InputError: there is no folder no/such/folder
    """
    folder = Path(path)
    questions: list[Question] = DATA.get("vqa-v2").function(folder, split=split)
    content = read_json(folder / "annotations" / f"instances_{split}.json", ["annotations"])
    masks = {one["id"]: one["segmentation"] for one in content["annotations"]}
    bare = [one.name for one in questions if "evidence" not in one.about]
    if bare:
        raise InputError(
            f"{len(bare)} of {len(questions)} questions of {folder} have no evidence (the first is "
            f"{bare[0]}): this reads what `relmap scenes` wrote"
        )
    return [_with_evidence(one, masks) for one in questions]


def _with_evidence(question: Question, masks: Mapping[int, Any]) -> SceneEvidence:
    evidence = question.about["evidence"]
    lost = [number for number in evidence["objects"] if number not in masks]
    if lost:
        raise InputError(f"question {question.name} rests on object {lost[0]}, which is not there")
    return SceneEvidence(
        question=question,
        objects=tuple(masks[number] for number in evidence["objects"]),
        words=tuple((start, end) for start, end in evidence["words"]),
        label=evidence["label"],
    )
