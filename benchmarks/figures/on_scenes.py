"""What the figures share: the shipped CLIPmappers, questions of a scenes folder, one evaluation."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import relmap
from clipmapper.formats.scenes import SceneEvidence
from relmap.data import DATA
from relmap.evaluation import Evaluation, Settings, Source

RIVALS = ("random", "raw-attention", "rollout", "genatt", "wra")
IMAGE, TEXT = "perturbation:preset=wra-image", "perturbation:preset=wra-text"


def arguments(about: str, count: int) -> argparse.Namespace:
    """SCENES OUTPUT --count N --split val: what every figure is called with."""
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scenes", type=Path, help="folder that `relmap scenes` wrote")
    parser.add_argument("output", type=Path, help="folder for the figure and its numbers")
    parser.add_argument("--count", type=int, default=count, help="questions or pictures")
    parser.add_argument("--split", default="val")
    parser.add_argument("--mapper", default="", help="a or b, where a figure has both")
    return parser.parse_args()


def perturbation(
    model: str, given: argparse.Namespace, methods: Sequence[str], metrics: Sequence[str], name: str
) -> Evaluation:
    """The WRA paper's perturbation tests on questions about scenes; prints the tables."""
    found = relmap.evaluate(
        model,
        Source(given.scenes, "scenes", {"split": given.split}),
        methods,
        metrics,
        output=given.output / name,
        settings=Settings(batch_size=50, limit=given.count, reference="wra"),
    )
    print(f"## {name}: {model}, {given.count} questions of {given.split}\n\n{found}")
    return found


def questions(given: argparse.Namespace, kinds: Sequence[str]) -> list[SceneEvidence]:
    """The first question of each kind that rests on an object, each about another picture."""
    found: list[SceneEvidence] = []
    seen: set[object] = set()
    for kind in kinds:
        for one in DATA.get("scenes").function(given.scenes, split=given.split):
            question = one.question
            if question.kind == kind and one.objects and question.image_id not in seen:
                seen.add(question.image_id)
                found.append(one)
                break
    return found
