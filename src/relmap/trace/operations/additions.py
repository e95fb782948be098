"""Additions of several token tensors.

The addition that joins an attention's output to an ancestor of its query (or keys) is the residual
join and opens the next state. Every other addition of tokens is told apart here: biases, parallel
branches, feed-forward residuals, inputs added token by token, sums of two states.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from relmap._torch_private import version_of
from relmap.trace.ancestry import scrambled
from relmap.trace.calls import Call, along, move_pair
from relmap.trace.labels import Labels
from relmap.trace.operations import heads
from relmap.trace.tags import (
    FOLDED,
    Pair,
    Pending,
    StateDraft,
    Tag,
    Tokens,
    activation,
    all_carried,
    descends,
    is_floating,
)

if TYPE_CHECKING:
    from relmap.trace.drafts import Notebook


def add(call: Call) -> Tag | None:
    """The rule of additions and subtractions."""
    if lost := call.first_lost():
        return lost
    if not is_floating(call.result):
        tag = call.tag()
        return along(call, tag) if isinstance(tag, Tokens) else None
    known = call.known()
    if any(isinstance(tag, Pair) for _, tag in known):
        return scores(call, known)
    if len(known) == 1:
        return _with_constant(call, known[0][0], known[0][1])
    (first, left), (second, right) = known[:2]
    assert isinstance(left, Tokens)
    assert isinstance(right, Tokens)
    return add_tokens(call, (first, second), left, right)


def scores(call: Call, known: list[tuple[Tensor, Any]]) -> Tag:
    """Scores with a bias, a mask, a scale, or other scores: still scores."""
    pair = next(tag for _, tag in known if isinstance(tag, Pair))
    with_tokens = any(isinstance(tag, Tokens) for _, tag in known)
    if pair.axis is not None and with_tokens and call.name == "mul":
        return call.lost("weighs tokens by an attention map element by element")
    moved = move_pair(pair, lambda labels: labels.broadcast_to(call.shape))
    return Pair(moved.rows, moved.columns, pair.nodes, _softmax_axis(call, known))


def _softmax_axis(call: Call, known: list[tuple[Tensor, Any]]) -> int | None:
    """Where the softmax axis of the operands stands in the (broadcast) result."""
    for tensor, tag in known:
        if isinstance(tag, Pair) and tag.axis is not None:
            return tag.axis if tag.axis == FOLDED else tag.axis + len(call.shape) - tensor.ndim
    return None


def _with_constant(call: Call, tensor: Tensor, tag: Any) -> Tag:
    """Tokens plus a constant: a bias or position, or the residual of learned queries."""
    if tag.pending is not None and tag.state.kind == "learned":
        other = next((o for o in call.operands if o is not tensor and is_floating(o)), None)
        alone = all(draft.query.state.kind == "learned" for draft in tag.pending.attentions)
        if other is not None and alone and other.ndim > 1 and _same_shape(other, call):
            labels = tag.labels.broadcast_to(call.shape)
            residual = Tokens(tag.state, labels, tag.node)
            values = (_keep(call, other, labels), _keep(call, tensor, labels))
            return call.notebook.join(tag, residual, values, call.result)
    return along(call, tag, copies=True)


def _same_shape(tensor: Tensor, call: Call) -> bool:
    shape = tuple(tensor.shape)
    return shape == call.shape or shape == call.shape[1:]


def add_tokens(call: Call, tensors: tuple[Tensor, Tensor], left: Tokens, right: Tokens) -> Tag:
    """Two tensors of tokens added: a join, a branch that grows, or a sum of states."""
    notebook = call.notebook
    left, right = settled_apart(notebook, tensors, *as_tokens(notebook, tensors, left, right))
    if left.pending and right.pending:
        if left.state is right.state or left.labels.same_as(right.labels):
            if not heads.added([left.pending, right.pending]):
                return call.lost(heads.TWICE)
            both = union(left.pending, right.pending)
            node = notebook.node(left.node, right.node)
            return Tokens(left.state, left.labels.broadcast_to(call.shape), node, both)
        right = notebook.settle(right, tensors[1])
    if right.pending:
        return _meet(call, (tensors[1], tensors[0]), right, left)
    if left.pending:
        return _meet(call, tensors, left, right)
    return _add_settled(call, tensors, left, right)


def _meet(call: Call, tensors: tuple[Tensor, Tensor], branch: Tokens, other: Tokens) -> Tag:
    """An attention's output meets tokens: its residual, a parallel branch, or something else."""
    notebook, pending = call.notebook, branch.pending
    assert pending is not None
    shape = call.shape
    labels = other.labels.broadcast_to(shape)
    wide = set(branch.labels.broadcast_to(shape).varying) <= set(labels.varying)
    if wide and _is_residual(pending, other):
        apart = None if pending.whole else pending.branch
        kept = apart or _keep(call, tensors[0], branch.labels.broadcast_to(shape))
        values = (_keep(call, tensors[1], labels), kept)
        joined = notebook.join(branch, other, values, call.result)
        entering = joined.state.residual
        if notebook.taped and apart and pending.held is not None and entering is not None:
            # A feed-forward branch beside the attention reads what the attention reads.
            joined.state.additions.append((entering, pending.held[0]))
        return joined
    if other.state is branch.state:
        # A feed-forward branch beside the attention: the attention's own output is the branch.
        apart = None if pending.whole else pending.branch
        kept = apart or _keep(call, tensors[0], branch.labels)
        node = notebook.node(branch.node, other.node)
        labels = branch.labels.broadcast_to(shape)
        held = pending.held
        if labels.same_as(other.labels.broadcast_to(shape)):
            total = activation(call.result, labels, value=False)
            held = (_keep(call, tensors[1], labels), total)
        return Tokens(branch.state, labels, node, Pending(pending.attentions, kept, held))
    if _beside(branch, other):
        return _join_beside(call, tensors, branch, other)
    if is_statistic(notebook, branch, other, shape):
        return with_statistic(call, branch, other)
    settled = notebook.settle(branch, tensors[0])
    return _add_settled(call, tensors, settled, other)


