"""easy-VQA from its folder to two models that answer: a CLIP, and both mappers on it.

    output/clip/                     the small CLIP
    output/mapper-a/, mapper-b/      the models, each with its log and card
    output/results.json, README.md   how well they answer the test questions, and the minutes

The CLIP sees nothing but the training pictures and what their questions say of them. A command of
minutes, it is where a claim about CLIPmappers can be tried on published pictures.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from relmap.disk import write_whole
from relmap.train.card import command, markdown_table, score_rows, versions
from relmap.train.clip_folder import ClipSource, find_source, train_clip_folder
from relmap.train.run import Run, open_output
from relmap.train.vqa import read_splits, train_vqa

__all__ = ["train_easy_vqa"]

MAPPERS = ("a", "b")


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
    CLIP is trained, if not as `relmap train clip --recipe easy-vqa` does. A run that was killed
    goes on when it is started again; one that was finished returns its results.

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
    if (found := open_output(run, settings)) is not None:
        return found
    learned = _train_clip(run, source)
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
    shutil.rmtree(run.cache_folder, ignore_errors=True)
    write_whole(output / "README.md", _card(results).encode())
    write_whole(output / "results.json", json.dumps(results, indent=1).encode())
    return results


def _settings(run: Run, source: ClipSource) -> dict[str, Any]:
    """All that decides about the weights; that of the mappers is in their own folders as well."""
    return {
        "task": "easy-vqa",
        "data": run.data.absolute().name,
        "seed": run.seed,
        "samples": run.samples,
        "clip": dataclasses.asdict(source),
        "recipe": json.loads(json.dumps(dataclasses.asdict(run.read_recipe("vqa")))),
    }


def _train_clip(run: Run, source: ClipSource) -> dict[str, Any]:
    """The CLIP's training.json, which is the last file that its training writes."""
    folder = Path(run.clip)
    if not (folder / "training.json").is_file():
        train_clip_folder(run.data, folder, source=source, samples=run.samples, seed=run.seed)
    for name in ("checkpoints", "pixels"):
        shutil.rmtree(folder / name, ignore_errors=True)
    return json.loads((folder / "training.json").read_text(encoding="utf-8"))


def _card(results: Mapping[str, Any]) -> str:
    columns = [dict(_percentages(scores)) for scores in results["scores"].values()]
    numbers = {name: number for name, _, number in score_rows(results["scores"]["a"])}
    rows = ((name, *(one[name] for one in columns), numbers[name]) for name in numbers)
    minutes = ((name, f"{value:.1f}") for name, value in results["minutes"].items())
    heads = ("test questions", *(f"CLIPmapper-{mapper.upper()}" for mapper in results["scores"]))
    used = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    return "\n".join(
        [
            "# easy-VQA: CLIPmappers on a small CLIP of its training pictures",
            "",
            "The CLIP's captions were made from the training questions; what is measured are the ",
            "published test questions.",
            "",
            "```",
            results["command"],
            "```",
            "",
            *markdown_table((*heads, "number"), rows),
            "",
            *markdown_table(("part", "minutes"), minutes),
            "",
            f"Seed {results['settings']['seed']}; {results['machine']}; {used}.",
            "",
        ]
    )


def _percentages(scores: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(name, accuracy) for name, accuracy, _ in score_rows(scores)]
