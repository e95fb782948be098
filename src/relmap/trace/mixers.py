"""Mixers: parts of a network that mix tokens by something else than softmax attention.

A loop over time, a cumulative sum, a Fourier transform or a learned matrix over the tokens is
nothing that labels can follow. But the part of the network in which it happens takes tokens and
returns the same tokens, and what is done to them there need not be known: the contribution of a
token j to an output i can be asked of autograd. So the smallest module around the loss that has
tokens in and tokens out, on the same axes, becomes one node of the graph, drafted as an attention
is, and the trace goes on behind it.

Only a pass whose tokens were lost is watched this way: it runs a second time, with hooks on the
modules of the network.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from relmap.trace.ancestry import scrambled
from relmap.trace.drafts import Notebook
from relmap.trace.graph import Arrangement
from relmap.trace.labels import Labels
from relmap.trace.tags import (
    AttentionDraft,
    Lost,
    Pair,
    Pending,
    Tag,
    Tokens,
    activation,
    is_floating,
)


@dataclass(eq=False)
class _Entered:
    """A module that is running: the tokens it was given, and how far the notebook was then."""

    module: nn.Module
    tokens: list[tuple[Tensor, Tokens]]
    lost: bool
    attentions: int
    states: int
    hidden: int


@contextmanager
def watching_modules(notebook: Notebook, network: nn.Module) -> Iterator[None]:
    """Modules inside which tokens are lost become mixers, the smallest first."""
    running: list[_Entered] = []

    def enter(module: nn.Module, args: Any, kwargs: Any) -> Any:
        changed = None
        if not notebook.taped and sum(1 for _ in _given(notebook, args, kwargs)) > 1:
            # Tensors made of each other are told apart, so that every way is counted once.
            changed = tuple(map(_alias, args)), {name: _alias(one) for name, one in kwargs.items()}
            args, kwargs = changed
        running.append(_enter(notebook, module, args, kwargs))
        return changed

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        while running and running[-1].module is not module:
            running.pop()  # left by an exception that the network caught
        if running:
            _leave(notebook, running.pop(), output)

    handles = []
    for name, module in network.named_modules():
        if name:
            handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
            handles.append(module.register_forward_hook(leave))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _alias(value: Any) -> Any:
    floating = isinstance(value, Tensor) and is_floating(value) and value.requires_grad
    return value.view_as(value) if floating else value


def _tensors(values: Any) -> Iterator[Tensor]:
    """The tensors among the arguments of a module, or in what it returns."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, Mapping):
        yield from _tensors(tuple(values.values()))
    elif isinstance(values, (tuple, list)):
        for value in values:
            yield from _tensors(value)


def _given(notebook: Notebook, args: Any, kwargs: Any) -> Iterator[tuple[Tensor, Tag]]:
    seen: set[int] = set()
    for tensor in _tensors((args, kwargs)):
        tag = notebook.tag(tensor)
        if id(tensor) in seen or not isinstance(tag, (Tokens, Pair, Lost)):
            continue
        seen.add(id(tensor))
        if is_floating(tensor):
            yield tensor, tag


def _enter(notebook: Notebook, module: nn.Module, args: Any, kwargs: Any) -> _Entered:
    given = list(_given(notebook, args, kwargs))
    return _Entered(
        module,
        [
            (tensor, tag)
            for tensor, tag in given
            if isinstance(tag, Tokens) and tensor.requires_grad
        ],
        any(isinstance(tag, (Lost, Pair)) for _, tag in given),
        len(notebook.attentions),
        len(notebook.states),
        len(notebook.hidden),
    )


def _leave(notebook: Notebook, entered: _Entered, output: Any) -> None:
    """Make a mixer of a module that was given tokens and returns the same ones, mixed."""
    if entered.lost or not entered.tokens:
        return
    for tensor in _tensors(output):
        for place, (given, tag) in enumerate(entered.tokens):
            labels = _same_places(given, tag, tensor)
            if labels is None or not _is_lost(notebook, entered, labels, tensor):
                continue
            order = [entered.tokens[place], *entered.tokens[:place], *entered.tokens[place + 1 :]]
            _become_mixer(notebook, entered, order, (tensor, labels))
            return


