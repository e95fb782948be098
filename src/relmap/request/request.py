"""What a call asks for, and its targets followed back: the way in that all verbs share.

A call names a model, its inputs and a method with options in one list of keywords; `read_request`
tells them apart. `following` then records one forward pass and follows one target after another
back to the tokens, so that several numbers of one output cost one forward pass.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from relmap.backwards import Backward
from relmap.backwards.operation_rules import BackwardContext, BackwardMode
from relmap.errors import InputError
from relmap.methods import METHODS, MethodEntry, Need
from relmap.models import Model, describe, pictures
from relmap.relevance.gradients import copy_output, follow_each
from relmap.relevance.needs import reads_graph
from relmap.relevance.rows import RecordedPass
from relmap.request.compatibility import choose_backward
from relmap.request.forward_arguments import complete, count_examples, forward_names
from relmap.request.layouts import lay_out, mark_padding
from relmap.result.layout import Layout
from relmap.targets import Resolved, Target, TargetContext, resolve
from relmap.targets.frozen_choices import Choices
from relmap.trace import Recorded, Replay, recording
from relmap.trace.graph import TokenGraph
from relmap.trace.recorder import Recorder, Run
from relmap.trace.tracing import check_network

FRIENDLY = ("image", "text", "audio")
_VALUES = {Need.JOIN_GRADIENT, Need.STREAM_GRADIENT}


@dataclass(frozen=True, eq=False)
class Request:
    """A model with its arguments, and a method with its settings.

    `given` are the inputs as the user gave them, `arguments` those of the forward made of them;
    `settings` are all options of the method, `chosen` names those that the user gave, `backward`
    says what every operation passes back.
    """

    model: Model
    given: Mapping[str, Any]
    arguments: dict[str, Any]
    entry: MethodEntry
    settings: dict[str, Any]
    chosen: tuple[str, ...]
    backward: Backward

    def drawn(self) -> dict[str, Any]:
        """What drawing can use of the inputs: the pictures as the model saw them, the sound."""
        inputs = {
            "image": pictures(self.model, self.arguments), "audio": self.given.get("audio")
        }  # fmt: skip
        return {name: value for name, value in inputs.items() if value is not None}


@dataclass(frozen=True, eq=False)
class Followed:
    """One target, followed back to the tokens, and what these are."""

    resolved: Resolved
    passed: RecordedPass
    layouts: dict[str, Layout]


def read_request(
    model: Any, method: str, inputs: Mapping[str, Any], backward: str | Backward | None = None,
    named: Mapping[str, Any] | None = None,
) -> Request:  # fmt: skip
    """Tell the inputs of a model from the options of a method, and make both ready.

    `named` are inputs for sure, whatever else has their names. The method may bring options and its
    backward along, as "wra:weights=equal,backward=libra".

    Raises:
        InputError: an input, option or name cannot be used; the message says what can.
    """
    described = describe(model)
    check_network(described.network)
    entry, written = METHODS.read(method, ("backward",))
    chosen = choose_backward(entry, _only("backward", backward, written.pop("backward", None)))
    given, options = _separate(described, entry.name, inputs)
    given = _with_named(described, given, named or {})
    options = {
        name: _only(name, options.get(name), written.get(name)) for name in (*options, *written)
    }
    arguments = _arguments(described, given)
    settings = _settings(entry.name, options)
    return Request(described, given, arguments, entry, settings, tuple(options), chosen)


def _only(name: str, given: Any, written: Any) -> Any:
    """The value of an option that is given beside the method or behind its name, not both."""
    if given is not None and written is not None and given != written:
        raise InputError(f"{name!r} is given twice: {given!r}, and {written!r} behind the method")
    return written if given is None else given


@contextmanager
def following(
    asked: Request, targets: Sequence[Any], needs: Sequence[str]
) -> Iterator[Iterator[Followed]]:
    """Record the model once; the targets come back one by one while the block lasts.

    Raises:
        InputError: a target does not fit the output.
        TraceError: the network cannot be explained exactly.
    """
    keep_values = bool(_VALUES & set(needs))
    backward_contexts: list[BackwardContext] = []

    def intercept(recorder: Recorder) -> Run:
        mode = BackwardMode(asked.backward, recorder)
        backward_contexts.append(mode.context)
        open_until.callback(mode.context.close)
        return mode.run

    rules = intercept if asked.backward.rules else None
    with ExitStack() as open_until, recording(
        asked.model.network, asked.arguments, keep_values, rules, Need.BIAS_GRADIENT in needs,
        Need.REPLAY in needs, reads_graph(needs),
    ) as recorded:  # fmt: skip
        copied = copy_output(recorded.output)
        with torch.enable_grad():
            first, values = _read_function(targets[0], copied.output)
            context = _context(asked, recorded.inputs, values)
            meant = [first, *targets[1:]]
            readers = [Choices(partial(resolve, target, context=context)) for target in meant]
            resolved = [reader.read(copied.output) for reader in readers]
        last = backward_contexts[-1] if backward_contexts else None  # of the pass that counts
        passes = follow_each(recorded, copied, [answer.values for answer in resolved], needs, last)
        yield _followed(asked, recorded, passes, resolved, readers)


def _followed(
    asked: Request, recorded: Recorded, passes: Iterator[RecordedPass],
    resolved: Sequence[Resolved], readers: Sequence[Choices],
) -> Iterator[Followed]:  # fmt: skip
    known: TokenGraph | None = None
    layouts: dict[str, Layout] = {}
    for request, passed, reader in zip(resolved, passes, readers, strict=True):
        graph = passed.graph
        if graph is not known:
            known, layouts = graph, lay_out(asked.model, graph, asked.arguments)
        padding = mark_padding(graph, layouts)
        passed = replace(passed, padding=padding, given=asked.arguments, method=asked.entry.name)
        if recorded.tape is not None:
            again = Replay(recorded.network, recorded.tape, partial(_values, reader))
            passed = replace(passed, replayed=again)
        yield Followed(request, passed, layouts)


def _values(reader: Choices, output: Any) -> Tensor:
    resolved: Resolved = reader.read(output)
    return resolved.values


def _separate(
    model: Model, method: str, inputs: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tell the inputs of the model from the options of the method.

    Raises:
        InputError: a keyword is neither, or both; inputs of both kinds were mixed.
    """
    forward = forward_names(model.network)
    entry = METHODS.get(method)
    options = {**entry.options, **dict.fromkeys(entry.renamed)}
    friendly = [name for name in FRIENDLY if name not in forward or _prepares(model)]
    given: dict[str, Any] = {}
    chosen: dict[str, Any] = {}
    for name, value in inputs.items():
        more = isinstance(value, Tensor) and _takes_any(model)
        is_input = name in forward or name in friendly or more
        if name in options and is_input:
            raise InputError(
                f"{name!r} is an input of {model.name} and an option of {method}: "
                + _known(forward, friendly, options)
            )
        if name in options:
            chosen[name] = value
        elif is_input:
            given[name] = value
        else:
            raise InputError(
                f"{name!r} is neither an input of {model.name} nor an option of {method}: "
                + _known(forward, friendly, options)
            )
    return given, entry.now_called(chosen)


