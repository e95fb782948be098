"""explain: one call from a model and its inputs to an attribution.

Feed the network, record its forward pass, compute the target, follow it back, let the method
distribute relevance, and lay the scores out by source. Everything that varies is an argument; this
file only puts the parts in their order.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from relmap.backwards import Backward
from relmap.errors import InputError, RelmapError, TraceError
from relmap.methods import METHODS
from relmap.relevance.attention_maps import wide
from relmap.relevance.rows import RecordedPass
from relmap.request.compatibility import choose_backward
from relmap.request.layouts import provenance
from relmap.request.request import Followed, Request, following, read_request
from relmap.result.attribution import Attribution
from relmap.result.comparison import Comparison
from relmap.targets import Resolved

DEFAULT_METHOD = "genatt"
"""The method that `explain` uses if none is named."""

DEFAULT_BACKWARD = "libra"
"""Its backward then, for 1.1 times the price: in docs/results.md truer or as true."""


def explain(
    model: Any,
    *,
    target: Any = None,
    method: str | None = None,
    backward: str | Backward | None = None,
    inputs: Any = None,
    **given: Any,
) -> Attribution:
    """The relevance of every input token for one number of a model's output.

    `model` is a torch module, a transformers pipeline, or what `relmap.load` returns. Given are the
    forward's own arguments (a processor's dict works), or `image=`, `text=`, `audio=`; options of
    the method go beside them (`start_layer=1`). An argument whose name is taken (`target`, say)
    goes into a dictionary, `inputs={"target": ...}`. `backward` says what operations pass back, by
    name ("reslrp:gamma=3") or as `relmap.backwards.deep_taylor()`; None is the method's own.
    `method` takes options that way, too ("wra:weights=equal,backward=libra"). Without either,
    `genatt` is computed with `libra`; a network with an operation that `libra` has no rule for is
    explained with the plain gradient, and a warning says so. `method="genatt"` is the published
    method. `target` says what is explained: nothing (the model's own choice), a class, a label, a
    list with one for each example, a registered target, or a function from the output to a tensor
    (batch,).
    The model is left as it was.

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
    named: Mapping[str, Any] = inputs if isinstance(inputs, Mapping) else {}
    if inputs is not None and not isinstance(inputs, Mapping):
        given["inputs"] = inputs  # the forward has an argument of this name
    if method is None and backward is None:
        asked = read_request(model, DEFAULT_METHOD, given, DEFAULT_BACKWARD, named)
        return _by_default(asked, target)
    asked = read_request(model, method or DEFAULT_METHOD, given, backward, named)
    (found,) = explain_each(asked, [target])
    return found


def _by_default(asked: Request, target: Any) -> Attribution:
    """The default method and backward, or without the latter where it does not fit the network.

    Whether it does is found out once for a network and inputs of the same names and shapes.
    """
    known = _KNOWN.setdefault(asked.model.network, {})
    shapes = _shapes(asked.arguments)
    plainly = replace(asked, backward=choose_backward(asked.entry, None))
    result: Attribution | None = None
    if known.get(shapes) is None:
        try:
            result = explain_each(asked, [target])[0]
        except TraceError as error:
            known[shapes] = str(error)
    if result is None:
        (result,) = explain_each(plainly, [target])
        warnings.warn(
            f"explained by {DEFAULT_METHOD} with the plain gradient, since {DEFAULT_BACKWARD} does "
            f"not go through this network ({known[shapes]}); method={DEFAULT_METHOD!r} says that "
            "you want it so",
            stacklevel=3,
        )
        return result
    hidden = result.meta["explained_attentions"] < result.meta["attentions"]
    if hidden and shapes not in known:
        # Attention that acts through the scores of another one only is hidden where softmax is
        # taken for constant. The plain gradient sees it, and refuses such a network.
        explain_each(plainly, [target])
        known[shapes] = None
    return result


_KNOWN: WeakKeyDictionary[nn.Module, dict[Hashable, str | None]] = WeakKeyDictionary()
"""Of networks and shapes of inputs: why the default backward does not fit; None where it does."""


def _shapes(arguments: Mapping[str, Any]) -> Hashable:
    return tuple(
        (name, tuple(value.shape), value.dtype)
        if isinstance(value, Tensor)
        else (name, repr(value))
        for name, value in sorted(arguments.items())
    )


def compare(
    model: Any,
    methods: str | Sequence[str] | None = None,
    *,
    backward: str | None = None,
    target: Any = None,
    progress: Callable[[str], None] | None = None,
    inputs: Any = None,
    **given: Any,
) -> Comparison:
    """The same prediction explained by several methods, by all of them if none are named.

    All of them are the default of `relmap.explain` and every method with its own backward.

    `backward`, `target`, `inputs` and what is given are those of `relmap.explain`; a method takes
    options behind its name, "wra:weights=equal", and keeps its defaults without. `progress` is
    called with the name of each method before it runs.

    Raises:
        InputError: There is no such method, or none of them can explain the model.

    Example:
        >>> import torch
        >>> network = torch.nn.TransformerEncoderLayer(8, 2, batch_first=True)
        >>> read = lambda output: output[:, 0, 3]
        >>> both = compare(network, ["genatt", "rollout"], src=torch.randn(1, 5, 8), target=read)
        >>> list(both.found), both.refused
        (['genatt', 'rollout'], {})
    """
    listed = [methods] if isinstance(methods, str) else list(methods or ())
    names = [_canonical(name) for name in listed] or all_methods(backward)
    if inputs is not None:
        given["inputs"] = inputs
    found: dict[str, Attribution] = {}
    refused: dict[str, str] = {}
    for name in names:
        if progress is not None:
            progress(name)
        try:
            found[name] = explain(model, target=target, method=name, backward=backward, **given)
        except RelmapError as error:
            refused[name] = str(error)
    if not found:
        reasons = "; ".join(dict.fromkeys(refused.values()))
        raise InputError(f"none of the methods can explain this: {reasons}")
    return Comparison(found, refused)


def all_methods(backward: str | None = None) -> list[str]:
    """Every method by name; without a backward for all of them, what `explain` does first."""
    default = f"{DEFAULT_METHOD}:backward={DEFAULT_BACKWARD}"
    return METHODS.names() if backward else [default, *METHODS.names()]


def _canonical(method: str) -> str:
    """A method as it is listed: its own name, and the options that were written behind it."""
    entry, _ = METHODS.read(method, ("backward",))
    _, colon, options = method.partition(":")
    return f"{entry.name}{colon}{options}"


def explain_each(asked: Request, targets: Sequence[Any]) -> list[Attribution]:
    """The attributions of several targets: one forward pass for all, one gradient for each."""
    return [found for found, _ in explain_answered(asked, targets)]


def explain_answered(asked: Request, targets: Sequence[Any]) -> list[tuple[Attribution, Resolved]]:
    """The attributions of several targets, each with the scores that the model chose from."""
    found: list[tuple[Attribution, Resolved]] = []
    with following(asked, targets, asked.entry.needs) as passes:
        for one in passes:
            with torch.no_grad():
                relevance = asked.entry.function(one.passed, **asked.settings)
            attribution = _attribution(asked, one, relevance)
            found.append(
                (replace(attribution, pixels=_pixels(asked, one)), one.resolved.detached())
            )
    return found


def _attribution(
    asked: Request, followed: Followed, relevance: Mapping[int, Tensor]
) -> Attribution:
    graph, options = followed.passed.graph, (asked.entry.name, asked.settings, asked.chosen)
    backward = asked.backward
    scores = {
        name: _scores(relevance, source.state, source.tokens, followed.passed)
        for name, source in zip(followed.layouts, graph.sources, strict=True)
    }
    return Attribution(
        scores=scores,
        layout=followed.layouts,
        target=followed.resolved.names,
        prediction=followed.resolved.prediction,
        meta=provenance(asked.model, graph, asked.arguments, *options, backward),
        inputs=asked.drawn(),
    )


def _pixels(asked: Request, followed: Followed) -> dict[str, Tensor]:
    """Relevance of pixels by source, from methods that follow it so far."""
    read = asked.entry.pixels
    if read is None:
        return {}
    found = read(followed.passed)
    return {name: found[name] for name in followed.layouts if name in found}


def _scores(
    relevance: Mapping[int, Tensor], state: int, tokens: Tensor, passed: RecordedPass
) -> Tensor:
    """Relevance of a source as (batch, token)."""
    found = relevance.get(state)
    if found is None:
        return wide(passed.graph.blank).new_zeros(tokens.shape)
    places = tokens.to(found.device)
    return torch.where(places >= 0, found[places.clamp_min(0)], 0)
