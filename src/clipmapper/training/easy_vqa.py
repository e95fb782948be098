"""easy-VQA from its folder to two models that answer: a CLIP, and both mappers on it.

    output/clip/                     the small CLIP
    output/mapper-a/, mapper-b/      the models, each with its log and card
    output/results.json, README.md   how well they answer the test questions, and the minutes

The CLIP sees nothing but the training pictures and what their questions say of them, each picture
as it is and in a few copies: 4,000 are soon known by heart, and a small circle stays a circle when
it is mirrored or stands a few pixels aside. A command of minutes, it is where a claim about
CLIPmappers can be tried on published pictures.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from clipmapper.training.card import (
    command,
    make_card,
    markdown_table,
    name_versions,
    score_notes,
    score_rows,
    versions,
    write_results,
)
from clipmapper.training.clip_folder import ClipSource, find_source, train_clip_folder
from clipmapper.training.examples import read_questions
from clipmapper.training.run import Run, open_output
from clipmapper.training.vqa import read_splits, train_vqa
from relmap.files import write_whole

__all__ = ["train_easy_vqa"]

MAPPERS = ("a", "b")
COPIES = 3  # of every training picture, for the CLIP
ASIDE = 1 / 16  # of a picture's side: as far as a copy is moved at most


def train_easy_vqa(
    data: str | Path,
    output: str | Path,
    *,
    seed: int = 0,
    samples: int | None = None,
    recipe: str = "easy-vqa",
    clip: ClipSource | None = None,
) -> dict[str, Any]:
    """Trains a small CLIP and CLIPmappers A and B on easy-VQA and returns their test accuracy.

    `samples` is the length of each of the three trainings, if not their recipes'; `clip` is how the
    CLIP is trained, if not as `relmap train clip --recipe easy-vqa` does. It learns from the
    training pictures and three copies of each, moved by up to a sixteenth of their side and one of
    them mirrored. A run that was killed goes on when it is started again; one that was finished
    returns its results.

    Raises:
        InputError: The data cannot be used, or the folder holds another run.
        MissingExtraError: accelerate is not installed.
    """
    begun = time.monotonic()
    data, output = Path(data), Path(output)
    source = find_source("easy-vqa") if clip is None else clip
    run = Run(
        data=data,
        clip=str(output / "clip"),
        mapper="a",
        recipe=recipe,
        output=output,
        seed=seed,
        cache=output / "features",
        samples=samples,
    )
    settings = _settings(run, source)
    if not (output / "results.json").is_file():
        read_splits(
            run, run.read_recipe("vqa")
        )  # what is missing should be said before the minutes
    if (found := open_output(output, settings)) is not None:
        return found
    copies = output / "copies"
    learned = train_clip_folder(
        _copy_data(run, source.questions, copies / data.absolute().name),
        output / "clip",
        source=source,
        samples=samples,
        seed=seed,
    )
    found = {
        mapper: train_vqa(
            dataclasses.replace(run, mapper=mapper, output=output / f"mapper-{mapper}")
        )
        for mapper in MAPPERS
    }
    results = {
        "command": command(),
        "settings": settings,
        "minutes": {
            "clip": learned["minutes"],
            **{f"mapper {mapper}": one["minutes"] for mapper, one in found.items()},
            "this command": (time.monotonic() - begun) / 60,
        },
        "machine": found["a"]["machine"],
        "versions": versions(),
        "scores": {mapper: one["scores"]["test"] for mapper, one in found.items()},
    }
    for folder in (copies, run.cache_folder):
        shutil.rmtree(folder, ignore_errors=True)
    write_results(output, _card(results), results)
    return results


def _settings(run: Run, source: ClipSource) -> dict[str, Any]:
    """All that decides about the weights; that of the mappers is in their own folders as well."""
    told = run.settings(run.read_recipe("vqa"))
    shared = ("data", "data_files", "format", "seed", "samples", "recipe")
    own = {"task": "easy-vqa", "clip": dataclasses.asdict(source), "copies": COPIES}
    return own | {name: told[name] for name in shared}


def _copy_data(run: Run, form: str, folder: Path) -> Path:
    """The data for the CLIP: training pictures also in copies, of which the same is asked."""
    asked_last = folder / "train" / "questions.json"
    if asked_last.is_file():
        return folder
    shutil.copytree(run.data / "test", folder / "test", dirs_exist_ok=True)  # it is measured there
    images = folder / "train" / "images"
    images.mkdir(parents=True, exist_ok=True)
    questions = read_questions(form, run.data, "train")
    pictures = {int(one.image_id): one.image for one in questions}
    apart = max(pictures) + 1
    for number, path in pictures.items():
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        for copy in range(1 + COPIES):
            shown = _copy(pixels, copy, np.random.default_rng([run.seed, number, copy]))
            Image.fromarray(shown).save(images / f"{number + copy * apart}.png", compress_level=1)
    asked = [
        [one.text, next(iter(one.answers)), int(one.image_id) + copy * apart]
        for copy in range(1 + COPIES)
        for one in questions
    ]
    write_whole(asked_last, json.dumps(asked).encode())
    return folder


def _copy(
    pixels: UInt8[np.ndarray, "height width 3"], number: int, random: np.random.Generator
) -> UInt8[np.ndarray, "height width 3"]:
    """The picture itself as number 0; else moved, with its edge repeated where it left."""
    if number == 0:
        return pixels
    height, width, _ = pixels.shape
    most = round(ASIDE * min(height, width))
    wider = np.pad(pixels, ((most, most), (most, most), (0, 0)), mode="edge")
    down, right = random.integers(2 * most + 1, size=2)
    moved = wider[down : down + height, right : right + width]
    return np.ascontiguousarray(moved[:, ::-1] if number == 2 else moved)


def _card(results: Mapping[str, Any]) -> str:
    columns = [dict(_percentages(scores)) for scores in results["scores"].values()]
    numbers = {name: number for name, _, number in score_rows(results["scores"]["a"])}
    rows = ((name, *(one[name] for one in columns), numbers[name]) for name in numbers)
    minutes = ((name, f"{value:.1f}") for name, value in results["minutes"].items())
    heads = ("test questions", *(f"CLIPmapper-{mapper.upper()}" for mapper in results["scores"]))
    used = name_versions(results)
    return make_card(
        "easy-VQA: CLIPmappers on a small CLIP of its training pictures",
        [
            "The CLIP's captions were made from the training questions; what is measured are the ",
            "published test questions.",
        ],
        results["command"],
        [
            *markdown_table((*heads, "number"), rows),
            "",
            *score_notes(results["scores"]["a"]),
            *markdown_table(("part", "minutes"), minutes),
            "",
            f"Seed {results['settings']['seed']}; {results['machine']}; {used}.",
            "",
        ],
    )


def _percentages(scores: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(name, accuracy) for name, accuracy, _ in score_rows(scores)]
