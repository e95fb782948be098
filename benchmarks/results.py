"""Results: every measurement of docs/results.md, by one command that may be stopped and goes on.

    python benchmarks/results.py DATA OUTPUT --only deit-chefer

DATA holds what the measurements read (deit_tiny, imagenet_samples, coco_segmentation, hatexplain,
scenes, ...), OUTPUT gets a folder of rows, tables, curves and protocol for each. What is there
already is not measured again. `python docs/results.py OUTPUT` makes the page.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import relmap
from relmap.backwards import BACKWARDS
from relmap.cli.evaluating import _progress
from relmap.errors import RelmapError
from relmap.evaluation import Plan, Settings, Source, finish, read_method, read_metric, run
from relmap.methods import METHODS
from relmap.request.compatibility import choose_backward

# Methods of more than twenty forward passes an image, or of a maximum flow for each token.
COSTLY = {"integrated-gradients", "occlusion", "attention-flow"}
LANGUAGE = {"tam"}  # explains generated text only
PRODUCT = ("genatt", "wra", "rollout", "input-x-gradient", "fullgrad-plus")
CONTROLS = ("random", "centre-blob")

# What the papers switch off, each beside the whole method.
ABLATIONS = {
    "transformer-attribution": (
        "start_layer=1", "normalize=True", "blocks=first", "blocks=last", "gradient=False",
        "relevance=False",
    ),
    "tokentm": (
        "reading=libragrad", "length=False", "necc=False", "length=False,necc=False",
        "initialization=False", "mhsa=False", "ffn=False",
    ),
    "genatt": ("start_layer=1", "aggregate=False"),
    "wra": ("weights=equal", "granularity=token", "clamp=sum", "gradient=branch"),
    "rollout": ("normalize=False",),
}  # fmt: skip
# Gradient methods by another way back, at the price of a gradient.
CHANGED_GRADIENTS = (
    "genatt:backward=libra", "genatt:backward=reslrp", "fullgrad-plus:backward=libra",
    "tokentm:backward=libra", "attgrad:backward=libra", "input-x-gradient:backward=attnlrp",
    "wra:backward=reslrp",
)  # fmt: skip
# Rules for two streams that read each other, which a plain stack does not have.
MULTIMODAL = {
    "genatt": ("normalize=False", "self_in_rule_10=False", "aggregate=False"),
    "wra": ABLATIONS["wra"],
    "rollout": (),
}


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


def ablations(options: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Each method as it is, and with each of its options."""
    found = ("random",)
    for name, switches in options.items():
        found += (name, *(f"{name}:{one}" for one in switches))
    return found


def measurements(data: Path) -> dict[str, Measurement]:
    """By name, in the order in which they are run."""
    deit = str(data / "deit_tiny")
    images = Source(str(data / "imagenet_samples"), "image-folder")
    masks = Source(str(data / "coco_segmentation"), "segmentation-folder")
    questions = Source(str(data / "scenes"), "scenes", {"split": "val"})
    objects = Source(str(data / "scenes"), "coco-instances", {"split": "val", "text": "a picture"})
    on_both = ("perturbation:preset=wra-image", "perturbation:preset=wra-text")
    names = tuple(
        f"open-vocabulary-segmentation:prompt={{}}{more}" for more in ("", ",rescale=True")
    )
    two = ("perturbation:preset=chefer-vit", "perturbation:preset=wra-image")
    fifty, all_of_them = Settings(batch_size=10, limit=50), Settings(batch_size=10, limit=200)
    localisation = ("segmentation", "pointing-game", "energy")
    return {
        "deit-segmentation": Measurement(
            deit, masks, fast_methods(), localisation, Settings(batch_size=10)
        ),
        "deit-chefer": Measurement(deit, images, fast_methods(), two[:1], all_of_them),
        "deit-wra": Measurement(deit, images, fast_methods(), two[1:], all_of_them),
        "deit-segmentation-backwards": Measurement(
            deit, masks, CHANGED_GRADIENTS, localisation, Settings(batch_size=10)
        ),
        "deit-chefer-backwards": Measurement(
            deit, images, CHANGED_GRADIENTS, two[:1], all_of_them
        ),
        "deit-wra-backwards": Measurement(deit, images, CHANGED_GRADIENTS, two[1:], all_of_them),
        "deit-products": Measurement(deit, images, products(), two[1:], fifty),
        "deit-costly": Measurement(
            deit, images, ("random", "genatt", *sorted(COSTLY - {"attention-flow"})), two[1:], fifty
        ),
        "deit-ablations": Measurement(deit, images, ablations(ABLATIONS), two[1:], fifty),
        **{
            f"scenes-ablations-{mapper}": Measurement(
                f"demo:{mapper}-vqa", questions, ablations(MULTIMODAL), on_both,
                Settings(batch_size=50, limit=300),
            )
            for mapper in ("a", "b")
        },
        **{
            f"scenes-backwards-{mapper}": Measurement(
                f"demo:{mapper}-vqa", questions, CHANGED_GRADIENTS, ("evidence", *on_both),
                Settings(batch_size=50, limit=300),
            )
            for mapper in ("a", "b")
        },
        "scenes-open-vocabulary": Measurement(
            "demo:clip", objects, (*fast_methods(), "clip-surgery:features=False"), names,
            Settings(batch_size=10, limit=100),
        ),
    }  # fmt: skip


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
        with _progress() as progress:
            model: Any = relmap.load(one.model)
            found = run(model, one.source, plan, arguments.output / name, progress=progress)
        print(f"## {name}\n\n{found}", flush=True)


if __name__ == "__main__":
    main()
