"""Drafts become the token graph: keep what the explained output was made of, and freeze it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from relmap.errors import TraceError
from relmap.trace.ancestry import ancestors, final_groups, output_tensors, scrambled
from relmap.trace.batch_axis import pass_examples_on, token_examples
from relmap.trace.graph import Activation, Attention, Link, State, StateKind, TokenGraph
from relmap.trace.labels import Labels
from relmap.trace.mixers import regrouped
from relmap.trace.operations.biases import freeze_biases
from relmap.trace.operations.heads import share_of_heads
from relmap.trace.recorder import Recorder
from relmap.trace.sources import find_sources
from relmap.trace.tags import AttentionDraft, StateDraft
from relmap.trace.tracing import Recorded, recording


def record(network: nn.Module, **inputs: Any) -> TokenGraph:
    """Record one forward pass and return its token graph.

    Arguments are the forward's own. Use it to look at what relmap saw; to explain a prediction use
    `relmap.explain`, which records by itself. Of autograd's graph nothing is kept.

    Raises:
        TraceError: the network has no attention, or mixes tokens in a way relmap does not know.

    Example:
        >>> import torch, relmap
        >>> network = torch.nn.TransformerEncoderLayer(8, 2, batch_first=True)
        >>> len(relmap.record(network, src=torch.randn(1, 5, 8)).attentions)
        1
    """
    with recording(network, inputs, keep_values=False) as recorded:
        return _without_autograd(build_graph(recorded, output_tensors(recorded.output)))


def _without_autograd(value: Any) -> Any:
    """The same graph without the edges to autograd's nodes, which hold all that they saved."""
    if isinstance(value, tuple | list):
        parts = [_without_autograd(part) for part in value]
        same = all(new is old for new, old in zip(parts, value, strict=True))
        return value if same else type(value)(parts)
    if not is_dataclass(value) or isinstance(value, type):
        return value
    held = {field.name: getattr(value, field.name) for field in fields(value) if field.init}
    kept = {name: _without_autograd(part) for name, part in held.items()}
    if isinstance(value, Activation):
        kept["edge"] = None
    changed = {name: part for name, part in kept.items() if part is not held[name]}
    return replace(value, **changed) if changed else value


def build_graph(
    recorded: Recorded, outputs: Sequence[Tensor], batch: int | None = None
) -> TokenGraph:
    """The graph of everything that the given output tensors were made of."""
    recorder = recorded.recorder
    groups = final_groups(recorder, outputs)
    if not groups:
        raise TraceError("no output of the network was made of tokens that relmap recorded")
    needed = ancestors([draft for group in groups for draft in group])
    mixed = scrambled(needed.states)
    if mixed is not None:
        raise TraceError(
            "relmap cannot follow the tokens of this network: a matrix over the tokens mixes them, "
            f"and no part of the network around it takes tokens and returns them, in {mixed.module}"
        )
    number = {id(draft): index for index, draft in enumerate(needed.states)}
    calls = {draft.index: index for index, draft in enumerate(needed.attentions)}
    onward = _onward(recorder)
    states = [
        replace(freeze_state(draft, index, number, calls), onward=onward.get(id(draft)))
        for index, draft in enumerate(needed.states)
    ]
    attentions = tuple(_freeze_attention(draft, calls, number) for draft in needed.attentions)
    if not attentions:
        raise TraceError("no attention that was recorded takes part in the explained output")
    size, noted = batch or _batch_size(recorded), recorder.biases
    examples = token_examples(states, attentions, size)
    for draft, numbers in zip(needed.states, examples, strict=True):
        draft.examples = numbers
    pass_examples_on(recorder.states, size)
    return TokenGraph(
        states=tuple(states),
        attentions=tuple(_grouped(one, examples, size) for one in attentions),
        finals=tuple(tuple(number[id(draft)] for draft in group) for group in groups),
        sources=find_sources(recorded, needed.states, states, attentions, examples, size),
        batch=size,
        examples=examples,
        approximate=recorder.approximations(needed.attentions),
        calls=_softmaxes(recorder),
        biases=None if noted is None else freeze_biases(noted, needed.states, number),
        blank=attentions[0].value.new_empty(0),
    )


def _softmaxes(recorder: Recorder) -> int:
    """How many attentions ran outside of mixers."""
    return sum(
        draft.index not in recorder.absorbed and "entered" not in draft.arrays
        for draft in recorder.attentions
    )


def _grouped(call: Attention, examples: Sequence[Tensor], batch: int) -> Attention:
    """A mixer with one group for each example; attentions have groups already."""
    if not call.is_mixer:
        return call
    columns = regrouped(call.column_tokens, examples[call.key_state], batch)
    return replace(
        call,
        row_tokens=regrouped(call.row_tokens, examples[call.query_state], batch),
        column_tokens=columns,
        value=call.value.new_empty(*columns.shape, 0)[:, None],
    )


def _batch_size(recorded: Recorded) -> int:
    return next(iter(recorded.inputs.values())).shape[0]


def freeze_state(
    draft: StateDraft, index: int, number: dict[int, int], calls: dict[int, int]
) -> State:
    """A draft as a state; `number` and `calls` say how states and attentions are numbered."""

    def link(parent: StateDraft, child: Labels, parents: Labels) -> Link:
        whole = draft.kind == "join" or child.values.numel() == draft.tokens
        same = whole and draft.tokens == parent.tokens
        return _freeze_link(number[id(parent)], child, parents, same)

    return State(
        index=index,
        kind=cast(StateKind, draft.kind),
        tokens=draft.tokens,
        shape=draft.shape,
        links=tuple(link(*one) for one in draft.links),
        attentions=tuple(calls[attention.index] for attention in draft.attentions),
        rows=None if draft.rows is None else link(*draft.rows),
        stream=draft.stream,
        end=draft.end or draft.stream,
        additions=tuple(draft.additions),
        residual=draft.residual,
        branch=draft.branch,
        operands=tuple(draft.operands),
        names=draft.names,
        module=draft.module,
    )


def _onward(recorder: Recorder) -> dict[int, tuple[Activation, Activation]]:
    """What the first join made of a state was given of it, and what it returned."""
    found: dict[int, tuple[Activation, Activation]] = {}
    for draft in recorder.states if recorder.taped else ():
        if draft.kind == "join" and draft.links and draft.residual and draft.stream:
            found.setdefault(id(draft.links[0][0]), (draft.residual, draft.stream))
    return found


def _freeze_link(parent: int, child: Labels, parents: Labels, same_count: bool) -> Link:
    if same_count and child.same_as(parents):
        return Link(parent)
    one, other = torch.broadcast_tensors(child.values, parents.values)
    count = int(other.max()) + 1 if other.numel() else 1
    codes = one * count + other
    codes = torch.unique(codes[(one >= 0) & (other >= 0)])
    return Link(parent, codes // count, codes % count)


def _freeze_attention(
    draft: AttentionDraft, calls: dict[int, int], number: dict[int, int]
) -> Attention:
    rows = draft.row_tokens[draft.row_tokens >= 0]
    copies = torch.bincount(rows, minlength=draft.query.state.tokens)
    return Attention(
        index=calls[draft.index],
        key_tokens=draft.key.state.tokens,
        row_copies=copies.clamp_min(1) if bool((copies > 1).any()) else None,
        query_state=number[id(draft.query.state)],
        key_state=number[id(draft.key.state)],
        row_tokens=draft.row_tokens,
        column_tokens=draft.column_tokens,
        output=draft.output,
        output_arrangement=draft.arrangement,
        module=draft.module,
        share=share_of_heads(draft),
        **cast(Any, draft.arrays),
    )
