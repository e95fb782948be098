"""Localisation: where do the maps of every method lie, against masks of the objects?

    python benchmarks/localisation.py MODEL FOLDER --variant wra:start_layer=1 --output table.md

MODEL is whatever `relmap.load` takes, FOLDER a segmentation folder. Every registered method
explains the predicted class of every image; the pointing game and the energy of its maps stand
beside those of two controls: random relevance, and a blob at the centre of the image. Each number
is a mean over images with the 95 % percentile interval of a bootstrap over images.
"""

import argparse
import ast
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import relmap
from relmap.data import DATA, Sample
from relmap.data.geometry import masks_as_seen
from relmap.errors import InputError, RelmapError
from relmap.methods import METHODS
from relmap.metrics import METRICS
from relmap.metrics.controls import centre_blob, random_map

RANDOM_DRAWS = 20
RESAMPLES = 10_000
Explain = Callable[..., Any]


@dataclass(frozen=True)
class Run:
    """One row of the table: a method and the options it is called with."""

    method: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """As on the command line: `wra:start_layer=1`."""
        written = ",".join(f"{key}={value}" for key, value in self.options.items())
        return f"{self.method}:{written}" if written else self.method


@dataclass
class Result:
    """What one run gave: one number per image and metric, its time, or why it gave none."""

    pointing: list[float] = field(default_factory=list)
    energy: list[float] = field(default_factory=list)
    seconds: float = 0.0
    refusal: str = ""


