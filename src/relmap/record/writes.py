"""Tensors put beside one another or written into one another: joint sequences.

The labels of every operand are coded with an offset, the same function is run on the codes, and the
codes that come out say which token of which operand stands where.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from relmap.record.calls import Call, along
from relmap.record.labels import NO_TOKEN, Labels, concatenate
from relmap.record.tags import (
    Lost,
    Pair,
    Pending,
    StateDraft,
    Tag,
    Tokens,
    activation,
    is_floating,
)


def cat(call: Call) -> Tag | None:
    """cat, hstack, vstack: tokens of several states side by side."""
    tensors = list(call.argument(0, "tensors", ()))
    axis = call.argument(1, "dim", call.kwargs.get("axis", 0))
    axis = {"hstack": min(1, tensors[0].ndim - 1), "vstack": 0}.get(call.name, axis)
    tensors = [tensor for tensor in tensors if tensor.numel()] or tensors[:1]
    return _side_by_side(call, tensors, axis % tensors[0].ndim)


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
        call.recorder.attach(view, tag)
        widened.append(view)
    return _side_by_side(call, widened, axis)


def _side_by_side(call: Call, tensors: list[Tensor], axis: int) -> Tag | None:
    recorder = call.recorder
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
        recorder.tokens_of_input(tensor, tag, [a for a in range(tensor.ndim) if a not in varying])
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
        return _same_state(call, known, axis)
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
    node = call.recorder.node(*(tag.node for tag in known))
    return Tokens(first.state, first.labels.broadcast_to(call.shape), node, first.pending)


def _same_state(call: Call, known: list[Tokens], axis: int) -> Tag:
    node = call.recorder.node(*(tag.node for tag in known))
    pending = _common_pending(known)
    if pending is None and any(tag.pending for tag in known):
        known = [call.recorder.settle(tag) for tag in known]
        if len({id(tag.state) for tag in known}) > 1:
            tensors = list(call.argument(0, "tensors", ()))
            return _joint(call, tensors, list(known), axis)
    if pending is None and _aligned(known) and axis not in known[0].labels.varying:
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
        return call.recorder.joint_input(known, call.shape)
    parts = [
        tag.labels if isinstance(tag, Tokens)
        else Labels(tuple(t.shape), torch.full((1,) * t.ndim, NO_TOKEN))
        for t, tag in zip(tensors, tags, strict=True)
    ]  # fmt: skip
    node = call.recorder.node(*(tag.node for tag in known))
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
    recorder = call.recorder
    settled = [recorder.settle(tag, tensor) if isinstance(tag, Tokens) else tag
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
        parts.append(tag if isinstance(tag, Tokens) else recorder.learn(tensor, features))
    labels = Labels.number(call.shape, features)
    links, start = [], 0
    for tensor, part in zip(tensors, parts, strict=True):
        piece = labels.values.narrow(axis, start, tensor.shape[axis])
        links.append((part.state, Labels(tuple(tensor.shape), piece), part.labels))
        start += tensor.shape[axis]
    state = recorder.new_state("concatenation", labels, links=links, settled=True)
    state.stream = activation(call.result, labels, call.recorder.keep_values)
    return Tokens(state, labels, recorder.node(*(part.node for part in parts)))


def _feature_blocks(call: Call, tensors: list[Tensor], known: list[Tokens], axis: int) -> Tag:
    """Features of two states side by side: every token is made of one of each."""
    recorder = call.recorder
    if len(known) < len(tensors):
        return call.lost("puts features of several states and constants side by side")
    varying = sorted({a for tag in known for a in tag.labels.varying})
    features = [a for a in range(len(call.shape)) if a not in varying]
    labels = Labels.number(call.shape, features)
    links = []
    for tag in known:
        links.append((tag.state, labels, tag.labels))
    state = recorder.new_state("merge", labels, links=links, settled=True)
    return Tokens(state, labels, recorder.node(*(tag.node for tag in known)))


# --- writing into one another -----------------------------------------------------------------


def written(call: Call) -> Tag | None:
    """masked_scatter, index_put, setitem, scatter, where, copy: values written into a tensor."""
    values = _written_values(call)
    operands = [call.args[0], *values]
    if call.name == "where":
        operands = values
    tags = [call.tag_of(operand) for operand in operands]
    if lost := next((tag for tag in tags if isinstance(tag, Lost)), None):
        return lost
    if any(isinstance(tag, Pair) for tag in tags):
        return _written_scores(call, operands, tags)
    known = [tag for tag in tags if isinstance(tag, Tokens)]
    if not known:
        return None
    codes, states = _codes(call, operands, tags)
    return _decode(call, codes, states, known)


_VALUE_AT = {
    "__setitem__": 2, "masked_scatter": 2, "index_put": 2, "scatter": 3, "index_copy": 3,
    "copy": 1, "index_add": 3, "scatter_add": 3, "slice_scatter": 1, "select_scatter": 1,
    "masked_fill": 2, "where": 1, "index_fill": 3, "scatter_reduce": 3,
}  # fmt: skip
_VALUE_NAMES = ("source", "src", "values", "value", "tensor")


def _written_values(call: Call) -> list[Any]:
    if call.name == "where":
        first, second = call.argument(1, "input", 0), call.argument(2, "other", 0)
        return [call.args[0], second] if _is_method_where(call) else [first, second]
    position = _VALUE_AT[call.name]
    if position < len(call.args):
        return [call.args[position]]
    return [call.kwargs[name] for name in _VALUE_NAMES if name in call.kwargs]


def _is_method_where(call: Call) -> bool:
    """Whether it is `tensor.where(condition, other)`, which puts the tensor first."""
    return not (isinstance(call.args[0], Tensor) and call.args[0].dtype == torch.bool)


def _written_scores(call: Call, operands: list[Any], tags: list[Any]) -> Tag:
    """Scores with some entries replaced by constants: a mask."""
    pairs = [tag for tag in tags if isinstance(tag, Pair)]
    if any(isinstance(tag, Tokens) for tag in tags):
        return call.lost("writes tokens among scores")
    sides: list[Tokens | None] = []
    for name in ("rows", "columns"):
        parts = [getattr(tag, name) if isinstance(tag, Pair) else tag for tag in tags]
        if any(part is None for part, tag in zip(parts, tags, strict=True) if tag in pairs):
            sides.append(None)
            continue
        codes, states = _codes(call, operands, parts)
        if len(states) > 1:
            return call.lost("writes scores of different tokens into one another")
        full = torch.where(codes > 0, (codes & ((1 << 40) - 1)) - 1, NO_TOKEN)
        first = next(part for part in parts if isinstance(part, Tokens))
        sides.append(Tokens(first.state, Labels.of(full), first.node))
    return Pair(sides[0], sides[1], pairs[0].nodes, pairs[0].axis)


def _codes(call: Call, operands: list[Any], tags: list[Any]) -> tuple[Tensor, list[StateDraft]]:
    """Run the same function on coded labels: code = position in `states` x 2^40 + label + 1."""
    states: list[StateDraft] = []
    coded: dict[int, Any] = {}
    for operand, tag in zip(operands, tags, strict=True):
        if isinstance(tag, Tokens):
            tag = call.recorder.settle(tag, operand)
            if tag.state not in states:
                states.append(tag.state)
            code = tag.labels.full() + 1 + (states.index(tag.state) << 40)
            coded[id(operand)] = torch.where(tag.labels.full() < 0, 0, code)
        elif isinstance(operand, Tensor):
            coded[id(operand)] = torch.zeros(operand.shape, dtype=torch.long)
    return _run_on_codes(call, operands, coded), states


def _run_on_codes(call: Call, operands: list[Any], coded: dict[int, Any]) -> Tensor:
    def code(value: Any) -> Any:
        if id(value) in coded:
            return coded[id(value)]
        if isinstance(value, Tensor):
            return value.detach().cpu()
        if isinstance(value, (tuple, list)):
            return type(value)(code(part) for part in value)
        return 0 if isinstance(value, float) else value

    args = [code(value) for value in call.args]
    kwargs = {name: code(value) for name, value in call.kwargs.items()}
    name = {"index_add": "index_copy", "scatter_add": "scatter", "scatter_reduce": "scatter"}.get(
        call.name, call.name
    )
    if name == "where":
        condition = args[1] if _is_method_where(call) else args[0]
        first, second = (code(value) for value in operands)
        return torch.where(condition, *(v if isinstance(v, Tensor) else torch.tensor(0)
                                        for v in (first, second)))  # fmt: skip
    if name == "__setitem__":
        target = args[0].clone()
        target[args[1]] = args[2] if isinstance(args[2], Tensor) else 0
        return target
    if name in ("masked_fill", "index_fill"):
        args, kwargs = [*args[: _VALUE_AT[name]], 0], {}
    if name == "copy":
        return args[1].expand_as(args[0]).clone()
    if name == "index_add":
        kwargs.pop("alpha", None)
    if name in ("scatter",):
        args, kwargs = args[:4], {}
    return getattr(torch.Tensor, name)(*args, **kwargs)


def _decode(call: Call, codes: Tensor, states: list[StateDraft], known: list[Tokens]) -> Tag:
    recorder = call.recorder
    full = torch.where(codes > 0, (codes & ((1 << 40) - 1)) - 1, NO_TOKEN)
    which = torch.where(codes > 0, codes >> 40, NO_TOKEN)
    node = recorder.node(*(tag.node for tag in known))
    if len(states) == 1:
        labels = Labels.of(full)
        return Tokens(states[0], labels, node, _common_pending(known) if len(known) == 1 else None)
    places = Labels.of(codes)
    labels = Labels.number(places.shape, [a for a in range(codes.ndim) if a not in places.varying])
    links = []
    for position, state in enumerate(states):
        parents = torch.where(which == position, full, NO_TOKEN)
        links.append((state, labels, Labels.of(parents)))
    state = recorder.new_state("concatenation", labels, links=links, settled=True)
    state.stream = activation(call.result, labels, call.recorder.keep_values)
    return Tokens(state, labels, node)


def masked_fill(call: Call) -> Tag | None:
    """Masks leave tokens alone (a masked token is still that token)."""
    if lost := call.first_lost():
        return lost
    known = call.known()
    if len(known) == 1 and known[0][0] is call.args[0] and not _skewed(known[0][1]):
        return along(call, known[0][1], copies=True)
    return written(call)


def where(call: Call) -> Tag | None:
    """`where`: a mask if the other side is a number, else one tensor written into another."""
    values = _written_values(call)
    tags = [call.tag_of(value) for value in values]
    if lost := next((tag for tag in tags if isinstance(tag, Lost)), None):
        return lost
    known = [(v, t) for v, t in zip(values, tags, strict=True) if isinstance(t, (Tokens, Pair))]
    if not known:
        return None
    other = next((value for value in values if value is not known[0][0]), None)
    constant = not isinstance(other, Tensor) or other.numel() == 1
    masks = constant or isinstance(known[0][1], Pair)
    if len(known) == 1 and masks and not _skewed(known[0][1]):
        return along(call, known[0][1], copies=True)
    return written(call)


def _skewed(tag: Tokens | Pair) -> bool:
    """Scores laid out in bands, where a mask closes places that belong to no pair at all."""
    if isinstance(tag, Tokens) or tag.rows is None or tag.columns is None:
        return False
    last = len(tag.rows.labels.shape) - 1
    return last in tag.rows.labels.varying and last in tag.columns.labels.varying


def written_view(call: Call) -> Tag | None:
    """`view.copy_(x)`: the labels are written into the base tensor as well."""
    tag = written(call)
    view = call.args[0]
    base = view._base
    if not isinstance(tag, Tokens) or base is None:
        return tag
    recorder, known = call.recorder, call.tag_of(base)
    full = torch.full(base.shape, NO_TOKEN)
    if isinstance(known, Tokens):
        if known.state is not tag.state:
            return call.lost("writes tokens of two states into one buffer")
        full = known.labels.full().clone()
    laid = torch.empty_strided(base.shape, base.stride(), dtype=torch.long)
    laid.copy_(full)
    offset = view.storage_offset() - base.storage_offset()
    laid.as_strided(view.shape, view.stride(), offset).copy_(tag.labels.full())
    recorder.mark(base, Tokens(tag.state, Labels.of(laid), tag.node, tag.pending))
    return tag
