"""The middle and the end of every training run, whatever is trained."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from typing import Any

import torch
from transformers import TrainingArguments

from clipmapper.training.card import command, versions, write_card
from clipmapper.training.examples import Examples, FeatureSource
from clipmapper.training.journal import Journal
from clipmapper.training.recipe import Recipe
from clipmapper.training.run import Run, last_checkpoint, quietly, save_model
from clipmapper.training.trainer import make_trainer

__all__ = ["finish", "machine", "train"]


def train(
    run: Run,
    recipe: Recipe,
    model: Any,
    arguments: TrainingArguments,
    examples: Examples,
    look: Callable[[Any], Mapping[str, Any]] | None,
) -> Journal:
    """Trains a model on examples that follow a course, from the last checkpoint if there is one."""
    if examples.course is None:
        raise ValueError("examples to train on follow a course")
    journal = Journal(run.output, examples.course, recipe.training, look)
    trainer = make_trainer(model, arguments, examples, recipe, [journal])
    checkpoint = last_checkpoint(run.output)
    if checkpoint is not None:
        journal.resume(checkpoint)
    with quietly():
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    return journal


def finish(
    run: Run,
    recipe: Recipe,
    model: Any,
    source: FeatureSource,
    journal: Journal,
    examples: int,
    scores: Mapping[str, Any],
) -> dict[str, Any]:
    """Writes the model, its card and its results, which are returned."""
    from accelerate import PartialState

    course = journal.course
    results = {
        "command": command(),
        "settings": run.settings(recipe),
        "examples": examples,
        "parameters": sum(one.numel() for one in model.parameters() if one.requires_grad),
        "steps": course.steps,
        "samples": len(course),
        "minutes": round(journal.minutes, 2),
        "machine": machine(),
        "versions": versions(),
        "scores": dict(scores),
    }
    state = PartialState()
    if state.is_main_process:
        save_model(model, source.encoders, run.output)
        write_card(run, recipe, results)
        journal.finish()
    state.wait_for_everyone()
    return results


def machine() -> str:
    """What trained, for the card."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    threads = torch.get_num_threads()
    return f"{platform.machine()}, {threads} thread{'s' if threads > 1 else ''}"
