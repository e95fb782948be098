"""How good a CLIPmapper is: the share of right answers by kind of question, the scores of captions.

Both read cached features, spread over the processes there are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int

from clipmapper.training.examples import Examples
from clipmapper.training.features import PictureStates
from clipmapper.vqa_accuracy import FEWEST, PUBLISHED_RULE, vqa_accuracy
from relmap.data import CaptionedImage, Question
from relmap.scoring import captions as scoring
from relmap.scoring.clip_score import ClipScorer

__all__ = ["QUICK", "answer", "describe", "score_answers", "score_captions", "spread"]

BATCH = 256
QUICK = ("cider", "bleu-4", "rouge-l")
"""Caption scores that cost nothing, for looks along the way."""


def spread(count: int, limit: int) -> Int[np.ndarray, " n"]:
    """At most `limit` of `count` rows, evenly spread.

    Example:
        >>> spread(10, 4).tolist()
        [0, 3, 6, 9]
    """
    return np.unique(np.rint(np.linspace(0, count - 1, min(limit, count))).astype(np.int64))


def answer(model: Any, examples: Examples, rows: Int[np.ndarray, " n"] | None = None) -> list[str]:
    """The most probable answer of each question."""
    wanted = np.arange(len(examples)) if rows is None else rows

    def answers(part: Int[np.ndarray, "_"]) -> list[str]:
        batch = examples.__getitems__(part.tolist())
        batch.pop("labels")
        inputs = {name: value.to(model.device) for name, value in batch.items()}
        best = model(**inputs).logits.argmax(-1).tolist()
        return [model.config.id2label[index] for index in best]

    return _on_all_processes(model, wanted, answers)


def describe(
    model: Any,
    pictures: PictureStates,
    tokenizer: Any,
    rows: Int[np.ndarray, " n"] | None = None,
    *,
    beams: int = 1,
    max_new_tokens: int = 40,
) -> list[str]:
    """The caption that the model writes for each picture, by beam search or greedily."""
    places = model.config.clip_config.text_config.max_position_embeddings
    longest = min(max_new_tokens, places - 1)  # the begin token has a place too

    def captions(part: Int[np.ndarray, "_"]) -> list[str]:
        begin = torch.full((len(part), 1), model.config.bos_token_id, device=model.device)
        written = model.generate(
            begin,
            attention_mask=torch.ones_like(begin),
            image_states=pictures.take(part).to(model.device),
            num_beams=beams,
            do_sample=False,
            max_new_tokens=longest,
        )
        return [text.strip() for text in tokenizer.batch_decode(written, skip_special_tokens=True)]

    wanted = np.arange(len(pictures)) if rows is None else rows
    return _on_all_processes(model, wanted, captions)


def score_answers(questions: Sequence[Question], answers: Sequence[str]) -> dict[str, Any]:
    """Mean accuracy over all questions, and by kind and by type of answer.

    It is the official accuracy where enough people answered, else the soft target of the answer;
    `rule` says which.
    """
    official = _all_judged(questions)
    scores = answer_scores(questions, answers)
    by_kind: dict[str, list[float]] = defaultdict(list)
    by_type: dict[str, list[float]] = defaultdict(list)
    for question, score in zip(questions, scores, strict=True):
        by_kind[question.kind].append(score)
        by_type[question.answer_type].append(score)
    return {
        "questions": len(questions),
        "accuracy": float(np.mean(scores)),
        "rule": PUBLISHED_RULE if official else "the soft target of the answer given",
        "by_kind": _means(by_kind),
        "by_answer_type": _means(by_type),
    }


def score_captions(
    images: Sequence[CaptionedImage],
    captions: Sequence[str],
    scores: Sequence[str] = QUICK,
    judge: ClipScorer | None = None,
) -> dict[str, float]:
    """Caption scores of a data set, as papers print them: BLEU-4, CIDEr, ... times 100.

    With a CLIP that judges, CLIPScore and RefCLIPScore are among them.
    """
    references = [image.captions for image in images]
    # the tokeniser without Java along the way, that of published numbers at the end
    tokeniser = "plain" if scores == QUICK else "auto"
    found = scoring.score_captions(captions, references, scores, tokeniser=tokeniser)
    shown = {name: 100 * score.overall for name, score in found.items()}
    if judge is not None:
        both = judge.score_both([image.image for image in images], captions, references)
        shown |= {name: 100 * values.double().mean().item() for name, values in both.items()}
    return shown


def answer_scores(questions: Sequence[Question], answers: Sequence[str]) -> list[float]:
    """How far each answer is right, from 0 to 1."""
    if _all_judged(questions):
        return vqa_accuracy(answers, [question.humans for question in questions]).tolist()
    return [
        question.answers.get(said, 0.0) for question, said in zip(questions, answers, strict=True)
    ]


def _all_judged(questions: Sequence[Question]) -> bool:
    """Whether enough people answered every question for the official accuracy."""
    return all(len(question.humans) >= FEWEST for question in questions)


def _means(parts: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    return {
        name: {"accuracy": float(np.mean(scores)), "questions": len(scores)}
        for name, scores in sorted(parts.items())
    }


def _on_all_processes(
    model: Any, rows: Int[np.ndarray, "_"], act: Callable[[Int[np.ndarray, "_"]], list[str]]
) -> list[str]:
    """What `act` says of each row, batch by batch, every process doing its share of the batches."""
    from accelerate import PartialState
    from accelerate.utils import gather_object

    state = PartialState()
    batches = list(_batches(rows))
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            mine = [
                (number, act(batches[number]))
                for number in range(state.process_index, len(batches), state.num_processes)
            ]
    finally:
        model.train(was_training)
    found = dict(gather_object(mine) if state.num_processes > 1 else mine)
    return [said for number in range(len(batches)) for said in found[number]]


def _batches(rows: Int[np.ndarray, "_"]) -> Iterator[Int[np.ndarray, "_"]]:
    for start in range(0, len(rows), BATCH):
        yield rows[start : start + BATCH]
