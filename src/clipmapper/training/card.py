"""The model card: what a model was trained on and how, and what it can do, beside its weights."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from clipmapper.training.recipe import Recipe
from clipmapper.training.run import Run
from relmap.files import write_whole

__all__ = [
    "command",
    "make_card",
    "markdown_table",
    "minutes_of_training",
    "name_versions",
    "score_notes",
    "score_rows",
    "versions",
    "write_card",
    "write_results",
]

PIPELINES = {"vqa": "visual-question-answering", "captions": "image-to-text"}
PACKAGES = ("relmap", "torch", "transformers", "accelerate", "numpy")


def write_card(run: Run, recipe: Recipe, results: Mapping[str, Any]) -> None:
    """Writes the card and the results of a mapper beside its weights."""
    task = {"vqa": "questions about pictures", "captions": "captions of pictures"}[recipe.task]
    card = make_card(
        f"CLIPmapper-{run.mapper.upper()} for {task}",
        [f"Recipe `{recipe.name}`. {' '.join(recipe.about.split())}", *_control(run)],
        results["command"],
        [*_facts(run, results), "", *_scores(results["scores"])],
        {"pipeline_tag": PIPELINES[recipe.task], "tags": ["clipmapper", "relmap"]},
    )
    write_results(run.output, card, results)


def make_card(
    title: str,
    about: Iterable[str],
    command: str,
    tables: Iterable[str],
    model: Mapping[str, Any] | None = None,
) -> str:
    """A card: what it is about, the command that made it, and tables of what came out.

    `model` is what the Hub reads of a model (its task and tags) before the text.
    """
    text = "\n".join([f"# {title}", "", *about, "", "```", command, "```", "", *tables])
    if model is None:
        return text
    from huggingface_hub import ModelCard, ModelCardData

    about_model = ModelCardData(library_name="transformers", **model)
    return str(ModelCard(f"---\n{about_model.to_yaml()}\n---\n{text}"))


def write_results(folder: Path, card: str, results: Mapping[str, Any]) -> None:
    """Writes README.md and results.json, each whole."""
    write_whole(folder / "README.md", card.encode())
    write_whole(folder / "results.json", (json.dumps(results, indent=1) + "\n").encode())


def versions() -> dict[str, str]:
    """Versions of what trained the model."""
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"python": platform.python_version()} | found


def name_versions(results: Mapping[str, Any]) -> str:
    """The versions that results were made with, in a row."""
    return ", ".join(f"{name} {version}" for name, version in results["versions"].items())


def minutes_of_training(results: Mapping[str, Any]) -> str:
    """How long a training took, and on what."""
    return f"{results['minutes']:.1f} on {results['machine']}"


def command() -> str:
    """The command that is running, as it could be typed again."""
    name = Path(sys.argv[0]).name
    shown = "relmap" if name in ("relmap", "__main__.py") else name
    return shlex.join([shown, *sys.argv[1:]])


def markdown_table(heads: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> list[str]:
    """The lines of a Markdown table, its first column of words and the rest of numbers."""
    rule = ["---", *["---:"] * (len(heads) - 1)]
    return [f"| {' | '.join(row)} |" for row in (heads, rule, *rows)]


def _control(run: Run) -> list[str]:
    if run.blind is None:
        return []
    seen = {"image": "the question alone", "question": "the picture alone"}[run.blind]
    return ["", f"**This is a control.** It was shown {seen}, and shows what a model can guess."]


def _facts(run: Run, results: Mapping[str, Any]) -> list[str]:
    facts = {
        "data": f"{Path(run.data).absolute().name} ({results['settings']['format']}), "
        f"{results['examples']} examples",
        "frozen encoders": Path(run.clip).name if Path(run.clip).is_dir() else run.clip,
        "trained parameters": f"{results['parameters']:,}",
        "samples seen": f"{results['samples']:,} in {results['steps']:,} steps",
        "seed": str(run.seed),
        "minutes of training": minutes_of_training(results),
        "versions": name_versions(results),
    }
    return markdown_table(("", ""), iter(facts.items()))


def score_rows(found: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """The rows of a table of scores: of answers with their numbers, or of captions."""
    if "accuracy" not in found:
        for name, value in found.items():
            if isinstance(value, str):  # a note
                continue
            yield name, str(value) if isinstance(value, int) else f"{value:.2f}"
        return
    yield "all", f"{100 * found['accuracy']:.2f} %", str(found["questions"])
    for part in ("by_kind", "by_answer_type"):
        for name, one in found[part].items():
            shown = f"answer: {name}" if part == "by_answer_type" else name
            yield shown, f"{100 * one['accuracy']:.2f} %", str(one["questions"])


def score_notes(found: Mapping[str, Any]) -> Iterator[str]:
    """What has to be known to compare the scores, as paragraphs."""
    if "rule" in found:
        yield from (f"Accuracy: {found['rule']}.", "")
    if "clip-score" in found:
        judge = found.get("judge", "the frozen CLIP that the model stands on")
        yield from (f"CLIPScore: by {judge}; values of different CLIPs do not compare.", "")


def _scores(scores: Mapping[str, Any]) -> Iterator[str]:
    for split, found in scores.items():
        heads = ("questions", "accuracy", "number") if "accuracy" in found else ("score", "")
        yield f"## Split {split}"
        yield ""
        yield from markdown_table(heads, score_rows(found))
        yield ""
        yield from score_notes(found)
