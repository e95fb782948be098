"""Evidence: do explanations of right answers about scenes lie on what the answers depend on?

    python benchmarks/evidence.py demo:a-vqa SCENES --count 500 --output table.md

SCENES is a folder that `relmap scenes` wrote. For every method: the pointing game and the energy
of the patches on the mask of the evidence objects, and the recall of evidence words, which is the
share of the words that carry the question among as many of the most relevant words. Beside them
stand random relevance and, for pictures, a blob at the centre. Wrong answers are left out: what
they depend on is not known. Means with the 95 % percentile interval of a bootstrap over questions.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from localisation import Run, interval, parse_variant
from torch import Tensor

import relmap
from relmap.data import DATA
from relmap.data.scenes import SceneEvidence
from relmap.errors import RelmapError
from relmap.methods import METHODS
from relmap.metrics import METRICS
from relmap.metrics.controls import centre_blob, random_map
from relmap.train.evaluation import spread

RANDOM_DRAWS = 20
BATCH = 32


@dataclass
class Hits:
    """One number per right answer, or why a method gave none."""

    pointing: list[float] = field(default_factory=list)
    energy: list[float] = field(default_factory=list)
    words: list[float] = field(default_factory=list)
    refusal: str = ""


def evidence_tokens(one: SceneEvidence, tokenizer: Any, length: int) -> Tensor:
    """Which tokens of the padded question touch a word that carries it."""
    offsets = tokenizer(one.question.text, return_offsets_mapping=True)["offset_mapping"]
    found = torch.zeros(length, dtype=torch.bool)
    for token, (start, end) in enumerate(offsets):
        found[token] = any(start < stop and begin < end for begin, stop in one.words)
    return found


def word_recall(scores: Tensor, hidden: Tensor, wanted: Tensor) -> list[float]:
    """For each question the share of its evidence tokens among as many of the best tokens."""
    found = []
    for row, left_out, evidence in zip(scores, hidden, wanted, strict=True):
        evidence = evidence & ~left_out
        best = row.masked_fill(left_out, -torch.inf).topk(int(evidence.sum())).indices
        found.append(evidence[best].double().mean().item())
    return found


def add_controls(hits: Mapping[str, Hits], maps: Tensor, masks: Tensor, seed: int) -> None:
    """Random maps (the mean of several) and a blob at the centre, for these pictures."""
    blob = centre_blob(len(masks), *masks.shape[1:])
    hits["centre blob"].pointing += pointing(blob, masks)
    hits["centre blob"].energy += energy(blob, masks)
    draws = [
        random_map(len(masks), maps.shape[1], maps.shape[2], seed=seed * RANDOM_DRAWS + draw)
        for draw in range(RANDOM_DRAWS)
    ]
    for name, measured in (("pointing", pointing), ("energy", energy)):
        values = torch.tensor([measured(draw, masks) for draw in draws])
        getattr(hits["random control"], name).extend(values.mean(0).tolist())


def add_random_words(hits: Hits, hidden: Tensor, wanted: Tensor) -> None:
    """What a random ranking of the words recalls on average: their share."""
    for left_out, evidence in zip(hidden, wanted, strict=True):
        hits.words.append((evidence & ~left_out).sum().item() / (~left_out).sum().item())


def pointing(maps: Tensor, masks: Tensor) -> list[float]:
    """The pointing game, without tolerance."""
    return METRICS.get("pointing-game").function(maps, masks, tolerance=0.0).tolist()


def energy(maps: Tensor, masks: Tensor) -> list[float]:
    """The share of positive relevance inside."""
    return METRICS.get("energy").function(maps, masks).tolist()


def answers_of(model: Any, batch: Sequence[SceneEvidence]) -> list[str]:
    """What the model answers."""
    images = [one.question.open_image() for one in batch]
    inputs = model.prepare(image=images, text=[one.question.text for one in batch])
    with torch.no_grad():
        chosen = model.network(**inputs).logits.argmax(-1)
    return [model.labels[int(index)] for index in chosen]


def measure(samples: Sequence[SceneEvidence], runs: Sequence[Run], model: Any) -> dict[str, Hits]:
    """Every method on every right answer that rests on something."""
    hits = {name: Hits() for name in ("random control", "centre blob", *(r.name for r in runs))}
    for number, start in enumerate(range(0, len(samples), BATCH)):
        batch = samples[start : start + BATCH]
        said = answers_of(model, batch)
        right = [
            (one, answer)
            for one, answer in zip(batch, said, strict=True)
            if one.objects and one.question.answers.get(answer, 0) > 0
        ]
        if right:
            _measure_batch(hits, runs, model, [one for one, _ in right], number)
    return hits


def _measure_batch(
    hits: Mapping[str, Hits],
    runs: Sequence[Run],
    model: Any,
    batch: Sequence[SceneEvidence],
    number: int,
) -> None:
    inputs = {
        "image": [one.question.open_image() for one in batch],
        "text": [one.question.text for one in batch],
    }
    masks = torch.stack([mask for one in batch if (mask := one.open_mask()) is not None])
    controls = False
    for run in runs:
        found = hits[run.name]
        if found.refusal:
            continue
        try:
            result = relmap.explain(model, method=run.method, **inputs, **run.options)
        except RelmapError as error:
            found.refusal = str(error)
            continue
        maps, text = result.image.scores.float(), result.text
        length = text.scores.shape[1]
        layout = result.layout[text.name]
        hidden = layout.special | layout.padding
        wanted = torch.stack([evidence_tokens(one, model.tokenizer, length) for one in batch])
        found.pointing += pointing(maps, masks)
        found.energy += energy(maps, masks)
        found.words += word_recall(text.scores, hidden, wanted)
        if not controls:
            controls = True
            add_controls(hits, maps, masks, number)
            add_random_words(hits["random control"], hidden, wanted)


def table(hits: Mapping[str, Hits]) -> str:
    """As Markdown: controls first, then by falling energy."""

    def cell(values: Sequence[float]) -> str:
        if not values:
            return ""
        low, high = interval(values)
        return f"{sum(values) / len(values):.3f} [{low:.3f}, {high:.3f}]"

    def order(item: tuple[str, Hits]) -> tuple[bool, float]:
        name, found = item
        mean = sum(found.energy) / max(len(found.energy), 1)
        return name not in ("random control", "centre blob"), -mean

    lines = ["| method | pointing game | energy | evidence words | n |", "|---|---|---|---|---|"]
    for name, found in sorted(hits.items(), key=order):
        cells = [cell(found.pointing), cell(found.energy), cell(found.words)]
        lines.append(f"| {name} | {found.refusal or ' | '.join(cells)} | {len(found.pointing)} |")
    return "\n".join(lines)


def main(words: Sequence[str] | None = None) -> None:
    """Loads, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", help="demo:a-vqa, demo:b-vqa or the folder of a CLIPmapper")
    parser.add_argument("scenes", type=Path, help="a folder that `relmap scenes` wrote")
    parser.add_argument("--split", default="test")
    parser.add_argument("--count", type=int, help="questions, spread over the split")
    parser.add_argument("--variant", action="append", default=[], help="method:option=value")
    parser.add_argument("--output", type=Path, help="also write the table to this file")
    given = parser.parse_args(words)
    samples = DATA.get("scenes").function(given.scenes, split=given.split)
    if given.count:
        samples = [samples[row] for row in spread(len(samples), given.count)]
    runs = [Run(METHODS.get(name).name) for name in METHODS.names()]
    runs += [parse_variant(text) for text in given.variant]
    text = table(measure(samples, runs, relmap.load(given.model)))
    print(text)
    if given.output:
        given.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
