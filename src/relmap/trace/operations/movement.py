"""Data movement: the labels are moved by the same function as the data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from relmap.trace.calls import PARTS, Call, move_pair
from relmap.trace.labels import NO_TOKEN, Labels
from relmap.trace.tags import FOLDED, Lost, Pair, Tokens


def same(call: Call) -> Any:
    """Casts and copies: the very same value."""
    return call.tag()


def reshape(call: Call) -> Any:
    """view, reshape, flatten and friends: only the shape of the result matters."""
    return _moved(call, lambda labels: labels.reshape(call.shape))


def view(call: Call) -> Any:
    """`view`, which may also reinterpret the bits as another type."""
    if isinstance(call.argument(1, "dtype", None), torch.dtype):
        return call.lost("reads the bits as another type")
    return reshape(call)


def expand(call: Call) -> Any:
    """Expand and broadcast_to: new and widened axes are feature axes."""
    return _moved(call, lambda labels: labels.broadcast_to(call.shape))


def axes(call: Call) -> Any:
    """Functions that reorder, add, drop, cut or diagonalise axes: views of the labels."""
    return _moved(call, _replay(call, views=True))


def copying(call: Call) -> Any:
    """Functions that move data into new places (roll, flip, repeat, gather, ...)."""
    return _moved(call, _replay(call))


def rolled(call: Call) -> Any:
    """Roll and flip: feature axes stay small."""

    def move(labels: Labels) -> Labels:
        return Labels(labels.shape, call.run_on(labels.values))

    if call.argument(2, "dims", None) is None and call.name == "roll":
        return copying(call)
    return _moved(call, move)


def index(call: Call) -> Any:
    """`tensor[...]`."""
    where = _on_cpu(call.argument(1, "key"))
    return _moved(call, lambda labels: labels.select(where))


def pad(call: Call) -> Any:
    """`pad`: padding belongs to no token."""
    widths, mode = call.argument(1, "pad", ()), call.argument(2, "mode", "constant")

    def move(labels: Labels) -> Labels:
        full = labels.values
        sizes = list(full.shape)
        for position in range(len(widths) // 2):
            axis = len(sizes) - 1 - position
            if widths[2 * position] or widths[2 * position + 1]:
                sizes[axis] = labels.shape[axis]
        full = full.expand(sizes)
        if mode == "constant":
            moved = torch.nn.functional.pad(full, widths, value=NO_TOKEN)
        else:
            moved = call.function(full.double(), widths, mode=mode).long()
        return Labels(call.shape, moved)

    return _moved(call, move)


def as_doubles(call: Call) -> Any:
    """Movements for floating tensors only (pixel_shuffle), or that fill with zeros (tril).

    Labels are moved one higher, so that a zero that was filled in is no token.
    """

    def move(labels: Labels) -> Labels:
        return Labels.of(call.run_on(labels.full().double() + 1).long() - 1)

    return _moved(call, move)


def identity_shape(call: Call) -> Any:
    """as_strided and set views: replayed on labels laid out with the same strides."""
    tensor = call.subject

    def move(labels: Labels) -> Labels:
        laid = torch.empty_strided(tensor.shape, tensor.stride(), dtype=torch.long)
        laid.copy_(labels.full())
        return Labels.of(call.run_on(laid))

    return _moved(call, move)


def iterate(call: Call) -> Any:
    """`for part in tensor`: the same as unbind along the first axis."""
    with call.notebook.watching():
        return iter(call.subject.unbind(0))


def as_complex(call: Call) -> Any:
    """view_as_complex and view_as_real: two features become one number, or the reverse."""

    def move(labels: Labels) -> Labels:
        return labels.collapse([-1]) if call.name.endswith("complex") else labels.append_feature(2)

    return _moved(call, move)


def selected(call: Call) -> Any:
    """sort, topk and the like along a feature axis keep tokens; along tokens they lose them."""
    tag = call.tag()
    values = call.result[0] if isinstance(call.result, tuple) else call.result
    if isinstance(tag, (Pair, Lost)) or not isinstance(tag, Tokens):
        return PARTS([tag, None])
    axis = call.argument(2 if call.name == "topk" else 1, "dim", -1)
    if axis % len(tag.labels.shape) in tag.labels.varying:
        return call.lost("reorders tokens by value")
    labels = Labels(tuple(values.shape), tag.labels.values)
    return PARTS([Tokens(tag.state, labels, call.notebook.node(tag.node)), None])


def _moved(call: Call, move: Callable[[Labels], Any]) -> Any:
    tag = call.tag()
    if not isinstance(tag, (Tokens, Pair)):
        return tag
    if isinstance(tag, Tokens):
        node = call.notebook.node(origin=tag.node)
        labels = move(tag.labels)
        if isinstance(labels, tuple):
            return PARTS(Tokens(tag.state, part, node, tag.pending) for part in labels)
        return Tokens(tag.state, labels, node, tag.pending)
    return _moved_pair(call, tag, move)


def _moved_pair(call: Call, pair: Pair, move: Callable[[Labels], Any]) -> Any:
    """Move the labels of both sides, and the softmax axis, which is followed like a label."""
    axis = None
    shape = tuple(call.subject.shape)
    if pair.axis == FOLDED:
        axis = FOLDED
    elif pair.axis is not None:
        marker = [1] * len(shape)
        marker[pair.axis] = shape[pair.axis]
        count = torch.arange(shape[pair.axis]).reshape(marker)
        followed = move(Labels(shape, count))
        one = followed[0] if isinstance(followed, tuple) else followed
        if len(one.varying) == 1:
            axis = one.varying[0]
        elif not one.varying:
            axis = pair.axis if len(one.shape) == len(shape) else len(one.shape) - 1
        else:
            axis = FOLDED
    sides = [side for side in (pair.rows, pair.columns) if side is not None]
    if sides and isinstance(move(sides[0].labels), tuple):
        count = len(call.result)
        moves = [lambda labels, part=part: move(labels)[part] for part in range(count)]
        return PARTS(move_pair(pair, one, axis) for one in moves)
    return move_pair(pair, move, axis)


def _replay(call: Call, views: bool = False) -> Callable[[Labels], Any]:
    given, named = call.spelling.in_order()
    args = tuple(_on_cpu(value) for value in given[1:])
    kwargs = {name: _on_cpu(value) for name, value in named.items()}
    name = call.raw_name[:-1] if call.in_place else ""
    function = getattr(Tensor, name) if name else call.function
    if views:
        return lambda labels: labels.review(function, *args, **kwargs)
    return lambda labels: labels.replay(function, *args, **kwargs)


def _on_cpu(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, (tuple, list)):
        return type(value)(_on_cpu(part) for part in value)
    return value
