"""A small CLIP trained on a folder: its captions, and its regions and questions if it has them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from clipmapper.training.clip import ClipRecipe, remove_work, train_clip
from clipmapper.training.clip_card import write_clip_card
from clipmapper.training.contents import mark_data, mark_file
from clipmapper.training.regions import read_regions
from clipmapper.training.run import open_output
from relmap.data import DATA, files_of
from relmap.errors import InputError

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
                samples=50_000,
                batch_size=64,
                learning_rate=3e-3,
                questions=0.1,  # enough to know their words; more, and shapes are learned late
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
) -> dict[str, Any]:
    """Trains a small CLIP on the training split of a folder, writes its card, returns the results.

    A run that was killed goes on when it is started again; one that was finished returns its
    results.

    Raises:
        InputError: The data cannot be read or is too small, or the folder holds another run.
        MissingExtraError: accelerate is not installed.
    """
    recipe = source.recipe if samples is None else source.recipe.lasting(samples)
    instances = data / "annotations" / "instances_train.json"
    marks = mark_data(source.captions, data, ["train"])
    if data.is_dir():
        marks |= mark_data(source.questions, data, ["train"])
    settings = {
        "task": "clip",
        "data": data.absolute().name,
        "format": source.captions,
        "seed": seed,
        "recipe": asdict(recipe),
        "data_files": marks | {f"annotations/{instances.name}": mark_file(instances)},
    }
    found = open_output(output, settings)
    if found is None:
        if not (output / "training.json").is_file():
            _train(data, output, source=source, recipe=recipe, settings=settings)
        found = write_clip_card(output, data, source.captions)
    remove_work(output)
    return found


def _train(
    data: Path,
    output: Path,
    *,
    source: ClipSource,
    recipe: ClipRecipe,
    settings: Mapping[str, Any],
) -> None:
    captions = DATA.get(source.captions).function(data, split="train")
    instances = data / "annotations" / "instances_train.json"
    regions = None
    if instances.is_file():
        numbers = [int(one.image_id) for one in captions]
        regions = read_regions(instances, numbers, recipe.side // recipe.patch)
    train_clip(
        captions,
        output,
        recipe=recipe,
        regions=regions,
        answered=_answered(data, source.questions),
        seed=settings["seed"],
        settings=settings,
    )


def _answered(data: Path, format: str) -> dict[int | str, list[str]]:
    """Questions with their first answers by picture, if the folder has any.

    Raises:
        InputError: The folder has questions that cannot be read.
    """
    if not data.is_dir() or not files_of(format, data, "train"):
        return {}
    found: dict[int | str, list[str]] = defaultdict(list)
    for one in DATA.get(format).function(data, split="train"):
        if one.answers:
            found[one.image_id].append(
                f"{one.text} {max(one.answers, key=one.answers.__getitem__)}"
            )
    return found
