"""A first look: the model that comes with relmap answers questions about scenes, and says why.

Scenes are drawn from the held-out world, in which every picture has a pair of colour and shape
that the model was never shown. What an answer depends on is known there, so each explanation is
told beside its truth: the share of its relevance that lies on the evidence.
"""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from clipmapper.scenes import KINDS, SceneQuestion, ask, draw_masks, draw_scene, sample_siblings
from relmap import explain
from relmap.errors import InputError
from relmap.metrics import METRICS
from relmap.models import Model, load

if TYPE_CHECKING:
    from PIL.Image import Image

    from relmap import Attribution

__all__ = ["DemoAnswer", "DemoScene", "demo_scenes", "run_demo"]

_SEED = 20  # any number: the scenes of the demo are the same every time


@dataclass(frozen=True, eq=False)
class DemoScene:
    """A picture, a question about it, and where its evidence lies."""

    picture: Image
    question: SceneQuestion
    evidence: torch.Tensor  # Bool[height width]


@dataclass(frozen=True, eq=False)
class DemoAnswer:
    """What the model said about a scene, and why.

    Attributes:
        scene: What was asked.
        answer: What the model answered.
        explanation: The relevance of patches and words for that answer.
        on_evidence: Share of the patches' relevance that lies on the evidence.
        by_chance: Share of the picture that the evidence covers.
        picture: The file with the explanation, if pictures were wanted.
    """

    scene: DemoScene
    answer: str
    explanation: Attribution
    on_evidence: float
    by_chance: float
    picture: Path | None


def demo_scenes(count: int, seed: int = _SEED) -> Iterator[DemoScene]:
    """Scenes with a question each, every kind in turn; the same for the same seed.

    Example:
        >>> [scene.question.kind for scene in demo_scenes(2)]
        ['colour', 'shape']
    """
    from PIL import Image

    random = np.random.default_rng(seed)
    asked: Counter[tuple[str, str, str]] = Counter()
    kinds = list(KINDS)
    found = 0
    while found < count:
        scene = sample_siblings(random, held_out=True)[0]
        question = ask(scene, kinds[found % len(kinds)], random, asked)
        if question is None or not question.evidence:
            continue
        found += 1
        evidence = draw_masks(scene)[list(question.evidence)].any(0)
        yield DemoScene(Image.fromarray(draw_scene(scene)), question, torch.from_numpy(evidence))


def run_demo(
    output: Path | None,
    *,
    model: str | Model = "demo",
    count: int = 5,
    method: str = "wra",
    seed: int = _SEED,
) -> Iterator[DemoAnswer]:
    """Asks the model about scenes, one answer at a time; pictures go into `output`.

    Raises:
        InputError: There is no such model or method, or `output` cannot be a folder.
    """
    if importlib.util.find_spec("matplotlib") is None:
        output = None
    if output is not None:
        try:
            output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"no pictures can be written into {str(output)!r}: {error.strerror or error}"
            ) from error
    loaded = load(model) if isinstance(model, str) else model
    for number, scene in enumerate(demo_scenes(count, seed), start=1):
        answer = _answer(loaded, scene)
        given = {"image": scene.picture, "text": scene.question.text}
        result = explain(loaded, target=answer, method=method, **given)
        path = None
        if output is not None:
            path = output / f"{number:02d}-{scene.question.kind}.png"
            result.save(path)
        inside = _on_evidence(result, scene.evidence)
        chance = scene.evidence.double().mean().item()
        yield DemoAnswer(scene, answer, result, inside, chance, path)


@torch.no_grad()
def _answer(model: Model, scene: DemoScene) -> str:
    output = model.network(**model.prepare(image=scene.picture, text=scene.question.text))
    logits = getattr(output, "logits", None)
    if model.labels is None or logits is None or logits.ndim != 2:
        raise InputError(f"{model.name} answers no questions: the demo asks those that do")
    return model.labels[int(logits[0].argmax())]


def _on_evidence(result: Attribution, evidence: torch.Tensor) -> float:
    energy = METRICS.get("energy").function
    return float(energy(result.image.scores.float(), evidence[None]))