def _same_places(given: Tensor, tag: Tokens, result: Tensor) -> Labels | None:
    """Labels of a result whose tokens stand where those of an argument stood; None elsewhere."""
    if given.ndim != result.ndim or not is_floating(result) or not result.requires_grad:
        return None
    axes = _token_axes(given, tag)
    if not axes or any(given.shape[axis] != result.shape[axis] for axis in axes):
        return None
    values = tag.labels.values
    for axis in set(tag.labels.varying).difference(axes):  # the features of a raw input
        values = values.narrow(axis, 0, 1)
    return Labels(tuple(result.shape), values)


def _token_axes(tensor: Tensor, tag: Tokens) -> tuple[int, ...]:
    if tag.state.kind == "input":
        return tuple(range(tensor.ndim - 1)) if tensor.ndim == 3 else ()
    return tag.labels.varying


def _is_lost(notebook: Notebook, entered: _Entered, labels: Labels, result: Tensor) -> bool:
    """Whether tokens that went into a module cannot be told apart in what came out."""
    tag = notebook.tag(result)
    if isinstance(tag, Lost):
        return True
    if not isinstance(tag, Tokens):
        return False
    if not set(labels.varying) <= set(tag.labels.broadcast_to(tuple(result.shape)).varying):
        return True
    return scrambled([tag.state], entered.states) is not None


def _become_mixer(
    notebook: Notebook, entered: _Entered, given: list[tuple[Tensor, Tokens]],
    result: tuple[Tensor, Labels],
) -> None:  # fmt: skip
    """Draft one call for each state whose tokens went in; the first gives the rows."""
    output, _ = result
    settled = [(tensor, notebook.settle(tag, tensor)) for tensor, tag in given]
    rows = settled[0][1]
    labels = Labels(tuple(output.shape), rows.labels.values)
    # What was noted inside is part of the mixer now.
    notebook.absorbed |= {draft.index for draft in notebook.attentions[entered.attentions :]}
    del notebook.hidden[entered.hidden :]
    by_state: dict[int, list[tuple[Tensor, Tokens]]] = {}
    for tensor, tag in settled:
        by_state.setdefault(tag.state.index, []).append((tensor, tag))
    name = notebook.module_names.get(id(entered.module)) or "the network"
    drafts = []
    for keys in by_state.values():
        places = tuple(activation(tensor, tag.labels) for tensor, tag in keys)
        numbers = _numbers(*(tag for _, tag in keys))
        draft = AttentionDraft(
            len(notebook.attentions),
            Tokens(rows.state, labels, rows.node),
            keys[0][1],
            _numbers(rows),
            numbers,
            Arrangement((), 1, 1),
            activation(output, labels, value=False),
            {"value": output.detach().new_empty(1, 1, numbers.shape[1], 0), "entered": places},
            name,
            (rows.node, *(tag.node for _, tag in keys)),
        )
        notebook.attentions.append(draft)
        drafts.append(draft)
    node = notebook.node(*(tag.node for _, tag in settled))
    notebook.attach(output, Tokens(rows.state, labels, node, Pending(tuple(drafts))))


def _numbers(*tags: Tokens) -> Tensor:
    """The tokens of some tensors as the one group of a call."""
    numbers = torch.cat([tag.labels.values.reshape(-1) for tag in tags]).unique()
    return numbers[numbers >= 0][None]


def regrouped(tokens: Tensor, examples: Tensor, batch: int) -> Tensor:
    """The tokens of a mixer with one group for each example, filled up with -1."""
    known = tokens.reshape(-1)
    rows = [known[examples[known] == example] for example in range(batch)]
    width = max(len(row) for row in rows)
    found = torch.full((batch, width), -1)
    for example, row in enumerate(rows):
        found[example, : len(row)] = row
    return found
