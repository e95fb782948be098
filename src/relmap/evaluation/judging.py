"""Judging one batch: every method explains it, every metric judges each explanation.

The batch is prepared once and answered once; methods share what the model said of perturbed
inputs. Whatever goes wrong with one example (a broken file, a text that is too long) is written
down in its row, and the others go on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from relmap.data.example import Example
from relmap.errors import InputError, MissingExtraError
from relmap.evaluation.plan import Plan
from relmap.evaluation.questions import Asker
from relmap.evaluation.rows import Row
from relmap.evaluation.specification import CENTRE, Specification
from relmap.explanation import explain_answered
from relmap.metrics import METRICS
from relmap.metrics.controls import centre_blob
from relmap.metrics.hiding import Subject
from relmap.metrics.trial import Curve, Measured, Trial
from relmap.metrics.word_scores import marked_words, word_scores, word_spans
from relmap.models import Model, normalisation
from relmap.request.forward_arguments import count_examples, forward_names
from relmap.request.readers import read_image
from relmap.request.request import read_request
from relmap.result.attribution import Attribution
from relmap.targets import Resolved
from relmap.targets.answers import TargetContext
from relmap.trace.argument_roles import PICTURES

__all__ = ["Numbered", "judge"]

Numbered = tuple[int, Example]
"""An example with its place in the data."""


_NONE = Specification("-")


@dataclass(eq=False)
class Batch:
    """Examples that are explained together, as the model takes them, and what it said of them."""

    numbered: Sequence[Numbered]
    arguments: dict[str, Any]
    answered: Resolved | None = None
    subject: Subject | None = None
    layouts: Attribution | None = None
    memory: dict[Any, Any] = field(default_factory=dict)

    @property
    def examples(self) -> tuple[Example, ...]:
        """The examples without their numbers."""
        return tuple(example for _, example in self.numbered)


def judge(model: Model, numbered: Sequence[Numbered], plan: Plan) -> list[Row]:
    """All rows of a batch: of each method and metric in the order of the plan.

    Rows of examples that could not be opened or prepared come first, one for each of them.
    """
    rows: list[Row] = []
    batches = list(_ready(model, numbered, rows))
    for method in plan.methods:
        for batch in batches:
            rows.extend(_judge_method(model, batch, method, plan))
    return rows


def _ready(model: Model, numbered: Sequence[Numbered], rows: list[Row]) -> Iterator[Batch]:
    """The batch with its arguments; if they cannot be made, each example by itself."""
    opened: list[Numbered] = []
    for index, example in numbered:
        try:
            opened.append((index, _opened(example)))
        except Exception as error:  # whatever a reader of somebody's files may raise
            rows.append(_failed((index, example), _NONE, _NONE, error))
    if not opened:
        return
    try:
        yield Batch(opened, _arguments(model, opened))
    except Exception as error:
        if len(opened) == 1:
            rows.append(_failed(opened[0], _NONE, _NONE, error))
            return
        for one in opened:
            yield from _ready(model, [one], rows)


def _opened(example: Example) -> Example:
    image = example.image
    ready = image is None or isinstance(image, Tensor)
    return example if ready else replace(example, image=read_image(image))


def _arguments(model: Model, numbered: Sequence[Numbered]) -> dict[str, Any]:
    given: dict[str, list[Any]] = {}
    for _, example in numbered:
        for name, value in example.inputs().items():
            given.setdefault(name, []).append(value)
    bare = model.processor is None and model.tokenizer is None
    if all(example.arguments for _, example in numbered):
        prepared = _stacked([example.arguments for _, example in numbered])
    else:
        prepared = _tensors(model, given) if bare else model.prepare(**given)
    device = next(model.network.parameters()).device
    return {
        name: value.to(device) if isinstance(value, Tensor) else value
        for name, value in prepared.items()
    }


def _stacked(arguments: Sequence[Mapping[str, Tensor]]) -> dict[str, Any]:
    """Prepared arguments of several examples as a batch; of different lengths there is none."""
    return {name: torch.stack([one[name] for one in arguments]) for name in arguments[0]}


def _tensors(model: Model, given: Mapping[str, list[Any]]) -> dict[str, Any]:
    """What a bare network takes: tensors that are prepared already, stacked."""
    names = forward_names(model.network)
    known = {"image": PICTURES, "text": ("input_ids", "src")}
    return {
        next((name for name in known[kind] if name in names), names[0]): torch.stack(values)
        for kind, values in given.items()
    }


def _judge_method(model: Model, batch: Batch, method: Specification, plan: Plan) -> list[Row]:
    """The rows of one method; if it fails on the batch, of each example by itself."""
    try:
        attribution = _explained(model, batch, method, plan)
        trial = _trial(model, batch, method, plan, attribution)
    except Exception as error:
        if isinstance(error, MissingExtraError):
            raise  # what the whole run lacks, not what is wrong with an example
        if len(batch.numbered) == 1:
            return [_failed(batch.numbered[0], method, _NONE, error)]
        singles = _singles(model, batch)
        return [row for one in singles for row in _judge_method(model, one, method, plan)]
    rows: list[Row] = []
    for metric in plan.metrics:
        rows.extend(_judge_metric(model, trial, batch, method, metric))
    return rows


def _singles(model: Model, batch: Batch) -> list[Batch]:
    """Each example as a batch of its own, prepared once for all methods."""
    if "singles" not in batch.memory:
        batch.memory["singles"] = [Batch([one], _arguments(model, [one])) for one in batch.numbered]
    return batch.memory["singles"]


def _explained(model: Model, batch: Batch, method: Specification, plan: Plan) -> Attribution:
    if method.name == CENTRE:
        return _centre(batch, _plain(model, batch, plan))
    options = dict(method.options)
    backward = options.pop("backward", None)
    asked = read_request(model, method.name, batch.arguments | options, backward)
    ((attribution, answered),) = explain_answered(asked, [_target(batch, plan)])
    batch.answered = batch.answered or answered
    batch.layouts = batch.layouts or attribution
    return attribution


def _plain(model: Model, batch: Batch, plan: Plan) -> Attribution:
    """Some attribution of the batch, whose layouts a control takes on."""
    if batch.layouts is None:
        batch.layouts = _explained(model, batch, Specification("random"), plan)
    return batch.layouts


def _centre(batch: Batch, like: Attribution) -> Attribution:
    view = like.image
    places = like.layout[view.name].patches
    assert places is not None
    blob = centre_blob(len(batch.numbered), *view.grid[-2:]).flatten(1)
    scores = torch.zeros_like(like.scores[view.name], dtype=torch.float32)
    scores[:, places.to(scores.device)] = blob.to(scores.device)
    others = {name: torch.zeros_like(one) for name, one in like.scores.items()}
    return replace(like, scores=others | {view.name: scores}, pixels={})


def _target(batch: Batch, plan: Plan) -> Any:
    """What is explained: once somebody has answered, the same choice for every method."""
    if batch.answered is not None and batch.answered.columns is not None:
        kind = batch.answered.answer.kind if batch.answered.answer else ""
        return None if kind == "pair" else batch.answered.columns.tolist()
    if plan.settings.target == "label":
        return [example.label for example in batch.examples]
    return None


def _trial(
    model: Model, batch: Batch, method: Specification, plan: Plan, attribution: Attribution
) -> Trial:
    if batch.subject is None:
        batch.subject = _subject(model, batch, plan)
    options = dict(method.options)
    backward = options.pop("backward", None)

    def explain(network: Any) -> Attribution:
        other = replace(model, network=network)
        asked = read_request(other, method.name, batch.arguments | options, backward)
        return explain_answered(asked, [_target(batch, plan)])[0][0]

    def label(choice: int) -> tuple[int, str | None]:
        return choice, (model.labels or {}).get(choice)

    def prepared(example: int) -> dict[str, Any]:
        return _singles(model, batch)[example].arguments

    again = Asker(model, method, batch.examples, attribution, prepared)
    return Trial(batch.examples, attribution, batch.subject, label, explain, again)


def _subject(model: Model, batch: Batch, plan: Plan) -> Subject:
    assert batch.answered is not None
    answer, columns = batch.answered.answer, batch.answered.columns
    if answer is None or columns is None:
        raise InputError("the model's output has no scores among which it chooses")

    def context(rows: int, arguments: Mapping[str, Any]) -> TargetContext:
        config = getattr(model.network, "config", None)
        return TargetContext(rows, arguments, config, model.labels, model.tokenizer)

    mean, deviation = normalisation(model.processor)
    subject = Subject(
        network=model.network,
        arguments=batch.arguments,
        batch=count_examples(model.network, batch.arguments),
        explained=columns,
        kind=answer.kind,
        names=tuple(example.name for example in batch.examples),
        context=context,
        mean=None if mean is None else tuple(mean),
        deviation=None if deviation is None else tuple(deviation),
        rows=plan.settings.batch_size,
    )
    subject.remember(answer)
    return subject


def _judge_metric(
    model: Model, trial: Trial, batch: Batch, method: Specification, metric: Specification
) -> list[Row]:
    entry = METRICS.get(metric.name)
    measure = _MEASURES[entry.needs[0]]
    try:
        measured = measure(model, trial, entry.function, metric)
    except MissingExtraError:
        raise
    except Exception as error:
        return [_failed(one, method, metric, error) for one in batch.numbered]
    return list(_rows(measured, batch, method, metric))


def _of_model(
    model: Model, trial: Trial, function: Callable[..., Measured], metric: Specification
) -> Measured:
    return function(trial, **metric.options)


def _of_mask(
    model: Model, trial: Trial, function: Callable[..., Any], metric: Specification
) -> Measured:
    """Each map against the mask of its example, in the geometry in which the model sees it."""
    view = trial.attribution.image
    found: list[Mapping[str, Tensor]] = []
    for at in range(len(trial.examples)):
        seen = trial.again.mask(at, view.name)
        scores = view.scores[at : at + 1].detach().cpu()
        result = {} if seen is None else function(scores, seen, **metric.options)
        found.append(result if isinstance(result, Mapping) else {metric.name: result})
    return _together(found)


def _of_words(
    model: Model, trial: Trial, function: Callable[..., Any], metric: Specification
) -> Measured:
    """The relevance of each word of a text against the words that people marked."""
    units = trial.units("text")
    found: list[Mapping[str, Tensor]] = []
    for at, example in enumerate(trial.examples):
        if not example.words or example.text is None:
            found.append({})
            continue
        words = word_spans(example.text)
        offsets = _offsets(model, example.text)
        scores = units.scores[at][~units.layout.padding[at].cpu()]
        scored = word_scores(offsets, scores, words)
        result = function(scored, marked_words(words, example.words), **metric.options)
        found.append({name: torch.tensor([float(one)]) for name, one in result.items()})
    return _together(found)


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


_MEASURES: dict[str, Callable[..., Measured]] = {
    "model": _of_model,
    "mask": _of_mask,
    "words": _of_words,
}


def _together(found: Sequence[Mapping[str, Tensor]]) -> Measured:
    """One number for each example by quantity; NaN for examples that could not be judged."""
    names = dict.fromkeys(name for one in found for name in one)
    blank = torch.tensor([float("nan")])
    return {name: torch.cat([one.get(name, blank).double() for one in found]) for name in names}


def _rows(
    measured: Measured, batch: Batch, method: Specification, metric: Specification
) -> Iterator[Row]:
    for quantity, values in measured.items():
        if isinstance(values, list):
            for one, text in zip(batch.numbered, values, strict=True):
                yield replace(_row(one, method, metric, quantity), detail=text)
            continue
        curve = isinstance(values, Curve)
        steps = values.steps if curve else (None,)
        table = values.values if curve else values[:, None]
        for one, line in zip(batch.numbered, table.tolist(), strict=True):
            for step, value in zip(steps, line, strict=True):
                known = None if value != value else float(value)
                yield _row(one, method, metric, quantity, step, known)


def _row(
    numbered: Numbered, method: Specification, metric: Specification, quantity: str = "",
    step: float | None = None, value: float | None = None, error: str | None = None,
) -> Row:  # fmt: skip
    index, example = numbered
    return Row(
        index, example.name, method.name, method.settings, metric.name, metric.settings, quantity,
        step, value, error,
    )  # fmt: skip


def _failed(
    numbered: Numbered, method: Specification, metric: Specification, error: Exception
) -> Row:
    said = " ".join(f"{type(error).__name__}: {error}".split())
    return _row(numbered, method, metric, error=said)
