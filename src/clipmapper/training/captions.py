"""Training a CLIPmapper to write captions, word by word."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
from jaxtyping import Int

from clipmapper.model import CLIPmapperForCaptioning
from clipmapper.training.course import make_course
from clipmapper.training.evaluation import describe, score_captions, spread
from clipmapper.training.examples import FeatureSource, caption_examples, pictures_of, read_captions
from clipmapper.training.recipe import Training
from clipmapper.training.run import Run, build_model, feature_source, open_output
from clipmapper.training.session import finish, train
from clipmapper.training.start import fit_projections
from clipmapper.training.trainer import make_arguments
from relmap.data import CaptionedImage
from relmap.errors import InputError
from relmap.scoring import find_score, scores_here
from relmap.scoring.clip_score import CLIP_SCORES, ClipScorer

__all__ = ["evaluate_captions", "train_captions", "written_captions"]


def train_captions(run: Run) -> dict[str, Any]:
    """Trains a CLIPmapper on captions, writes model, log and card, and returns the results.

    The loss is the cross-entropy of each next word, averaged over words (Huang et al., MM Asia
    2023, section 4). A run that was killed goes on when it is started again; one that was finished
    returns its results.

    Raises:
        InputError: Settings, recipe, data or models cannot be used; the message says why.
        MissingExtraError: accelerate is not installed.
    """
    from transformers import set_seed

    recipe = run.read_recipe("captions")
    if run.blind == "question" or run.answers is not None:
        raise InputError("captions answer no question: --blind question and --answers are for vqa")
    for name in recipe.training.scores or ():
        if name not in CLIP_SCORES:
            find_score(name)  # refuse before the long part, not after it
    settings = run.settings(recipe)
    if (found := open_output(run.output, settings)) is not None:
        return found
    arguments = make_arguments(run, recipe)
    form = run.format or recipe.data.format
    training = [
        image for split in recipe.data.train for image in read_captions(form, run.data, split)
    ]
    watched = recipe.data.watch or next(iter(recipe.data.test), None)
    splits = {
        split: read_captions(form, run.data, split)
        for split in {*recipe.data.test, *([watched] if watched else [])}
    }
    set_seed(run.seed)
    model = build_model(CLIPmapperForCaptioning, run, recipe, None).to(arguments.device)
    source = feature_source(model, run)
    examples = caption_examples(training, source)
    if run.init is None:
        fit_projections(model, examples)
    course = make_course(recipe, ["caption"] * len(examples), seed=run.seed, samples=run.samples)
    look = None
    if watched and recipe.training.evaluate_every:
        rows = spread(len(splits[watched]), recipe.training.evaluate_limit)
        look = functools.partial(
            evaluate_captions,
            images=splits[watched],
            source=source,
            training=recipe.training,
            rows=rows,
        )
    journal = train(run, recipe, model, arguments, examples.following(course), look)
    scores = {
        split: evaluate_captions(model, splits[split], source, recipe.training)
        for split in recipe.data.test
    }
    return finish(run, recipe, model, source, journal, len(examples), scores)


def evaluate_captions(
    model: Any,
    images: Sequence[CaptionedImage],
    source: FeatureSource,
    training: Training,
    rows: Int[np.ndarray, " n"] | None = None,
) -> dict[str, Any]:
    """The scores of a model's captions, times 100; of some pictures only those that are quick."""
    from accelerate import PartialState

    captions = written_captions(model, images, source, training, rows)
    found: dict[str, Any] = {"captions": len(captions)}
    if not PartialState().is_main_process:  # some scores start a program of gigabytes
        return found
    if rows is not None:
        return found | score_captions([images[row] for row in rows], captions)
    wanted = training.scores or [*scores_here(), *CLIP_SCORES]
    texts = [name for name in wanted if name not in CLIP_SCORES]
    judge = own_judge(source) if len(texts) < len(wanted) else None
    scores = score_captions(images, captions, texts, judge)
    shown = (name for name in scores if name in wanted)
    return found | {name: scores[name] for name in shown}


def own_judge(source: FeatureSource) -> ClipScorer:
    """The frozen CLIP that a CLIPmapper stands on, as a judge of captions."""
    encoders = source.encoders
    parts = SimpleNamespace(image_processor=encoders.processor, tokenizer=encoders.tokenizer)
    return ClipScorer(encoders.clip, parts)


def written_captions(
    model: Any,
    images: Sequence[CaptionedImage],
    source: FeatureSource,
    training: Training,
    rows: Int[np.ndarray, " n"] | None = None,
) -> list[str]:
    """The captions that a model writes for pictures, or for some of them."""
    pictures, places = pictures_of([image.image for image in images], source)
    return describe(
        model,
        pictures,
        source.encoders.tokenizer,
        places if rows is None else places[rows],
        beams=training.beams,
        max_new_tokens=training.max_new_tokens,
    )