def _with_named(model: Model, given: dict[str, Any], named: Mapping[str, Any]) -> dict[str, Any]:
    """Inputs, and those that were given by name in a dictionary."""
    for name in named:
        if name in given:
            raise InputError(f"{name!r} is given twice, once of it in inputs=")
    forward = forward_names(model.network)
    wrong = [name for name in named if name not in (*forward, *FRIENDLY)]
    if wrong and not _takes_any(model):
        known = _known(forward, list(FRIENDLY), {})
        raise InputError(f"{wrong[0]!r} in inputs= is no input of {model.name}: {known}")
    return {**given, **named}


def _known(forward: tuple[str, ...], friendly: list[str], options: Mapping[str, Any]) -> str:
    return (
        f"inputs are {', '.join(forward) or 'any keyword'} (or {', '.join(friendly) or 'none'}); "
        f"options are {', '.join(options) or 'none'}."
    )


def _prepares(model: Model) -> bool:
    """Whether the model came with its own preprocessing: then the friendly names win."""
    return model.processor is not None or model.tokenizer is not None


def _takes_any(model: Model) -> bool:
    kinds = [p.kind for p in inspect.signature(model.network.forward).parameters.values()]
    return inspect.Parameter.VAR_KEYWORD in kinds


def _arguments(model: Model, given: Mapping[str, Any]) -> dict[str, Any]:
    forward = forward_names(model.network)
    friendly = {
        name: value for name, value in given.items()
        if name in FRIENDLY and (name not in forward or _prepares(model))
    }  # fmt: skip
    if not given:
        raise InputError(
            f"There is nothing to explain: give {model.name} its inputs "
            f"({', '.join(forward)}), or image=, text=, audio=."
        )
    if friendly and len(friendly) < len(given):
        others = ", ".join(name for name in given if name not in friendly)
        raise InputError(
            f"{', '.join(friendly)} and the forward's own {others} cannot be mixed: give one kind."
        )
    if friendly:
        return model.prepare(**friendly)
    return complete(model.network, given)


def _settings(method: str, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Every option of the method, with the value it has.

    Raises:
        InputError: a value is of the wrong type, or none of those allowed.
    """
    typed = METHODS.get(method).check_options(chosen)
    return {
        name: typed.get(name, parameter.default)
        for name, parameter in METHODS.options(method).items()
    }


def _read_function(target: Any, output: Any) -> tuple[Any, Any]:
    """A target function's values, and a target that gives them again; others are left alone.

    How many values there are says how many examples, which has to be known before any target is
    read. The function itself runs once on the output: it may count, print or take long.
    """
    if not callable(target) or isinstance(target, Target):
        return target, None
    choices = Choices(target)
    values = choices.read(output)

    def read(result: Any) -> Any:
        return values if result is output else choices.read(result)

    read.__name__ = getattr(target, "__name__", type(target).__name__)
    return read, values


def _context(asked: Request, tagged: Mapping[str, Tensor], values: Any) -> TargetContext:
    model = asked.model
    return TargetContext(
        batch=_batch(asked, tagged, values),
        inputs=asked.arguments,
        config=getattr(model.network, "config", None),
        labels=model.labels,
        tokenizer=model.tokenizer,
    )


def _batch(asked: Request, tagged: Mapping[str, Tensor], values: Any) -> int:
    """Examples in the batch: what a target function returns, or the size of the main input."""
    sizes = {axis for tensor in tagged.values() for axis in tensor.shape[:2]}
    if isinstance(values, Tensor) and values.ndim == 1 and len(values) in sizes:
        return len(values)
    return count_examples(asked.model.network, asked.arguments)
