"""A trained CLIPmapper measured on a split of a data set, and its answers in official forms."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from clipmapper.model import CLIPmapperForCaptioning, CLIPmapperForQuestionAnswering
from clipmapper.training.captions import written_captions
from clipmapper.training.evaluation import answer, score_answers, score_captions
from clipmapper.training.examples import (
    FeatureSource,
    question_examples,
    read_captions,
    read_questions,
)
from clipmapper.training.recipe import Training
from clipmapper.training.run import Run, check_device, feature_source, quietly, require_extra
from clipmapper.vqa_accuracy import write_submission
from relmap.errors import InputError
from relmap.files import write_whole
from relmap.scoring import scores_here
from relmap.scoring.clip_score import ClipScorer

__all__ = ["Measurement", "measure_captions", "measure_vqa"]


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What `relmap score` is told: a model's folder, data, split, and where the answers go.

    `submission` is written in the form that the evaluation servers of VQA and COCO take; `clip` is
    the folder or Hub id of a CLIP that judges captions as well.
    """

    model: Path
    data: Path
    split: str
    format: str | None = None
    cache: Path | None = None
    submission: Path | None = None
    device: str | None = None
    workers: int = 0
    beams: int = 1
    clip: str | None = None


def measure_vqa(given: Measurement) -> dict[str, Any]:
    """The accuracy of a model by kind of question; None where the answers are not public.

    Raises:
        InputError: The model or the data cannot be read.
        MissingExtraError: accelerate is not installed.
    """
    model, source, about = _load(CLIPmapperForQuestionAnswering, given)
    form = given.format or about.get("format") or "vqa-v2"
    questions = read_questions(form, given.data, given.split)
    names = [model.config.id2label[index] for index in range(model.config.num_labels)]
    said = answer(model, question_examples(questions, names, source))
    if given.submission is not None:
        write_submission(given.submission, [question.name for question in questions], said)
    if not any(question.answers for question in questions):
        return {"questions": len(questions)}
    return score_answers(questions, said)


def measure_captions(given: Measurement) -> dict[str, Any]:
    """The scores of a model's captions, every one that can be computed here.

    Raises:
        InputError: The model or the data cannot be read.
        MissingExtraError: accelerate is not installed.
    """
    model, source, about = _load(CLIPmapperForCaptioning, given)
    judge = None if given.clip is None else _judge(given.clip, model.device)
    form = given.format or about.get("format") or "coco-captions"
    images = read_captions(form, given.data, given.split)
    training = Training(batch_size=1, learning_rate=1.0, beams=given.beams)
    said = written_captions(model, images, source, training)
    if given.submission is not None:
        pairs = zip(images, said, strict=True)
        entries = [{"image_id": image.image_id, "caption": text} for image, text in pairs]
        write_whole(given.submission, json.dumps(entries).encode())
    found = {"captions": len(said)} | score_captions(images, said, scores_here(), judge)
    return found if given.clip is None else found | {"judge": given.clip}


def _judge(clip: str, device: torch.device) -> ClipScorer:
    """A CLIP that judges captions, with what prepares its inputs."""
    from transformers import AutoTokenizer, CLIPModel
    from transformers.models.auto.image_processing_auto import AutoImageProcessor

    try:
        with quietly():
            loaded: Any = CLIPModel.from_pretrained(clip, output_loading_info=True)
        parts = SimpleNamespace(
            image_processor=AutoImageProcessor.from_pretrained(clip),
            tokenizer=AutoTokenizer.from_pretrained(clip),
        )
    except (OSError, ValueError) as error:
        raise InputError(f"no CLIP can be read from {clip!r}: {error}") from error
    model, report = loaded
    if report["missing_keys"]:  # transformers would make them up
        raise InputError(f"{clip!r} holds no CLIP: {min(report['missing_keys'])} is missing")
    return ClipScorer(model.to(device).eval(), parts)


def _load(kind: type[Any], given: Measurement) -> tuple[Any, FeatureSource, Mapping[str, Any]]:
    """The model, its features, and what run.json says of it, if it was trained here."""
    require_extra()
    check_device(given.device)
    if not given.model.is_dir():
        raise InputError(f"there is no model folder {given.model}")
    try:
        with quietly():
            model = kind.from_pretrained(given.model)
    except (OSError, ValueError) as error:
        raise InputError(f"no CLIPmapper can be read from {given.model}: {error}") from error
    device = given.device or ("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device).eval()
    path = given.model / "run.json"
    about = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    run = Run(
        data=given.data,
        clip=str(given.model),  # a model brings its tokenizer and image processor
        mapper=model.config.mapper,
        recipe="",
        output=given.model,
        cache=given.cache,
        blind=about.get("blind"),
        workers=given.workers,
    )
    return model, feature_source(model, run), about