def parse_variant(text: str) -> Run:
    """Reads `method:option=value,option=value`; values are Python literals or plain words."""
    method, _, written = text.partition(":")
    name = METHODS.get(method).name
    known = METHODS.options(name)
    options: dict[str, Any] = {}
    for part in filter(None, written.split(",")):
        key, equals, value = part.partition("=")
        if not equals or key not in known:
            raise InputError(
                f"'{part}' in '{text}' is no option of {name}; "
                f"write option=value with one of: {', '.join(known) or '(none)'}"
            )
        try:
            options[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            options[key] = value
    return Run(name, options)


def batches(samples: Sequence[Sample], size: int) -> Iterator[Sequence[Sample]]:
    """Consecutive samples, `size` at a time."""
    for start in range(0, len(samples), size):
        yield samples[start : start + size]


def score(result: Result, maps: Tensor, masks: Tensor, tolerance: float) -> None:
    """Adds both metrics of a batch of maps to a result."""
    pointing = METRICS.get("pointing-game").function(maps, masks, tolerance=tolerance)
    result.pointing += pointing.tolist()
    result.energy += METRICS.get("energy").function(maps, masks).tolist()


def score_controls(
    results: dict[str, Result], grid: tuple[int, int], masks: Tensor, *, seed: int, tolerance: float
) -> None:
    """Adds both controls for a batch of masks; random is the mean of several draws per image."""
    height, width = masks.shape[1:]
    # the blob is drawn on pixels: on an even grid of patches its peak would be four patches wide
    score(results["centre blob"], centre_blob(len(masks), height, width), masks, tolerance)
    draws = Result()
    for draw in range(RANDOM_DRAWS):
        maps = random_map(len(masks), *grid, seed=seed * RANDOM_DRAWS + draw)
        score(draws, maps, masks, tolerance)
    for name in ("pointing", "energy"):
        means = np.array(getattr(draws, name)).reshape(RANDOM_DRAWS, -1).mean(axis=0)
        getattr(results["random control"], name).extend(means.tolist())


def explain_batch(
    result: Result, run: Run, images: list[Any], *, model: Any, explain: Explain
) -> Tensor | None:
    """The maps of one run for a batch, or None once the run has been refused."""
    if result.refusal:
        return None
    started = time.perf_counter()
    try:
        attribution = explain(model, image=images, method=run.method, **run.options)
        maps = attribution.image.scores.detach().cpu()
    except RelmapError as error:
        result.refusal = str(error)
        return None
    result.seconds += time.perf_counter() - started
    return maps


def measure(
    samples: Sequence[Sample],
    runs: Sequence[Run],
    *,
    model: Any,
    explain: Explain,
    batch_size: int = 8,
    tolerance: float = 0.0,
) -> dict[str, Result]:
    """Scores every run, and both controls, on every image of which the mask is still in view."""
    results = {name: Result() for name in ("random control", "centre blob")}
    results |= {run.name: Result() for run in runs}
    for number, batch in enumerate(batches(samples, batch_size)):
        masks = masks_as_seen([sample.open_mask() for sample in batch], model.processor)
        seen = masks.flatten(1).any(dim=1)
        images = [sample.open_image() for sample in batch]
        grid: tuple[int, int] | None = None
        for run in runs:
            result = results[run.name]
            maps = explain_batch(result, run, images, model=model, explain=explain)
            if maps is not None and seen.any():
                grid = (maps.shape[1], maps.shape[2])
                score(result, maps[seen], masks[seen], tolerance)
        if grid and seen.any():
            score_controls(results, grid, masks[seen], seed=number, tolerance=tolerance)
    return results


def interval(values: Sequence[float], *, seed: int = 0) -> tuple[float, float]:
    """The 95 % percentile interval of the mean, by bootstrap over the values."""
    sample = np.asarray(values, dtype=np.float64)
    rows = np.random.default_rng(seed).integers(len(sample), size=(RESAMPLES, len(sample)))
    low, high = np.percentile(sample[rows].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def table(results: Mapping[str, Result], *, tolerance: float = 0.0) -> str:
    """The results as a Markdown table, the controls first, then by falling pointing game."""

    def cell(values: Sequence[float]) -> str:
        low, high = interval(values)
        return f"{np.mean(values):.3f} [{low:.3f}, {high:.3f}]"

    def order(item: tuple[str, Result]) -> tuple[bool, float]:
        name, result = item
        is_control = name in ("random control", "centre blob")
        return (not is_control, -float(np.mean(result.pointing or [-1.0])))

    lines = [
        f"| method | pointing game ({tolerance:g} px) | energy | n | s / image |",
        "|---|---|---|---|---|",
    ]
    for name, result in sorted(results.items(), key=order):
        if result.refusal or not result.pointing:
            lines.append(f"| {name} | {result.refusal or 'no image'} | | 0 | |")
            continue
        count = len(result.pointing)
        pace = f"{result.seconds / count:.3f}" if result.seconds else ""
        cells = f"{cell(result.pointing)} | {cell(result.energy)}"
        lines.append(f"| {name} | {cells} | {count} | {pace} |")
    return "\n".join(lines)


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", help="whatever relmap.load takes")
    parser.add_argument("folder", type=Path, help="a segmentation folder: manifest, images, masks")
    parser.add_argument("--method", action="append", help="only this method (repeatable)")
    parser.add_argument(
        "--variant", action="append", default=[], help="method:option=value,... (repeatable)"
    )
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--limit", type=int, help="only the first images")
    parser.add_argument("--tolerance", type=float, default=0.0, help="of the pointing game, in px")
    parser.add_argument("--output", type=Path, help="also write the table to this file")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> None:
    """Loads, measures, prints."""
    given = arguments(words)
    runs = [Run(METHODS.get(name).name) for name in given.method or METHODS.names()]
    runs += [parse_variant(text) for text in given.variant]
    runs = list({run.name: run for run in runs}.values())  # a run named twice is measured once
    samples = DATA.get("segmentation-folder").function(given.folder)[: given.limit]
    torch.manual_seed(0)
    results = measure(
        samples,
        runs,
        model=relmap.load(given.model),
        explain=relmap.explain,
        batch_size=given.batch_size,
        tolerance=given.tolerance,
    )
    text = table(results, tolerance=given.tolerance)
    print(text)
    if given.output:
        given.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