def _beside(branch: Tokens, other: Tokens) -> bool:
    """Whether a join that nothing has read yet came from the very tokens of a second attention."""
    links = other.state.links
    return (
        other.state.kind == "join"
        and not other.state.read
        and other.state.rows is None
        and bool(links)
        and links[0][0] is branch.state
        and branch.labels.same_as(other.labels)
    )


def _join_beside(call: Call, tensors: tuple[Tensor, Tensor], branch: Tokens, other: Tokens) -> Tag:
    """X + a(x) + b(x): both attentions end in one join."""
    assert branch.pending is not None
    state, labels = other.state, other.labels.broadcast_to(call.shape)
    second = branch.pending.branch or _keep(call, tensors[0], labels)
    first = state.branch
    if first is not None and first.value is not None and second.value is not None:
        total = first.value + second.value
        state.branch = replace(second, value=total, version=version_of(total))
    if not heads.added([Pending(tuple(state.attentions)), branch.pending]):
        return call.lost(heads.TWICE)
    state.attentions = [*state.attentions, *branch.pending.attentions]
    state.stream = activation(call.result, labels, value=False)
    return Tokens(state, labels, call.notebook.node(branch.node, other.node))


def _is_residual(pending: Pending, other: Tokens) -> bool:
    """Whether an attention was computed from other tokens, or from what is in them."""
    read = [draft.nodes[position] for position in (0, 1) for draft in pending.attentions]
    return any(descends(node, held) for held in all_carried(other.node) for node in read)


def settled_apart(
    notebook: Notebook, tensors: tuple[Tensor, Tensor], left: Tokens, right: Tokens
) -> tuple[Tokens, Tokens]:
    """An output that the other operand was computed from is a state by now, its residual say."""
    sides = [left, right]
    shape = tuple(torch.broadcast_shapes(*(tensor.shape for tensor in tensors)))
    for mine, theirs in ((0, 1), (1, 0)):
        tag, other = sides[mine], sides[theirs]
        if _was_read_by(notebook, tag, other) and not is_statistic(notebook, tag, other, shape):
            sides[mine] = notebook.settle(tag, tensors[mine])
    return sides[0], sides[1]


