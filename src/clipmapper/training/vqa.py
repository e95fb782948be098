"""Training a CLIPmapper to answer questions: VQA as soft classification over frequent answers."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from clipmapper.answers import choose_vocabulary, main_answer, read_vocabulary
from clipmapper.model import CLIPmapperForQuestionAnswering
from clipmapper.training.course import make_course
from clipmapper.training.evaluation import answer, score_answers, spread
from clipmapper.training.examples import (
    Examples,
    FeatureSource,
    question_examples,
    read_questions,
    reserve,
)
from clipmapper.training.recipe import Recipe
from clipmapper.training.run import Run, build_model, feature_source, open_output
from clipmapper.training.session import finish, train
from clipmapper.training.start import fit_projections
from clipmapper.training.trainer import make_arguments
from relmap.data import Question
from relmap.errors import InputError
from relmap.files import write_whole

__all__ = ["train_vqa"]


def train_vqa(run: Run) -> dict[str, Any]:
    """Trains a CLIPmapper on questions, writes model, log and card, and returns the results.

    The loss is binary cross-entropy with soft targets over the answers that are frequent enough
    (Teney et al., CVPR 2018; Huang et al., MM Asia 2023, section 4). A run that was killed goes on
    when it is started again; one that was finished returns its results.

    Raises:
        InputError: Settings, recipe, data or models cannot be used; the message says why.
        MissingExtraError: accelerate is not installed.
    """
    from transformers import set_seed

    recipe = run.read_recipe("vqa")
    settings = run.settings(recipe)
    if (found := open_output(run.output, settings)) is not None:
        return found
    arguments = make_arguments(run, recipe)
    splits = read_splits(run, recipe)
    training = splits.pop("")
    vocabulary = _vocabulary(run, recipe, training, arguments.should_save)
    set_seed(run.seed)
    labels = dict(enumerate(vocabulary))
    model = build_model(CLIPmapperForQuestionAnswering, run, recipe, labels).to(arguments.device)
    source = feature_source(model, run)
    course = make_course(recipe, [one.kind for one in training], seed=run.seed, samples=run.samples)
    examples = question_examples(training, vocabulary, source)
    if run.init is None:
        fit_projections(model, examples)
    if recipe.training.prior and run.init is None:
        _set_prior(model, examples, recipe.training.loss)
    watched = _watched(recipe, splits, vocabulary, source)
    journal = train(run, recipe, model, arguments, examples.following(course), watched)
    scores = {
        split: _evaluate(model, questions, question_examples(questions, vocabulary, source))
        for split, questions in splits.items()
        if split in recipe.data.test
    }
    return finish(run, recipe, model, source, journal, len(examples), scores)


def read_splits(run: Run, recipe: Recipe) -> dict[str, list[Question]]:
    """The questions of each split, those that are trained on under the empty name.

    Questions that are set aside stand under "reserved", their ids in reserved.json.

    Raises:
        InputError: A split cannot be read.
    """
    part = recipe.data
    form = run.format or part.format
    parts = [read_questions(form, run.data, split) for split in part.train]
    splits: dict[str, list[Question]] = {}
    if part.reserve:
        parts[-1], splits["reserved"] = reserve(parts[-1], part.reserve, part.reserve_seed)
        about = {
            "split": part.train[-1],
            "seed": part.reserve_seed,
            "ids": [question.name for question in splits["reserved"]],
        }
        write_whole(run.output / "reserved.json", json.dumps(about, indent=1).encode())
    wanted = {*part.test, *([part.watch] if part.watch else [])}
    if "reserved" in wanted and not part.reserve:
        raise InputError(f"recipe {recipe.name} tests on reserved questions, but reserves none")
    for split in sorted(wanted - {"reserved"}):
        splits[split] = read_questions(form, run.data, split)
    return splits | {"": [question for one in parts for question in one]}


def _vocabulary(run: Run, recipe: Recipe, questions: Sequence[Question], writes: bool) -> list[str]:
    if run.answers is not None:
        chosen = read_vocabulary(run.answers)
    else:
        chosen = choose_vocabulary(
            [main_answer(question.humans) or question.answers for question in questions],
            at_least=recipe.data.at_least,
        )[: recipe.data.answers]
    if writes:
        write_whole(run.output / "vocabulary.json", json.dumps(chosen, indent=0).encode())
    return chosen


def _set_prior(model: Any, examples: Examples, loss: str) -> None:
    """Starts the head where it would be if it saw nothing: at the answers' log-odds."""
    if examples.targets is None:
        raise ValueError("only questions have targets")
    mean = examples.targets.mean().clamp(1e-4, 1 - 1e-4).to(model.device)
    with torch.no_grad():
        model.head.bias.copy_(torch.logit(mean) if loss == "binary" else mean.log())


def _watched(
    recipe: Recipe,
    splits: Mapping[str, list[Question]],
    vocabulary: Sequence[str],
    source: FeatureSource,
) -> Any:
    """What looks at the watched split along the way; None if nothing is to be watched."""
    split = recipe.data.watch or next(iter(recipe.data.test), None)
    if not split or not recipe.training.evaluate_every:
        return None
    questions = splits[split]
    if not any(question.answers for question in questions):
        raise InputError(
            f"recipe {recipe.name} watches the split {split!r}, but its answers are not public"
        )
    rows = spread(len(questions), recipe.training.evaluate_limit)
    chosen = [questions[row] for row in rows]
    return functools.partial(
        _look,
        questions=chosen,
        examples=question_examples(questions, vocabulary, source),
        rows=rows,
    )


def _look(
    model: Any, questions: Sequence[Question], examples: Examples, rows: Any
) -> dict[str, Any]:
    found = score_answers(questions, answer(model, examples, rows))
    kinds = {kind: round(one["accuracy"], 4) for kind, one in found["by_kind"].items()}
    return {"accuracy": round(found["accuracy"], 4), **kinds}


def _evaluate(model: Any, questions: Sequence[Question], examples: Examples) -> dict[str, Any]:
    if not any(question.answers for question in questions):  # not public: 0 would be a lie
        return {"questions": len(questions)}
    return score_answers(questions, answer(model, examples))
