"""Functions that take many elements together: sums, norms, softmax, embeddings.

Over feature axes they leave tokens alone. Over token axes they make one token of several (a merge),
and a softmax over a token axis is what makes scores an attention.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from relmap.trace.calls import PARTS, Call, along, constant_along, move_pair
from relmap.trace.labels import Labels
from relmap.trace.operations.gates import pointwise
from relmap.trace.operations.sums import sum_of_parts
from relmap.trace.tags import Constant, Lost, Pair, Tag, Tokens, activation, is_floating


def reduce(call: Call) -> Any:
    """sum, mean, amax, ...: over features the tokens stay, over tokens they merge."""
    tag = call.tag()
    result = call.result
    if isinstance(call.argument(1, "other", None), Tensor):
        return pointwise(call)
    if isinstance(result, (tuple, list)):
        call.result = result[0]
        first = reduce(call)
        call.result = result
        return PARTS([first] + [None] * (len(result) - 1))
    if isinstance(tag, Pair):
        return _reduced_pair(call, tag)
    if not isinstance(tag, Tokens):
        return tag
    if not is_floating(call.subject):
        return None
    gone = _reduced_axes(call)
    return sum_of_parts(call, tag, gone) or _reduced(call, tag, gone)


def _reduced(call: Call, tag: Tokens, gone: tuple[int, ...]) -> Tag | None:
    tensor, labels = call.subject, tag.labels
    keep = len(call.shape) == tensor.ndim
    if tag.state.kind == "input":
        # A statistic of a raw input (its scale) steers the pass as a mask does; a raw input that
        # only lost its small axes (colours) is still that raw input.
        longest = max(range(1, tensor.ndim), key=lambda axis: tensor.shape[axis], default=0)
        if longest in gone:
            return Constant()
        values = labels.values
        for axis in gone:
            values = values.narrow(axis, 0, 1)
        labels = Labels(labels.shape, values)
    if not any(axis in labels.varying for axis in gone):
        node = call.notebook.node(tag.node)
        return Tokens(tag.state, labels.collapse(gone, keep), node, tag.pending)
    features = [axis for axis in range(tensor.ndim) if axis not in labels.varying or axis in gone]
    numbers = Labels.number(labels.shape, features)
    merged = call.notebook.merge(tag, tensor, numbers, labels)
    return Tokens(merged.state, numbers.collapse(gone, keep), merged.node)


def _reduced_pair(call: Call, pair: Pair) -> Tag:
    gone = _reduced_axes(call)
    keep = len(call.shape) == call.subject.ndim
    sides = [side for side in (pair.rows, pair.columns) if side is not None]
    varies = [side for side in sides if any(axis in side.labels.varying for axis in gone)]
    if len(varies) == len(sides):
        # Row sums of scores: a number for normalising, with no tokens of its own to follow.
        return call.lost("sums scores over tokens")
    left = [side for side in sides if side not in varies]
    node = call.notebook.node(*(side.node for side in sides))
    if varies and left:
        return Tokens(left[0].state, left[0].labels.collapse(gone, keep), node)
    return move_pair(pair, lambda labels: labels.collapse(gone, keep), None)


def _reduced_axes(call: Call) -> tuple[int, ...]:
    rank = call.subject.ndim
    position = 2 if call.name == "norm" else 1
    dims = call.argument(position, "dim", None)
    if dims is None or isinstance(dims, bool) or (isinstance(dims, (tuple, list)) and not dims):
        return tuple(range(rank))
    if isinstance(dims, int):
        return (dims % rank,)
    return tuple(axis % rank for axis in dims)


def normalise(call: Call) -> Tag | None:
    """layer_norm and rms_norm over the last axes."""
    tag = call.tag()
    if not isinstance(tag, Tokens):
        return tag
    shape = call.argument(1, "normalized_shape", ())
    rank = call.subject.ndim
    count = 1 if isinstance(shape, int) else len(shape)
    gone = tuple(range(rank - count, rank))
    tag = _reduced_over(call, tag, gone)
    if isinstance(tag, Tokens):
        tag.state.projected = True
    return tag


def normalise_axis(call: Call) -> Tag | None:
    """F.normalize, log_softmax and others that work along one axis and keep the shape."""
    tag = call.tag()
    if not isinstance(tag, Tokens):
        return tag
    position, default = (2, 1) if call.name == "normalize" else (1, -1)
    axis = call.argument(position, "dim", default)
    axes = (axis,) if isinstance(axis, int) else tuple(axis or range(call.subject.ndim))
    return _reduced_over(call, tag, tuple(one % call.subject.ndim for one in axes))


def _reduced_over(call: Call, tag: Tokens, gone: tuple[int, ...]) -> Tag:
    """A function that mixes within `gone` and keeps the shape."""
    tensor = call.subject
    if tag.state.kind == "input":
        if math.prod(tensor.shape[axis] for axis in gone) == 1:
            return along(call, tag)
        tag = call.notebook.tokens_of_input(tensor, tag, gone)
    if not any(axis in tag.labels.varying for axis in gone):
        return along(call, tag)
    features = [axis for axis in range(tensor.ndim) if axis not in tag.labels.varying]
    numbers = Labels.number(tag.labels.shape, sorted({*features, *gone}))
    return call.notebook.merge(tag, tensor, numbers, tag.labels)


def softmax(call: Call) -> Tag | None:
    """A softmax along an axis where tokens vary makes scores an attention."""
    tag, rank = call.tag(), call.subject.ndim
    axis = call.argument(1, "dim", None)
    axis = int(-1 if axis is None else axis) % rank
    if isinstance(tag, Pair):
        return _softmax_of_pair(call, tag, axis)
    if not isinstance(tag, Tokens):
        if isinstance(tag, Lost) and rank >= 3:
            call.notebook.hidden.append(tag.reason)
        return tag
    if tag.state.kind == "input":
        return _reduced_over(call, tag, (axis,))
    tag = constant_along(tag, axis) or tag
    if axis in tag.labels.varying:
        tag = call.notebook.settle(tag, call.subject)
        return Pair(None, Tokens(tag.state, tag.labels, tag.node), (tag.node,), axis)
    return along(call, tag)


def _softmax_of_pair(call: Call, pair: Pair, axis: int) -> Tag:
    rows, columns = constant_along(pair.rows, axis), pair.columns
    if columns is None and rows is not None and axis not in rows.labels.varying:
        return Pair(rows, None, pair.nodes, axis)
    column_varies = columns is not None and axis in columns.labels.varying
    row_varies = rows is not None and axis in rows.labels.varying
    if column_varies and row_varies:
        return call.lost("normalises over rows and columns together")
    if row_varies:
        return Pair(columns, rows, pair.nodes, axis)
    if column_varies or call.shape[axis] == 1:
        return Pair(rows, columns, pair.nodes, axis)
    return Pair(rows, columns, pair.nodes, pair.axis)


def embedding(call: Call) -> Tag | None:
    """Rows of a table picked by token ids: the tokens of a text."""
    # `functional` has the ids in front, torch itself behind the table.
    ids = call.argument(1, "indices") if "indices" in call.spelling.names else call.subject
    tag = call.tag_of(ids)
    if not isinstance(tag, Tokens):
        return tag
    if not call.result.requires_grad:
        # A copy, so that code which adds positions in place does not write on a leaf.
        call.result = call.result.detach().requires_grad_().clone()
    if tag.state.kind != "input":
        return Tokens(tag.state, tag.labels.append_feature(call.shape[-1]), call.notebook.node())
    state = call.notebook.source_of(tag.state, None, Labels.number(tag.state.shape))
    labels = tag.labels.append_feature(call.shape[-1])
    state.stream = state.stream or activation(call.result, labels, call.notebook.keep_values)
    return Tokens(state, labels, call.notebook.node(tag.node))


def loss(call: Call) -> Tag | None:
    """Losses: over the classes of each token, or over everything."""
    tag = call.tag()
    if not isinstance(tag, Tokens):
        return tag
    rank = call.subject.ndim
    if call.result.ndim == 0:
        return _reduced(call, tag, tuple(range(rank)))
    if call.result.ndim == rank - 1:
        return _reduced(call, tag, (1,) if rank > 1 else (0,))
    return along(call, tag)


def group_norm(call: Call) -> Tag | None:
    """group_norm and instance_norm: statistics over a whole image."""
    tag = call.tag()
    if isinstance(tag, Tokens) and tag.state.kind == "input":
        return along(call, tag)
    if isinstance(tag, Tokens) and tag.state.settled:
        normed = along(call, tag)
        assert isinstance(normed, Tokens)
        call.notebook.flag("a normalisation over all tokens of an example", normed.node)
        return normed
    return along(call, tag) if isinstance(tag, (Tokens, Pair)) else tag
