"""A small CLIP trained on a folder: its captions, and its regions and questions if it has them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

from relmap.data import DATA
from relmap.errors import InputError
from relmap.train.clip import ClipRecipe, train_clip
from relmap.train.regions import read_regions

__all__ = ["CLIPS", "ClipSource", "find_source", "train_clip_folder"]


@dataclass(frozen=True, kw_only=True)
class ClipSource:
    """The data that a small CLIP learns from, and how.

    Attributes:
        captions: Format of the captions, in `relmap.data`.
        questions: Format of the questions, whose answers make texts of them, where there are any.
        recipe: The training.
    """

    captions: str = "coco-captions"
    questions: str = "vqa-v2"
    recipe: ClipRecipe = field(default_factory=ClipRecipe)


CLIPS: Mapping[str, ClipSource] = MappingProxyType(
    {
        "scenes": ClipSource(),
        "easy-vqa": ClipSource(
            captions="easy-vqa-captions",
            questions="easy-vqa",
            recipe=ClipRecipe(
                samples=60_000,
                learning_rate=3e-3,
                questions=0.5,
                siblings=1,
                equal_texts=True,
                side=64,
                width=64,
                layers=3,
                text_width=64,
                projection=64,
                checkpoint_minutes=1.0,
                about="a small CLIP by image-text contrast, equal texts alike",
            ),
        ),
    }
)
"""The small CLIPs that can be trained by name."""


def find_source(name: str, *, captions: str | None = None) -> ClipSource:
    """The small CLIP of a name, its captions perhaps in another format.

    Raises:
        InputError: There is none of that name.

    Example:
        >>> find_source("scenes", captions="karpathy").captions
        'karpathy'
    """
    if name not in CLIPS:
        raise InputError(f"there is no small CLIP {name!r}; there are {', '.join(CLIPS)}")
    return CLIPS[name] if captions is None else replace(CLIPS[name], captions=captions)


def train_clip_folder(
    data: Path,
    output: Path,
    *,
    source: ClipSource,
    samples: int | None = None,
    seed: int = 0,
) -> Path:
    """Trains a small CLIP on the training split of a folder.

    Raises:
        InputError: The data cannot be read, or is too small.
    """
    captions = DATA.get(source.captions).function(data, split="train")
    recipe = source.recipe if samples is None else replace(source.recipe, samples=samples)
    instances = data / "annotations" / "instances_train.json"
    regions = None
    if instances.is_file():
        numbers = [int(one.image_id) for one in captions]
        regions = read_regions(instances, numbers, recipe.side // recipe.patch)
    return train_clip(
        captions,
        output,
        recipe=recipe,
        regions=regions,
        answered=_answered(data, source.questions),
        seed=seed,
    )


def _answered(data: Path, format: str) -> dict[int | str, list[str]]:
    """Questions with their first answers by picture, if the folder has any."""
    try:
        questions = DATA.get(format).function(data, split="train")
    except InputError:
        return {}
    found: dict[int | str, list[str]] = defaultdict(list)
    for one in questions:
        if one.answers:
            found[one.image_id].append(
                f"{one.text} {max(one.answers, key=one.answers.__getitem__)}"
            )
    return found