def _was_read_by(notebook: Notebook, tag: Tokens, other: Tokens) -> bool:
    """Whether an attention's output went into tokens, or into the attention they come from."""
    if tag.pending is None:
        return False
    if other.pending is not None and other.pending.key != tag.pending.key:
        return _is_residual(other.pending, tag)
    state = notebook.settled_as(tag)
    return state is not None and _made_of(other.state, state)


def _made_of(state: StateDraft, ancestor: StateDraft) -> bool:
    """Whether a state is another one, or its tokens come from that one's over links."""
    waiting, seen = [state], {state.index}
    while waiting:
        current = waiting.pop()
        if current is ancestor:
            return True
        for parent, _, _ in current.links:
            if parent.index >= ancestor.index and parent.index not in seen:
                seen.add(parent.index)
                waiting.append(parent)
    return False


def is_statistic(notebook: Notebook, branch: Tokens, other: Tokens, shape: tuple[int, ...]) -> bool:
    """Whether an operand is a number for many tokens that was computed from the branch itself."""
    state = notebook.settled_as(branch)
    if state is None or other.pending is not None or not _made_of(other.state, state):
        return False
    if scrambled([other.state], state.index) is not None:
        return False
    theirs = set(other.labels.broadcast_to(shape).varying)
    return theirs < set(branch.labels.broadcast_to(shape).varying)


def with_statistic(call: Call, branch: Tokens, *others: Tokens) -> Tokens:
    """A branch centred, scaled or clamped by a statistic of its tokens is still that branch."""
    notebook = call.notebook
    node = notebook.node(branch.node, *(other.node for other in others))
    notebook.flag("a statistic taken over several tokens", node)
    assert branch.pending is not None
    labels = branch.labels.broadcast_to(call.shape)
    return Tokens(branch.state, labels, node, branch.pending.changed())


def _add_settled(call: Call, tensors: tuple[Tensor, Tensor], left: Tokens, right: Tokens) -> Tag:
    notebook, shape = call.notebook, call.shape
    node = notebook.node(left.node, right.node)
    labels = left.labels.broadcast_to(shape)
    other = right.labels.broadcast_to(shape)
    if left.state.kind == right.state.kind == "input":
        finer = (left, labels) if labels.values.numel() >= other.values.numel() else (right, other)
        return Tokens(finer[0].state, finer[1], node)
    alike = labels.same_as(other)
    together = same_tokens(labels, other) if left.state is right.state else None
    if together is not None:
        node = notebook.node(left.node, right.node, carried=(left.node, right.node))
        _end(call, (left, right), tensors, together)
        return Tokens(left.state, together, node)
    if alike and inside_join(left, right):
        _end(call, (left, right), tensors, labels)
        return Tokens(left.state, labels, node)
    if alike and inside_join(right, left):
        _end(call, (right, left), (tensors[1], tensors[0]), labels)
        return Tokens(right.state, labels, node)
    raw = [tag.state.kind == "source" and not tag.state.settled for tag in (left, right)]
    if all(raw) and alike:
        return _colocated(call, left, right, labels)
    return notebook.sum((left, right), tensors, call.result)


def _end(
    call: Call, tags: tuple[Tokens, Tokens], tensors: tuple[Tensor, Tensor], labels: Labels
) -> None:
    """Note that a branch computed from a stream was added to it: so far nothing comes later."""
    state, notebook = tags[0].state, call.notebook
    if not notebook.taped or call.name != "add" or state.stream is None:
        return
    if any(tuple(one.shape) != state.stream.shape for one in (*tensors, call.result)):
        return
    (stream, branch), (one, other) = tags, tensors
    if stream.state is branch.state:
        if descends(stream.node, branch.node.root):
            (stream, branch), (one, other) = (branch, stream), (other, one)
        elif not descends(branch.node, stream.node.root):
            return
        if not _unprojected(stream):
            return
        before = _keep(call, one, labels)
    else:  # computed beside the attention, from what that reads
        before = state.residual or _keep(call, one, labels)
    state.additions.append((before, _keep(call, other, labels)))
    state.end = activation(call.result, labels, value=False)


