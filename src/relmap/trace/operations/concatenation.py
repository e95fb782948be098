"""Tensors put beside one another: joint sequences, features side by side, and raw inputs.

Along a token axis the tokens of all operands make a new state, constants among them become learned
tokens (CLS, registers); along a feature axis tokens stay the tokens they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from relmap.trace.calls import Call
from relmap.trace.labels import NO_TOKEN, Labels, concatenate
from relmap.trace.operations import heads
from relmap.trace.tags import Lost, Pair, Parts, Pending, Tag, Tokens, activation, is_floating


def cat(call: Call) -> Tag | None:
    """cat, hstack, vstack: tokens of several states side by side."""
    tensors = list(call.argument(0, "tensors", ()))
    axis = call.argument(1, "dim", 0)
    axis = {"hstack": min(1, tensors[0].ndim - 1), "vstack": 0}.get(call.name, axis)
    tensors = [tensor for tensor in tensors if tensor.numel()] or tensors[:1]
    axis %= tensors[0].ndim
    return _with_parts(call, _side_by_side(call, tensors, axis), tensors, axis)


def stack(call: Call) -> Tag | None:
    """stack: a cat along a new axis."""
    tensors = call.argument(0, "tensors", ())
    axis = call.argument(1, "dim", 0) % (tensors[0].ndim + 1)
    widened = []
    for tensor in tensors:
        view, tag = tensor.unsqueeze(axis), call.tag_of(tensor)
        if isinstance(tag, Tokens):
            shape = (*tensor.shape[:axis], 1, *tensor.shape[axis:])
            labels = Labels(shape, tag.labels.values.unsqueeze(axis))
            tag = Tokens(tag.state, labels, tag.node, tag.pending)
        elif isinstance(tag, Pair):
            return call.lost("stacks scores")
        call.notebook.attach(view, tag)
        widened.append(view)
    return _with_parts(call, _side_by_side(call, widened, axis), tensors, axis)


def _with_parts(call: Call, tag: Tag | None, tensors: Sequence[Tensor], axis: int) -> Tag | None:
    """A tag that remembers what stands side by side, since it may be summed up next."""
    tags = [call.tag_of(tensor) for tensor in tensors]
    parts = tuple(one for one in tags if isinstance(one, Tokens))
    if not isinstance(tag, Tokens) or len(parts) < len(tags) or not any(p.pending for p in parts):
        return tag
    stacked = call.name == "stack"
    return replace(tag, parts=Parts(tuple(tensors), parts, axis, stacked))


def _side_by_side(call: Call, tensors: list[Tensor], axis: int) -> Tag | None:
    notebook = call.notebook
    tags = [call.tag_of(tensor) for tensor in tensors]
    if lost := next((tag for tag in tags if isinstance(tag, Lost)), None):
        return lost
    if any(isinstance(tag, Pair) for tag in tags):
        return _scores_side_by_side(call, tensors, tags, axis)
    known = [tag for tag in tags if isinstance(tag, Tokens)]
    if not is_floating(call.result) or all(tag.state.kind == "input" for tag in known):
        return _inputs_side_by_side(call, tensors, tags, axis)
    varying = {a for tag in known if tag.state.kind != "input" for a in tag.labels.varying}
    tags = [
        notebook.tokens_of_input(tensor, tag, [a for a in range(tensor.ndim) if a not in varying])
        if isinstance(tag, Tokens) and tag.state.kind == "input" else tag
        for tensor, tag in zip(tensors, tags, strict=True)
    ]  # fmt: skip
    known = [tag for tag in tags if isinstance(tag, Tokens)]
    tokens_axis = any(axis in tag.labels.varying for tag in known) or (
        len(known) > 1 and not _aligned(known)
    )
    if len(known) < len(tensors) and not tokens_axis:
        tokens_axis = _extends_tokens(tensors, tags, axis)
    if not tokens_axis and len(known) < len(tensors):
        return _features_and_constants(call, known, tensors, axis)
    if len({id(tag.state) for tag in known}) == 1 and len(known) == len(tensors):
        return _same_state(call, tensors, known, axis)
    return _joint(call, tensors, tags, axis)


def _aligned(known: list[Tokens]) -> bool:
    return all(tag.labels.same_as(known[0].labels) for tag in known[1:])


def _extends_tokens(tensors: list[Tensor], tags: list[Tag | None], axis: int) -> bool:
    """A single token (size-1 axis) beside constants: tokens, unless the axis is the last one."""
    _tag, tensor = next((g, t) for g, t in zip(tags, tensors, strict=True) if isinstance(g, Tokens))
    return tensor.shape[axis] == 1 and axis != tensor.ndim - 1 and axis > 0


def _features_and_constants(
    call: Call, known: list[Tokens], tensors: list[Tensor], axis: int
) -> Tag:
    """Features beside constant features (rotary halves, positions): the same tokens."""
    first = known[0]
    if any(tag.state is not first.state for tag in known):
        return _joint(call, tensors, [call.tag_of(t) for t in tensors], axis)
    node = call.notebook.node(*(tag.node for tag in known))
    return Tokens(first.state, first.labels.broadcast_to(call.shape), node, first.pending)


def _same_state(call: Call, tensors: list[Tensor], known: list[Tokens], axis: int) -> Tag:
    node = call.notebook.node(*(tag.node for tag in known))
    pending = _common_pending(known)
    if pending is None and any(tag.pending for tag in known):
        known = [call.notebook.settle(tag) for tag in known]
        if len({id(tag.state) for tag in known}) > 1:
            return _joint(call, tensors, list(known), axis)
    features = _aligned(known) and axis not in known[0].labels.varying
    beside = [tag.pending for tag in known if tag.pending]
    if pending and features and not heads.side_by_side(beside):
        return call.lost(heads.TWICE)
    if pending is None and features:
        return Tokens(known[0].state, Labels(call.shape, known[0].labels.values), node)
    joined = concatenate([tag.labels for tag in known], axis)
    return Tokens(known[0].state, joined, node, pending)


def _common_pending(known: Sequence[Tokens]) -> Pending | None:
    """Pieces of attention outputs on the same queries stay one pending branch."""
    if not all(tag.pending for tag in known):
        return None
    drafts = {d.index: d for tag in known if tag.pending for d in tag.pending.attentions}
    return Pending(tuple(drafts[index] for index in sorted(drafts)))


def _inputs_side_by_side(
    call: Call, tensors: list[Tensor], tags: list[Tag | None], axis: int
) -> Tag | None:
    """Raw inputs beside constants (a start token, a column of coordinates): still that input."""
    known = [tag for tag in tags if isinstance(tag, Tokens)]
    if len({id(tag.state) for tag in known}) > 1:
        return call.notebook.joint_input(known, call.shape)
    parts = [
        tag.labels if isinstance(tag, Tokens)
        else Labels(tuple(t.shape), torch.full((1,) * t.ndim, NO_TOKEN))
        for t, tag in zip(tensors, tags, strict=True)
    ]  # fmt: skip
    node = call.notebook.node(*(tag.node for tag in known))
    return Tokens(known[0].state, concatenate(parts, axis), node)


def _scores_side_by_side(
    call: Call, tensors: list[Tensor], tags: list[Tag | None], axis: int
) -> Tag:
    """Scores beside constants (attention sinks) or scores of the same tokens."""
    pairs = [tag for tag in tags if isinstance(tag, Pair)]
    if any(isinstance(tag, Tokens) for tag in tags):
        return call.lost("puts scores and tokens side by side")

    def side(name: str) -> Tokens | None:
        found = [getattr(pair, name) for pair in pairs]
        if any(one is None for one in found):
            return None
        parts, position = [], 0
        for tensor, tag in zip(tensors, tags, strict=True):
            if isinstance(tag, Pair):
                parts.append(found[position].labels)
                position += 1
            elif axis in found[0].labels.varying or len(found) > 1:
                sizes = [1] * tensor.ndim
                parts.append(Labels(tuple(tensor.shape), torch.full(sizes, NO_TOKEN)))
            else:
                sizes = list(found[0].labels.values.shape)
                parts.append(Labels(tuple(tensor.shape), found[0].labels.values.reshape(sizes)))
        return Tokens(found[0].state, concatenate(parts, axis), found[0].node)

    if len({id(pair.rows and pair.rows.state) for pair in pairs}) > 1:
        return call.lost("puts scores of different tokens side by side")
    # Keys of two states (global and local ones): the product with values will say which is which.
    one_key_state = len({id(pair.columns and pair.columns.state) for pair in pairs}) == 1
    columns = side("columns") if one_key_state else None
    return Pair(side("rows"), columns, pairs[0].nodes, pairs[0].axis)


def _joint(call: Call, tensors: list[Tensor], tags: list[Any], axis: int) -> Tag:
    """A joint sequence: a new state made of all operands; constants become learned tokens."""
    notebook = call.notebook
    settled = [notebook.settle(tag, tensor) if isinstance(tag, Tokens) else tag
               for tag, tensor in zip(tags, tensors, strict=True)]  # fmt: skip
    known = [tag for tag in settled if isinstance(tag, Tokens)]
    varying = {a for tag in known for a in tag.labels.varying} | {axis}
    features = [a for a in range(tensors[0].ndim) if a not in varying]
    if not any(axis in tag.labels.varying for tag in known) and (
        axis == tensors[0].ndim - 1 or any(tensor.shape[axis] > 1 for tensor in tensors)
    ):
        return _feature_blocks(call, tensors, known, axis)
    parts: list[Tokens] = []
    for tensor, tag in zip(tensors, settled, strict=True):
        parts.append(tag if isinstance(tag, Tokens) else notebook.learn(tensor, features))
    labels = Labels.number(call.shape, features)
    links, start = [], 0
    for tensor, part in zip(tensors, parts, strict=True):
        piece = labels.values.narrow(axis, start, tensor.shape[axis])
        links.append((part.state, Labels(tuple(tensor.shape), piece), part.labels))
        start += tensor.shape[axis]
    state = notebook.new_state("concatenation", labels, links=links, settled=True)
    state.stream = activation(call.result, labels, call.notebook.keep_values)
    return Tokens(state, labels, notebook.node(*(part.node for part in parts)))


def _feature_blocks(call: Call, tensors: list[Tensor], known: list[Tokens], axis: int) -> Tag:
    """Features of two states side by side: every token is made of one of each."""
    notebook = call.notebook
    if len(known) < len(tensors):
        return call.lost("puts features of several states and constants side by side")
    varying = sorted({a for tag in known for a in tag.labels.varying})
    features = [a for a in range(len(call.shape)) if a not in varying]
    labels = Labels.number(call.shape, features)
    links = []
    for tag in known:
        links.append((tag.state, labels, tag.labels))
    state = notebook.new_state("merge", labels, links=links, settled=True)
    return Tokens(state, labels, notebook.node(*(tag.node for tag in known)))
