"""Additions that are spelled otherwise: sums of a stack, weights over parts side by side, `lerp`.

Each is written as addends, and the rule of additions does the rest. Only where an attention's
output is among the parts: nowhere else does it matter how a sum is spelled. Of an addend that is
scaled on its way the tensor before is kept: Input x Gradient is the same there, and takes in all
else that is made of this tensor, as it does where the sum is written plainly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from relmap.trace.calls import Call, along
from relmap.trace.labels import Labels
from relmap.trace.operations.additions import add_tokens
from relmap.trace.operations.gates import pointwise
from relmap.trace.tags import Pair, Parts, Tag, Tokens, is_floating


@dataclass(frozen=True, slots=True, eq=False)
class Addend:
    """One addend of a sum, but for a scale, and whose tokens it holds.

    Without a gradient of its own it is what was added, though the network has no such tensor.
    """

    value: Tensor
    tag: Tokens


def total(call: Call, addends: Sequence[Addend]) -> Tag | None:
    """The tag of a result that is the sum of some addends, and of constants perhaps."""
    first = addends[0]
    value, tag = first.value, first.tag
    for addend in addends[1:]:
        added = add_tokens(call, (value, addend.value), tag, addend.tag)
        if not isinstance(added, Tokens):
            return added
        value, tag = value.detach() + addend.value.detach(), added
    return Tokens(tag.state, tag.labels.broadcast_to(call.shape), tag.node, tag.pending)


def sum_of_parts(call: Call, tag: Tokens, gone: tuple[int, ...]) -> Tag | None:
    """A sum or mean of all that was stacked; None if it is no such."""
    parts = tag.parts
    if parts is None or gone != (parts.axis,) or call.name not in ("sum", "mean"):
        return None
    if not parts.stacked or len(call.shape) > parts.tensors[0].ndim:
        return None
    return _all_of(call, parts)


def _all_of(call: Call, parts: Parts) -> Tag | None:
    """The sum of stacked parts, each perhaps times a number."""
    node = call.notebook.node
    return total(
        call,
        [
            Addend(tensor, Tokens(tag.state, tag.labels, node(origin=tag.node), tag.pending))
            for tensor, tag in zip(parts.tensors, parts.tags, strict=True)
        ],
    )


def weighted_parts(
    call: Call, tag: Tokens, letters: str, weights: tuple[Tensor, str], out: str
) -> Tag | None:
    """Constant weights over parts that stand side by side; None if it is no such product."""
    weight, others = weights
    parts, gone = tag.parts, [letter for letter in letters if letter not in out]
    if parts is None or gone != [letters[parts.axis]] or gone[0] not in others:
        return None
    if parts.stacked and others == gone[0] and letters.replace(gone[0], "") == out:
        return _all_of(call, parts)
    if not parts.stacked and any(parts.axis in part.labels.varying for part in parts.tags):
        return None
    addends, start = [], 0
    for tensor, part in zip(parts.tensors, parts.tags, strict=True):
        whole, labels = tensor.detach(), part.labels
        if parts.stacked:
            whole = whole.unsqueeze(parts.axis)
            labels = Labels(tuple(whole.shape), labels.values.unsqueeze(parts.axis))
        cut = weight.detach().narrow(others.index(gone[0]), start, whole.shape[parts.axis])
        start += whole.shape[parts.axis]
        value = torch.einsum(f"{letters},{others}->{out}", whole, cut)
        laid = labels.project(letters, out, call.shape)
        made = call.notebook.node(part.node, carried=(part.node,))
        addends.append(Addend(value, Tokens(part.state, laid, made, part.pending)))
    return total(call, addends)


def interpolate(call: Call) -> Tag | None:
    """Lerp: (1 - w) a + w b, with a number, a constant or a gate for w."""
    if lost := call.first_lost():
        return lost
    start, end = call.argument(0, "input", None), call.argument(1, "end", None)
    weight = call.argument(2, "weight", None)
    return _sum_of(call, [_product(call, start, weight), _product(call, end, weight)])


def add_product(call: Call) -> Tag | None:
    """Addcmul and addcdiv: a + value * b * c."""
    if lost := call.first_lost():
        return lost
    start = call.argument(0, "input", None)
    left, right = call.argument(1, "tensor1", None), call.argument(2, "tensor2", None)
    return _sum_of(call, [_product(call, start, None), _product(call, left, right)])


def add_to_product(call: Call, added: Tensor, tag: Tokens, product: Tokens) -> Tag | None:
    """Baddbmm and its kin: beta times tokens, and a product that holds tokens."""
    moved = replace(tag, node=call.notebook.node(origin=tag.node), parts=None)
    rest = call.result.detach() - added.detach() * call.argument(3, "beta", 1)
    return total(call, [Addend(added, moved), Addend(rest, product)])


def _sum_of(call: Call, parts: list[tuple[Tensor, Tag | None]]) -> Tag | None:
    """The sum of products, of which some may be constants."""
    if any(isinstance(tag, Pair) for _, tag in parts):
        return call.lost("combines scores with others at once")
    wrong = next((tag for _, tag in parts if tag is not None and not isinstance(tag, Tokens)), None)
    if wrong is not None:
        return wrong
    addends = [Addend(value, tag) for value, tag in parts if isinstance(tag, Tokens)]
    if len(addends) == 1:
        return along(call, addends[0].tag, copies=True)
    return total(call, addends)


def _product(call: Call, tensor: Any, factor: Any) -> tuple[Tensor, Tag | None]:
    """A tensor that is added times another, with the tag that a product of both has."""
    operands = [one for one in (tensor, factor) if isinstance(one, Tensor) and is_floating(one)]
    inner = Call(call.notebook, "mul", torch.mul, tuple(operands), {}, result=call.result)
    inner.operands, inner.tags = operands, [call.tag_of(one) for one in operands]
    tokens = [
        one
        for one, tag in zip(operands, inner.tags, strict=True)
        if isinstance(tag, (Tokens, Pair))
    ]
    return (tokens[0], pointwise(inner)) if tokens else (tensor, None)
