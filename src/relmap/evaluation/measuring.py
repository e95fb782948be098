"""What a metric is given: the whole trial, or one map and what it is held against.

A metric of masks or of words judges one example at a time, so that a mask which cannot be opened
costs its own example and no other. A metric that asks the model judges the batch as a whole, which
spares forward passes; where that fails, `judging` gives it each example as a batch of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from relmap.errors import InputError, MissingExtraError
from relmap.evaluation.specification import Specification
from relmap.metrics import METRICS, Judged
from relmap.metrics.trial import Measured, Trial
from relmap.metrics.word_scores import marked_words, word_scores, word_spans
from relmap.models import Model

__all__ = ["measure"]

Errors = dict[int, Exception]
"""What went wrong with single examples of a batch, by their place in it."""


def measure(model: Model, trial: Trial, metric: Specification) -> tuple[Measured, Errors]:
    """What a metric says of a batch, and of which examples it could say nothing.

    Raises:
        Exception: Whatever the metric raises, where it judges the batch as a whole.
        MissingExtraError: What the whole run lacks.
    """
    entry = METRICS.get(metric.name)
    (needs,) = entry.needs
    if needs == Judged.MODEL:
        return entry.function(trial, **metric.options), {}
    judge = _of_mask if needs == Judged.MASK else _of_words
    found: list[Mapping[str, Tensor]] = []
    errors: Errors = {}
    for at in range(len(trial.examples)):
        try:
            found.append(judge(model, trial, at, entry.function, metric))
        except MissingExtraError:
            raise
        except Exception as error:  # of this example: a file of somebody's, or a metric's own
            found.append({})
            errors[at] = error
    return _together(found), errors


def _of_mask(
    model: Model, trial: Trial, at: int, function: Callable[..., Any], metric: Specification
) -> Mapping[str, Tensor]:
    """A map against the mask of its example, in the geometry in which the model sees it."""
    view = trial.attribution.image
    seen = trial.again.mask(at, view.name)
    if seen is None:
        return {}
    result = function(view.scores[at : at + 1].detach().cpu(), seen, **metric.options)
    return result if isinstance(result, Mapping) else {metric.name: result}


def _of_words(
    model: Model, trial: Trial, at: int, function: Callable[..., Any], metric: Specification
) -> Mapping[str, Tensor]:
    """The relevance of each word of a text against the words that people marked."""
    units, example = trial.units("text"), trial.examples[at]
    if not example.words or example.text is None:
        return {}
    words = word_spans(example.text)
    offsets = _offsets(model, example.text)
    scores = units.scores[at][~units.layout.padding[at].cpu()]
    scored = word_scores(offsets, scores, words)
    result = function(scored, marked_words(words, example.words), **metric.options)
    return {name: torch.tensor([float(value)]) for name, value in result.items()}


def _offsets(model: Model, text: str) -> list[tuple[int, int]]:
    """Where each token of a text begins and ends in it.

    Raises:
        InputError: The tokenizer does not say.
    """
    tokenizer = model.tokenizer
    if tokenizer is None or not getattr(tokenizer, "is_fast", False):
        raise InputError(
            "words are found by the offsets of a fast tokenizer, which this model lacks"
        )
    return list(tokenizer(text, return_offsets_mapping=True)["offset_mapping"])


def _together(found: Sequence[Mapping[str, Tensor]]) -> Measured:
    """One number for each example by quantity; NaN for examples that could not be judged."""
    names = dict.fromkeys(name for numbers in found for name in numbers)
    blank = torch.tensor([float("nan")])
    return {
        name: torch.cat([numbers.get(name, blank).double() for numbers in found]) for name in names
    }
