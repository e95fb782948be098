"""Biases: the constants that operations add to tokens, each with the place of its gradient.

A network is a sum of what its input and what its biases contribute only if every bias is known:
those of linear layers, convolutions and normalisations, the shift that a batch normalisation makes
of its running mean, and constant tensors that are added by hand (positions given again in every
layer). Plain numbers (an epsilon, the 1 in a gate) are no biases. Nothing is noted unless asked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from relmap.trace.calls import Call, plain_name
from relmap.trace.graph import Activation, Bias, Link
from relmap.trace.labels import Labels
from relmap.trace.operations.registered import OPERATIONS
from relmap.trace.tags import Constant, Pending, StateDraft, Tokens, activation, is_floating


@dataclass(frozen=True, eq=False)
class BiasDraft:
    """A bias while it is being recorded (see `relmap.trace.graph.Bias`)."""

    state: StateDraft
    pending: Pending | None
    output: Activation
    value: Tensor


def note_bias(call: Call) -> BiasDraft | None:
    """The bias in a call whose result holds tokens; None where it has none."""
    read, result = _reader(call), call.result
    if read is None or not isinstance(result, Tensor) or not is_floating(result):
        return None
    tag = call.notebook.tag(result)
    if not isinstance(tag, Tokens) or tag.state.kind == "input":
        return None
    value = read(call, tag)
    output = None if value is None else activation(result, tag.labels, value=False)
    if value is None or output is None or output.edge is None:
        return None
    return BiasDraft(tag.state, tag.pending, output, value.detach())


def _reader(call: Call) -> Callable[[Call, Any], Tensor | None] | None:
    entry = OPERATIONS.find(plain_name(call.raw_name)[0])
    bias = None if entry is None else entry.bias
    if bias is None:
        return _READERS.get(call.name)
    return _READERS[bias] if isinstance(bias, str) else bias


def freeze_biases(
    drafts: Sequence[BiasDraft], states: Sequence[StateDraft], number: Mapping[int, int]
) -> tuple[Bias, ...]:
    """The biases on tokens of the states that are part of a graph, or are made of such.

    What is added to an attention that never meets a residual belongs to the state it becomes.
    """
    without = {
        attention.index: state for state in states if not state.links
        for attention in state.attentions
    }  # fmt: skip
    found: list[Bias] = []
    for draft in drafts:
        state = draft.state
        if draft.pending is not None:
            state = without.get(draft.pending.attentions[0].index, state)
        links = _down(state, number)
        if links:
            found.append(Bias(draft.output, draft.value, state.tokens, tuple(links)))
    return tuple(found)


def _down(state: StateDraft, number: Mapping[int, int]) -> list[Link]:
    """Links from the tokens of a state to those of the graph; one beyond its end is pooled."""
    if id(state) in number:
        return [Link(number[id(state)])]
    found: list[Link] = []
    for parent, child, theirs in state.links:
        upper = _pairs(child, theirs)
        for link in _down(parent, number):
            if link.child_tokens is None or link.parent_tokens is None:
                found.append(Link(link.parent, *upper))
            else:
                lower = (link.child_tokens, link.parent_tokens)
                found.append(Link(link.parent, *_composed(upper, lower, parent.tokens)))
    return found


def _pairs(child: Labels, parents: Labels) -> tuple[Tensor, Tensor]:
    one, other = torch.broadcast_tensors(child.values, parents.values)
    count = int(other.max()) + 1 if other.numel() else 1
    codes = torch.unique((one * count + other)[(one >= 0) & (other >= 0)])
    return codes // count, codes % count


def _composed(
    upper: tuple[Tensor, Tensor], lower: tuple[Tensor, Tensor], between: int
) -> tuple[Tensor, Tensor]:
    """Pairs (a, c) for all pairs (a, b) and (b, c)."""
    order = lower[0].argsort()
    counts = torch.bincount(lower[0], minlength=between)
    many = counts[upper[1]]
    within = torch.arange(int(many.sum())) - (many.cumsum(0) - many).repeat_interleave(many)
    starts = (counts.cumsum(0) - counts)[upper[1]].repeat_interleave(many)
    return upper[0].repeat_interleave(many), lower[1][order[starts + within]]


def _last(position: int) -> Callable[[Call, Tokens], Tensor | None]:
    """A bias along the last axes."""

    def read(call: Call, tag: Tokens) -> Tensor | None:
        return call.argument(position, "bias", None)

    return read


def _channels(position: int) -> Callable[[Call, Tokens], Tensor | None]:
    """A bias along the second axis."""

    def read(call: Call, tag: Tokens) -> Tensor | None:
        return _along_channels(call.argument(position, "bias", None), len(call.shape) - 2)

    return read


def _along_channels(bias: Tensor | None, behind: int) -> Tensor | None:
    return None if bias is None else bias.reshape(-1, *(1,) * behind)


def _convolution(call: Call, tag: Tokens) -> Tensor | None:
    weight = call.argument(1, "weight", None)
    return _along_channels(call.argument(2, "bias", None), weight.ndim - 2)


def _running(call: Call, tag: Tokens) -> Tensor | None:
    """What a normalisation by running statistics adds: b - w mean / std."""
    names = ("running_mean", "running_var", "weight", "bias")
    mean, variance, weight, bias = (call.argument(i, n, None) for i, n in enumerate(names, start=1))
    if mean is None or (call.name == "instance_norm" and call.argument(5, "use_input_stats", True)):
        return _along_channels(bias, len(call.shape) - 2)
    epsilon = call.argument(7, "eps", 1e-5)
    shift = -mean / torch.sqrt(variance + epsilon)
    shift = shift if weight is None else shift * weight
    return _along_channels(shift if bias is None else shift + bias, len(call.shape) - 2)


def _product_and_sum(call: Call, tag: Tokens) -> Tensor | None:
    """Addmm and its kin: beta input + alpha a b."""
    added = call.argument(0, "input", None)
    return added * call.argument(3, "beta", 1) if _is_constant(call, added) else None


def _addition(call: Call, tag: Tokens) -> Tensor | None:
    """The constant of x + c, x - c and c - x; the residual of learned queries is none."""
    left, right = call.argument(0, "input", None), call.argument(1, "other", None)
    alpha = call.argument(2, "alpha", 1)
    sign = -1 if call.name == "sub" else 1
    if call.raw_name.strip("_") == "rsub":
        left, right = right, left
    known = call.known()
    if len(known) != 1 or not _goes_on(known[0][1], tag):
        return None
    if _is_constant(call, right):
        return right * (sign * alpha)
    return left if _is_constant(call, left) else None


def _goes_on(before: object, after: Tokens) -> bool:
    """Whether the tokens are still those of the operand, so that no join was made."""
    return isinstance(before, Tokens) and before.state is after.state


def _is_constant(call: Call, value: object) -> bool:
    if not isinstance(value, Tensor) or not is_floating(value):
        return False
    tag = call.tag_of(value)
    return tag is None or isinstance(tag, Constant)


_READERS: dict[str, Callable[[Call, Tokens], Tensor | None]] = {
    "linear": _last(2),
    "layer_norm": _last(3),
    "group_norm": _channels(3),
    "batch_norm": _running,
    "instance_norm": _running,
    "add": _addition,
    "sub": _addition,
    **dict.fromkeys(("addmm", "baddbmm", "addbmm", "addmv"), _product_and_sum),
    **{f"conv{kind}{rank}d": _convolution for kind in ("", "_transpose") for rank in (1, 2, 3)},
}

OPERATIONS.reserve("bias", _READERS.keys())
