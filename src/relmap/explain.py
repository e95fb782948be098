"""explain: one call from a model and its inputs to an attribution.

Feed the network, record its forward pass, compute the target, follow it back, let the method
distribute relevance, and lay the scores out by source. Everything that varies is an argument; this
file only puts the parts in their order.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

from relmap.algebra import wide
from relmap.arguments import complete, count_examples, forward_names
from relmap.attribution import Attribution
from relmap.backwards import BACKWARDS
from relmap.errors import InputError
from relmap.gradients import copy_output, follow_back
from relmap.methods import METHODS
from relmap.models import Model, describe, pictures
from relmap.propagate import RecordedPass
from relmap.record import recording
from relmap.record.passes import check_network
from relmap.reporting import lay_out, mark_padding, provenance
from relmap.targets import Target, TargetContext, resolve

DEFAULT_METHOD = "genatt"
"""The method that `explain` uses if none is named."""

FRIENDLY = ("image", "text", "audio")


def explain(
    model: Any,
    *,
    target: Any = None,
    method: str = DEFAULT_METHOD,
    backward: str | None = None,
    **inputs: Any,
) -> Attribution:
    """The relevance of every input token for one number of a model's output.

    `model` is a torch module, a transformers pipeline, or what `relmap.load` returns. `inputs` are
    the forward's own arguments (a processor's dict works), or `image=`, `text=`, `audio=`; options
    of the method go beside them (`start_layer=1`). `target` says what is explained: nothing (the
    model's own choice), a class, a label, a list with one for each example, a registered target, or
    a function from the output to a tensor (batch,). The model is left as it was.

    Raises:
        InputError: an input, option, target or name cannot be used; the message says what can.
        TraceError: the network cannot be explained exactly; the message names the operation.

    Example:
        >>> import torch, relmap
        >>> network = torch.nn.TransformerEncoderLayer(8, 2, batch_first=True)
        >>> read = lambda output: output[:, 0, 3]
        >>> relmap.explain(network, src=torch.randn(2, 5, 8), target=read).scores["src"].shape
        torch.Size([2, 5])
    """
    described = describe(model)
    check_network(described.network)
    entry = METHODS.get(method)
    _check_backward(backward, entry.name)
    given, options = _separate(described, entry.name, inputs)
    arguments = _arguments(described, given)
    settings = _settings(entry.name, options)
    values = {"join-gradient", "stream-gradient"} & set(entry.needs)
    with recording(described.network, arguments, bool(values)) as recorded:
        copied = copy_output(recorded.output)
        context = _context(described, arguments, recorded.inputs, target, copied.output)
        with torch.enable_grad():
            resolved = resolve(target, copied.output, context)
        passed = follow_back(recorded, copied, resolved.values, entry.needs)
        layouts = lay_out(described, passed.graph, arguments)
        passed = RecordedPass(
            passed.graph, passed.readout, passed.gradients, mark_padding(passed.graph, layouts)
        )
        with torch.no_grad():
            relevance = entry.function(passed, **settings)
    scores = {
        name: _scores(relevance, source.state, source.tokens, passed)
        for name, source in zip(layouts, passed.graph.sources, strict=True)
    }
    drawn = {"image": pictures(described, arguments), "audio": given.get("audio")}
    return Attribution(
        scores=scores,
        layout=layouts,
        target=resolved.names,
        prediction=resolved.prediction,
        meta=provenance(described, passed.graph, entry.name, settings, list(options)),
        inputs={name: value for name, value in drawn.items() if value is not None},
    )


def _scores(
    relevance: Mapping[int, Tensor], state: int, tokens: Tensor, passed: RecordedPass
) -> Tensor:
    """Relevance of a source as (batch, token)."""
    found = relevance.get(state)
    if found is None:
        value = wide(passed.graph.attentions[0].value[:0])
        return torch.zeros(tokens.shape, dtype=value.dtype, device=value.device)
    places = tokens.to(found.device)
    return torch.where(places >= 0, found[places.clamp_min(0)], 0)


def _separate(
    model: Model, method: str, inputs: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tell the inputs of the model from the options of the method.

    Raises:
        InputError: a keyword is neither, or both; inputs of both kinds were mixed.
    """
    forward = forward_names(model.network)
    options = METHODS.options(method)
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
    return given, chosen


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
    hints = get_type_hints(METHODS.get(method).function)
    for name, value in chosen.items():
        _check_option(method, name, value, hints.get(name, Any))
    return {
        name: chosen.get(name, parameter.default)
        for name, parameter in METHODS.options(method).items()
    }


def _check_option(method: str, name: str, value: Any, hint: Any) -> None:
    if get_origin(hint) is Literal and value not in get_args(hint):
        allowed = ", ".join(map(repr, get_args(hint)))
        raise InputError(f"{method}: {name}={value!r} is not one of {allowed}")
    plain = hint in (bool, int, float, str)
    wrong = not isinstance(value, (int, float) if hint is float else hint) if plain else False
    if wrong or (hint in (int, float) and isinstance(value, bool)):
        raise InputError(f"{method}: {name}={value!r} is not of type {hint.__name__}")


def _check_backward(backward: str | None, method: str) -> None:
    if backward is None:
        return
    found = BACKWARDS.get(backward)
    if found.name != "gradient":
        raise InputError(f"{method} does not work with the backward {found.name!r}.")


def _context(
    model: Model, arguments: Mapping[str, Any], tagged: Mapping[str, Tensor], target: Any,
    output: Any,
) -> TargetContext:  # fmt: skip
    return TargetContext(
        batch=_batch(model, arguments, tagged, target, output),
        inputs=arguments,
        config=getattr(model.network, "config", None),
        labels=model.labels,
        tokenizer=model.tokenizer,
    )


def _batch(
    model: Model, arguments: Mapping[str, Any], tagged: Mapping[str, Tensor], target: Any,
    output: Any,
) -> int:  # fmt: skip
    """Examples in the batch: what a target function returns, or the size of the main input."""
    sizes = {axis for tensor in tagged.values() for axis in tensor.shape[:2]}
    if callable(target) and not isinstance(target, Target):
        with torch.no_grad():
            values = target(output)
        if isinstance(values, Tensor) and values.ndim == 1 and len(values) in sizes:
            return len(values)
    return count_examples(model.network, arguments)
