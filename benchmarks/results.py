"""Results: every measurement of docs/results.md, by one command that may be stopped and goes on.

    python benchmarks/results.py DATA OUTPUT --only deit-chefer

DATA holds what the measurements read (deit_tiny, imagenet_samples, coco_segmentation, hatexplain,
scenes, ...), OUTPUT gets a folder of rows, tables, curves and protocol for each. What is there
already is not measured again. `python docs/results.py OUTPUT` makes the page.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import relmap
from relmap.backwards import BACKWARDS
from relmap.cli.evaluating import _progress
from relmap.compatibility import choose_backward
from relmap.errors import RelmapError
from relmap.evaluation import Plan, Settings, Source, finish, read_method, read_metric, run
from relmap.methods import METHODS

# Methods of more than twenty forward passes an image, or of a maximum flow for each token.
COSTLY = {"integrated-gradients", "occlusion", "attention-flow"}
LANGUAGE = {"tam"}  # explains generated text only
PRODUCT = ("genatt", "wra", "rollout", "input-x-gradient", "fullgrad-plus")
CONTROLS = ("random", "centre-blob")


@dataclass(frozen=True)
class Measurement:
    """One evaluation: a model, its data, what is compared, and by what."""

    model: str
    source: Source
    methods: tuple[str, ...]
    metrics: tuple[str, ...]
    settings: Settings = field(default_factory=Settings)


def fast_methods() -> tuple[str, ...]:
    """Every method whose cost is a few passes, and the controls."""
    left_out = COSTLY | LANGUAGE | {"random"}
    return (*CONTROLS, *(name for name in METHODS.names() if name not in left_out))


def products() -> tuple[str, ...]:
    """The methods that are combined with every backward that fits them."""
    found: list[str] = []
    for name in PRODUCT:
        for backward in BACKWARDS.names():
            try:
                choose_backward(METHODS.get(name), backward)
            except RelmapError:
                continue
            found.append(f"{name}:backward={backward}")
    return ("random", *found)


def measurements(data: Path) -> dict[str, Measurement]:
    """By name, in the order in which they are run."""
    deit = str(data / "deit_tiny")
    images = Source(str(data / "imagenet_samples"), "image-folder")
    masks = Source(str(data / "coco_segmentation"), "segmentation-folder")
    two = ("perturbation:preset=chefer-vit", "perturbation:preset=wra-image")
    fifty, all_of_them = Settings(batch_size=10, limit=50), Settings(batch_size=10, limit=200)
    localisation = ("segmentation", "pointing-game", "energy")
    return {
        "deit-segmentation": Measurement(
            deit, masks, fast_methods(), localisation, Settings(batch_size=10)
        ),
        "deit-chefer": Measurement(deit, images, fast_methods(), two[:1], all_of_them),
        "deit-wra": Measurement(deit, images, fast_methods(), two[1:], all_of_them),
        "deit-products": Measurement(deit, images, products(), two[1:], fifty),
        "deit-costly": Measurement(
            deit, images, ("random", "genatt", *sorted(COSTLY - {"attention-flow"})), two[1:], fifty
        ),
        "deit-ablations": Measurement(deit, images, ABLATIONS, two[1:], fifty),
    }


ABLATIONS = (
    "transformer-attribution",
    "transformer-attribution:start_layer=1",
    "tokentm",
    "genatt",
    "genatt:start_layer=1",
    "wra",
    "wra:weights=equal",
)


def main() -> None:
    """Run what is asked for, or everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--only", nargs="*", help="names of measurements")
    parser.add_argument(
        "--tables", action="store_true", help="measure nothing: make tables of the rows so far"
    )
    arguments = parser.parse_args()
    known = measurements(arguments.data)
    for name in arguments.only or known:
        one = known[name]
        plan = Plan(
            tuple(map(read_method, one.methods)), tuple(map(read_metric, one.metrics)), one.settings
        )
        if arguments.tables:
            if (arguments.output / name / "rows").is_dir():
                print(f"## {name}\n\n{finish(arguments.output / name, plan)}", flush=True)
            continue
        with _progress(one.settings.limit) as progress:
            model: Any = relmap.load(one.model)
            found = run(model, one.source, plan, arguments.output / name, progress=progress)
        print(f"## {name}\n\n{found}", flush=True)


if __name__ == "__main__":
    main()
