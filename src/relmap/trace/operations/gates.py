"""Functions of each element alone: activations, scales, gates.

A function of one token tensor leaves the tokens as they are. A gate, a product of two, keeps the
tokens that it gates; an attention's output that is gated, by itself or by others, is still on its
way to its residual.
"""

from __future__ import annotations

from torch import Tensor

from relmap.trace.calls import Call, along
from relmap.trace.operations.additions import (
    as_tokens,
    inside_join,
    is_statistic,
    same_tokens,
    scores,
    settled_apart,
    union,
    with_statistic,
)
from relmap.trace.tags import Pair, Pending, Tag, Tokens

_COPIES = frozenset(
    ["add", "sub", "mul", "div", "neg", "dropout", "feature_dropout", "alpha_dropout"]
)


def pointwise(call: Call) -> Tag | None:
    """A function of each element alone."""
    if lost := call.first_lost():
        return lost
    known = call.known()
    if len(known) == 1:
        return along(call, known[0][1], copies=call.name in _COPIES)
    if any(isinstance(tag, Pair) for _, tag in known):
        return scores(call, known)
    tokens = [(tensor, tag) for tensor, tag in known if isinstance(tag, Tokens)]
    (first, left), (second, right) = tokens[:2]
    if len(tokens) > 2:
        return _bounded(call, tokens)
    return _gate(call, (first, second), left, right)


def _bounded(call: Call, known: list[tuple[Tensor, Tokens]]) -> Tag:
    """A clamp between bounds that were computed from what is clamped."""
    (_, tag), *bounds = known
    if all(is_statistic(call.notebook, tag, bound, call.shape) for _, bound in bounds):
        return with_statistic(call, tag, *(bound for _, bound in bounds))
    return call.lost("combines three token tensors")


def _gate(call: Call, tensors: tuple[Tensor, Tensor], left: Tokens, right: Tokens) -> Tag:
    """Products and other functions of two token tensors: gates keep the tokens they gate."""
    notebook, shape = call.notebook, call.shape
    left, right = settled_apart(notebook, tensors, *as_tokens(notebook, tensors, left, right))
    labels = [tag.labels.broadcast_to(shape) for tag in (left, right)]
    node = notebook.node(left.node, right.node)
    if left.state is right.state and bool(left.pending) == bool(right.pending):
        together = same_tokens(labels[0], labels[1])
        if together is not None:
            if call.name in ("mul", "div"):
                node = notebook.node(left.node, right.node, carried=(left.node, right.node))
            return Tokens(left.state, together, node, _both(left.pending, right.pending))
    for branch, other in ((left, right), (right, left)):
        if branch.pending and not other.pending:
            gated = _gated_branch(call, branch, other)
            if gated is not None:
                return gated
    if left.pending or right.pending:
        left, right = (notebook.settle(t, x) for t, x in zip((left, right), tensors, strict=True))
    if labels[0].same_as(labels[1]):
        if left.state is right.state or inside_join(left, right):
            return Tokens(left.state, labels[0], node)
        if inside_join(right, left):
            return Tokens(right.state, labels[1], node)
        return notebook.sum((left, right), tensors, call.result)
    finer = 0 if labels[0].values.numel() >= labels[1].values.numel() else 1
    scalar = [
        _one_number_each(tensor, tag) for tensor, tag in zip(tensors, (left, right), strict=True)
    ]
    if scalar[0] != scalar[1]:
        finer = int(scalar[0])
    elif not set(labels[1 - finer].varying) < set(labels[finer].varying):
        return call.lost("multiplies different tokens with each other")
    keep, gate = ((left, right), (right, left))[finer]
    if keep.state.settled and gate.state.kind != "input":
        notebook.flag("a gate computed from several tokens", node)
    return Tokens(keep.state, labels[finer], node)


def _both(left: Pending | None, right: Pending | None) -> Pending | None:
    """What is pending after a product of two outputs, or of one and a number made of it."""
    if left is None or right is None:
        return None
    return union(left, right).changed()


def _gated_branch(call: Call, branch: Tokens, other: Tokens) -> Tag | None:
    """An attention's output that is gated before it meets its residual; None if it is the gate."""
    notebook, shape = call.notebook, call.shape
    assert branch.pending is not None
    mine, theirs = (tag.labels.broadcast_to(shape) for tag in (branch, other))
    if mine.same_as(theirs):
        node = notebook.node(branch.node, other.node)
        return Tokens(branch.state, mine, node, branch.pending.changed())
    if is_statistic(notebook, branch, other, shape):
        return with_statistic(call, branch, other)
    if not set(theirs.varying) < set(mine.varying):
        return None
    node = notebook.node(branch.node, other.node)
    if other.state.kind != "input":
        notebook.flag("a gate computed from several tokens", node)
    return Tokens(branch.state, mine, node, branch.pending.changed())


def _one_number_each(tensor: Tensor, tag: Tokens) -> bool:
    """Whether a tensor holds a single number for each token, as gates and norms do."""
    return tensor.numel() == tag.labels.values.numel()