def _unprojected(tokens: Tokens) -> bool:
    """Whether tokens are their stream itself, normed perhaps, and not a projection of it."""
    start = tokens.state.node
    waiting = [tokens.node]
    while waiting:
        node = waiting.pop()
        if start is None or node.index < start.index:
            return True
        if node.read is None:
            waiting += [*node.parents, *((node.origin,) if node.origin else ())]
    return False


def same_tokens(left: Labels, right: Labels) -> Labels | None:
    """Labels of two tensors of one state that hold the same tokens place by place.

    Where one of them holds none (an expert that was not chosen) the other's count.
    """
    if left.same_as(right):
        return left
    if set(left.varying) != set(right.varying):
        return None
    return left.agree(right)


def inside_join(joined: Tokens, other: Tokens) -> bool:
    """A parallel feed-forward branch that is added after the attention's own join.

    It may have been scaled or dropped out since; the stream itself, scaled, is no branch.
    """
    links = joined.state.links
    if joined.state.kind != "join" or not links or links[0][0] is not other.state:
        return False
    return other.node.origin is None or not _is_residual(
        Pending(tuple(joined.state.attentions)), other
    )


def _colocated(call: Call, left: Tokens, right: Tokens, labels: Labels) -> Tokens:
    """Two inputs added token by token are one source with both names."""
    notebook = call.notebook
    first, second = left.state, right.state
    names = tuple(dict.fromkeys((*first.names, *second.names)))
    if names == first.names:
        return Tokens(first, labels, notebook.node(left.node, right.node))
    state = notebook.new_state("source", labels, names=names)
    state.tokens, state.shape = first.tokens, first.shape
    state.grid, state.positions = first.grid or second.grid, first.positions
    state.stream = activation(call.result, labels, notebook.keep_values)
    return Tokens(state, labels, notebook.node(left.node, right.node))


def as_tokens(
    notebook: Notebook, tensors: tuple[Tensor, Tensor], left: Tokens, right: Tokens
) -> tuple[Tokens, Tokens]:
    """A raw input added to tokens is seen as tokens along the same axes."""
    sides = [left, right]
    for mine, theirs in ((0, 1), (1, 0)):
        tag, other = sides[mine], sides[theirs]
        if tag.state.kind != "input" or other.state.kind == "input":
            continue
        rank = tensors[mine].ndim
        placed = other.labels.broadcast_to(tuple(tensors[theirs].shape)).varying
        shift = tensors[theirs].ndim - rank
        features = [axis for axis in range(rank) if axis + shift not in placed]
        sides[mine] = notebook.tokens_of_input(tensors[mine], tag, features)
    return sides[0], sides[1]


def union(left: Pending, right: Pending) -> Pending:
    """Outputs of several attentions in one tensor: together they are one branch."""
    known = {draft.index: draft for draft in (*left.attentions, *right.attentions)}
    attentions = tuple(known[index] for index in sorted(known))
    held, whole = left.held or right.held, left.whole or right.whole
    return Pending(attentions, left.branch or right.branch, held, whole)


def _keep(call: Call, tensor: Tensor, labels: Labels) -> Any:
    """Keep an operand of a join; an in-place addition has overwritten one of them."""
    before = call.before.get(id(tensor))
    if call.notebook.keep_values and call.result.requires_grad and not tensor.requires_grad:
        before = tensor  # no tensor of its own: what arrives at the sum arrives at every addend
    elif before is None or tensor is not call.result:
        return activation(tensor, labels, call.notebook.keep_values)
    kept = activation(call.result, labels, value=False)
    return replace(kept, value=before, version=version_of(before))
