"""Judging one batch: every method explains it, every metric judges each explanation.

The batch is prepared once and answered once; methods share what the model said of perturbed
inputs. Whatever goes wrong with one example (a broken file, a text that is too long, a label that
is no class) is written down in its row, and the others go on. What nobody refused but something
raised is a bug: the first row of each kind in a batch keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from relmap.data.example import Example
from relmap.errors import InputError, MissingExtraError, RelmapError
from relmap.evaluation.bugs import describe_bug
from relmap.evaluation.measuring import measure
from relmap.evaluation.plan import Plan
from relmap.evaluation.questions import Asker
from relmap.evaluation.rows import Row, first_of_each_bug
from relmap.evaluation.specification import CENTRE, Specification
from relmap.explanation import explain_answered
from relmap.metrics.controls import centre_blob
from relmap.metrics.hiding import Subject
from relmap.metrics.trial import Curve, Measured, Trial
from relmap.models import Model, normalisation
from relmap.request.forward_arguments import count_examples, forward_names
from relmap.request.readers import read_image
from relmap.request.request import read_request
from relmap.result.attribution import Attribution
from relmap.targets import Resolved, choose_one
from relmap.targets.answers import TargetContext
from relmap.trace.argument_roles import PICTURES

__all__ = ["Numbered", "judge"]

Numbered = tuple[int, Example]
"""An example with its place in the data."""


_NONE = Specification("-")


@dataclass(eq=False)
class Batch:
    """Examples that are explained together, as the model takes them, and what it said of them.

    `answered` is what the first method heard, whose choice all explain; `said` what each method
    heard. What is measured of a method depends on no other, so that one may be added later.
    """

    numbered: Sequence[Numbered]
    arguments: dict[str, Any]
    answered: Resolved | None = None
    said: dict[str, Resolved] = field(default_factory=dict)
    memory: dict[Any, Any] = field(default_factory=dict)

    @property
    def examples(self) -> tuple[Example, ...]:
        """The examples without their numbers."""
        return tuple(example for _, example in self.numbered)


def judge(
    model: Model,
    numbered: Sequence[Numbered],
    plan: Plan,
    known: Collection[tuple[str, str]] = (),
) -> list[Row]:
    """All rows of a batch: of each method and metric in the order of the plan.

    Pairs of a method and a metric that are `known` are left out. Rows of examples that could not be
    opened or prepared come first, one for each of them.
    """
    rows: list[Row] = []
    batches = list(_ready(model, _with_target(numbered, plan, rows), rows))
    for method in plan.methods:
        wanted = [one for one in plan.metrics if (str(method), str(one)) not in known]
        for batch in batches if wanted else ():
            rows.extend(_judge_method(model, batch, method, replace(plan, metrics=tuple(wanted))))
    return first_of_each_bug(rows)


def _with_target(numbered: Sequence[Numbered], plan: Plan, rows: list[Row]) -> list[Numbered]:
    """The examples that have what is to be explained: the label, where that is the target."""
    if plan.settings.target != "label":
        return list(numbered)
    for unlabelled in numbered:
        if unlabelled[1].label is None:
            error = InputError("it has no label, which target='label' would explain")
            rows.append(_failed(unlabelled, _NONE, _NONE, error))
    return [labelled for labelled in numbered if labelled[1].label is not None]


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
        rows.extend(_judge_metric(model, trial, batch, method, metric, plan))
    return rows


def _singles(model: Model, batch: Batch) -> list[Batch]:
    """Each example as a batch of its own, prepared once for all methods."""
    if "singles" not in batch.memory:
        batch.memory["singles"] = [Batch([one], _arguments(model, [one])) for one in batch.numbered]
    return batch.memory["singles"]


def _explained(model: Model, batch: Batch, method: Specification, plan: Plan) -> Attribution:
    if method.name == CENTRE:
        plain = _explained(model, batch, Specification("random"), plan)  # for its layouts
        batch.said[CENTRE] = batch.said["random"]
        return _centre(batch, plain)
    options = dict(method.options)
    backward = options.pop("backward", None)
    asked = read_request(model, method.name, batch.arguments | options, backward)
    ((attribution, answered),) = explain_answered(asked, [_target(batch, plan)])
    batch.answered = batch.answered or answered
    batch.said[str(method)] = answered
    return attribution


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
    subject = _subject(model, batch, batch.said[str(method)], plan)
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

    def right(wanted: int | str) -> int:
        answer = batch.said[str(method)].answer
        assert answer is not None  # or there was no subject
        return choose_one(wanted, answer, _context(model, 1, batch.arguments))

    again = Asker(model, method, batch.examples, attribution, prepared)
    return Trial(batch.examples, attribution, subject, label, right, explain, again)


def _context(model: Model, rows: int, arguments: Mapping[str, Any]) -> TargetContext:
    config = getattr(model.network, "config", None)
    return TargetContext(rows, arguments, config, model.labels, model.tokenizer)


def _subject(model: Model, batch: Batch, said: Resolved, plan: Plan) -> Subject:
    answer, columns = said.answer, said.columns
    if answer is None or columns is None:
        raise InputError("the model's output has no scores among which it chooses")
    mean, deviation = normalisation(model.processor)
    subject = Subject(
        network=model.network,
        arguments=batch.arguments,
        batch=count_examples(model.network, batch.arguments),
        explained=columns,
        kind=answer.kind,
        names=tuple(example.name for example in batch.examples),
        context=partial(_context, model),
        mean=None if mean is None else tuple(mean),
        deviation=None if deviation is None else tuple(deviation),
        rows=plan.settings.batch_size,
        hidden=batch.memory.setdefault("hidden", {}),
    )
    subject.remember(answer)
    return subject


def _judge_metric(
    model: Model, trial: Trial, batch: Batch, method: Specification, metric: Specification,
    plan: Plan,
) -> list[Row]:  # fmt: skip
    try:
        measured, errors = measure(model, trial, metric)
    except MissingExtraError:
        raise
    except Exception as error:
        if len(batch.numbered) == 1:
            return [_failed(batch.numbered[0], method, metric, error)]
        return _judged_alone(model, batch, method, metric, plan)
    wrong = [
        _failed(batch.numbered[at], method, metric, error) for at, error in sorted(errors.items())
    ]
    return [*_rows(measured, batch, method, metric, set(errors)), *wrong]


def _judged_alone(
    model: Model, batch: Batch, method: Specification, metric: Specification, plan: Plan
) -> list[Row]:
    """The rows of a metric that failed on the batch: of each example by itself."""
    rows: list[Row] = []
    for alone in _singles(model, batch):
        try:
            attribution = _explained(model, alone, method, plan)
            trial = _trial(model, alone, method, plan, attribution)
        except MissingExtraError:
            raise
        except Exception as error:
            rows.append(_failed(alone.numbered[0], method, metric, error))
        else:
            rows.extend(_judge_metric(model, trial, alone, method, metric, plan))
    return rows


def _rows(
    measured: Measured, batch: Batch, method: Specification, metric: Specification, wrong: set[int]
) -> Iterator[Row]:
    """A row for each number, but of examples that something was wrong with."""
    able = [at for at in range(len(batch.numbered)) if at not in wrong]
    for quantity, values in measured.items():
        if isinstance(values, list):
            for at in able:
                yield replace(_row(batch.numbered[at], method, metric, quantity), detail=values[at])
            continue
        curve = isinstance(values, Curve)
        steps = values.steps if curve else (None,)
        table = (values.values if curve else values[:, None]).tolist()
        for at in able:
            one, line = batch.numbered[at], table[at]
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
    row = _row(numbered, method, metric, error=said)
    return row if isinstance(error, RelmapError) else replace(row, detail=describe_bug(error))
