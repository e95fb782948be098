"""What the recorder knows about a tensor: its tag, and the drafts of states behind it.

A tensor without a tag is a constant (weights, masks, positions). `Tokens` says whose tokens a
tensor holds; `Pair` is a matrix of scores between two sets of tokens, before or after softmax;
`Lost` is a tensor whose tokens were mixed in a way the recorder does not know, and spoils whatever
it touches. Value nodes remember how tensors were computed from each other: the residual of an
attention is recognised as the addend that is an ancestor of its query.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from relmap._torch_private import version_of
from relmap.trace.graph import Activation, Arrangement, StateKind
from relmap.trace.labels import Labels


@dataclass(eq=False, slots=True)
class Node:
    """One computed value. `origin` is the value it is but for movement, casts and constants.

    `carried` are the addends of a sum of the same tokens, or the factors of a gated value: what is
    in it place by place, as a stream is in the sum of itself and a branch.
    Where a pass can be run again, `read` is what a projection read, `scored` the operand of scores.
    """

    index: int
    parents: tuple[Node, ...] = ()
    origin: Node | None = None
    carried: tuple[Node, ...] = ()
    read: Activation | None = None
    scored: Tensor | None = None

    @property
    def root(self) -> Node:
        """The value this one is a moved, cast, shifted or scaled copy of."""
        return self.origin or self


def all_carried(node: Node) -> Iterator[Node]:
    """The value that a node moves or scales, and what that carries, the nearest first."""
    waiting, seen = [node.root], {node.root.index}
    while waiting:
        current = waiting.pop(0)
        yield current
        for part in current.carried:
            if part.root.index not in seen:
                seen.add(part.root.index)
                waiting.append(part.root)


def descends(node: Node, ancestor: Node) -> bool:
    """Whether `ancestor` took part in computing `node`."""
    waiting, seen = [node], {node.index}
    while waiting:
        current = waiting.pop()
        if current.index == ancestor.index or current.root.index == ancestor.index:
            return True
        for parent in (*current.parents, *((current.origin,) if current.origin else ())):
            if parent.index >= ancestor.index and parent.index not in seen:
                seen.add(parent.index)
                waiting.append(parent)
    return False


@dataclass(eq=False)
class StateDraft:
    """A state while it is being recorded (see `relmap.trace.graph.State`)."""

    index: int
    kind: StateKind | Literal["input"]
    tokens: int
    shape: tuple[int, ...]
    links: list[tuple[StateDraft, Labels, Labels]] = field(default_factory=list)
    attentions: list[AttentionDraft] = field(default_factory=list)
    rows: tuple[StateDraft, Labels, Labels] | None = None
    stream: Activation | None = None
    end: Activation | None = None
    additions: list[tuple[Activation, Activation]] = field(default_factory=list)
    residual: Activation | None = None
    branch: Activation | None = None
    operands: list[Activation] = field(default_factory=list)
    names: tuple[str, ...] = ()
    grid: tuple[int, ...] | None = None
    positions: Tensor | None = None
    input_shape: tuple[int, ...] = ()
    module: str = ""
    settled: bool = False
    read: bool = False
    projected: bool = False
    node: Node | None = None
    examples: Tensor | None = None
    scrambled: bool = False


@dataclass(eq=False)
class AttentionDraft:
    """An attention call while it is being recorded (see `relmap.trace.graph.Attention`).

    `heads_with` are the calls whose heads are heads of the same attention, itself among them.
    """

    index: int
    query: Tokens
    key: Tokens
    row_tokens: Tensor
    column_tokens: Tensor
    arrangement: Arrangement
    output: Activation
    arrays: dict[str, object]
    module: str = ""
    nodes: tuple[Node, ...] = ()
    heads_with: tuple[AttentionDraft, ...] = ()


@dataclass(slots=True, eq=False)
class Pending:
    """Attention outputs that have not met their residual yet; `branch` is what they sum to.

    `held` is what else was added to them: a feed-forward branch if the residual stream comes, and
    otherwise the residual itself (a gated, normed or projected one), with the sum of both. `whole`
    says that a function of this sum came after it, so that only the whole of it can be added.
    """

    attentions: tuple[AttentionDraft, ...]
    branch: Activation | None = None
    held: tuple[Activation, Activation] | None = None
    whole: bool = False

    @property
    def key(self) -> frozenset[int]:
        """What identifies the set of attentions."""
        return frozenset(draft.index for draft in self.attentions)

    def changed(self) -> Pending:
        """What is pending after a function that does not go through sums."""
        return self if self.branch is None else replace(self, whole=True)


@dataclass(slots=True, eq=False)
class Tokens:
    """The tensor holds tokens of one state.

    `parts` are the tensors that stand side by side in it, until the next function.
    """

    state: StateDraft
    labels: Labels
    node: Node
    pending: Pending | None = None
    parts: Parts | None = None


@dataclass(slots=True, eq=False)
class Parts:
    """Tensors side by side along an axis, noted where an attention's output is among them.

    `stacked` says that the axis is a new one, which they do not have themselves.
    """

    tensors: tuple[Tensor, ...]
    tags: tuple[Tokens, ...]
    axis: int
    stacked: bool


@dataclass(slots=True, eq=False)
class Pair:
    """The tensor holds a number for every pair of a row token and a column token.

    `rows` is None while the row tokens are learned ones that only the product will show.
    `axis` is the softmax axis once the scores were normalised, `FOLDED` where a later reshape
    folded it together with others (attention in bands).
    """

    rows: Tokens | None
    columns: Tokens | None
    nodes: tuple[Node, ...]
    axis: int | None = None


@dataclass(slots=True, eq=False)
class Constant:
    """A tensor computed from parameters alone that takes part in autograd."""


@dataclass(slots=True, eq=False)
class Lost:
    """Tokens were mixed by an operation without a rule, or behind the recorder's back."""

    reason: str


FOLDED = -1

Tag = Tokens | Pair | Constant | Lost


def activation(tensor: Tensor, labels: Labels, value: bool = True) -> Activation:
    """Remember where the gradient of a tensor arrives and, if asked for, its value."""
    edge = None
    if tensor.requires_grad:
        # A view made under no_grad says that it requires a gradient, but has none to give.
        with torch.enable_grad(), contextlib.suppress(AssertionError):
            edge = get_gradient_edge(tensor)
    shape = tuple(tensor.shape)
    if not value:
        return Activation(shape, edge, labels.values)
    # A detached tensor shares its version counter, so a later in-place change can be noticed.
    kept = tensor.detach()
    return Activation(shape, edge, labels.values, kept, version_of(kept))


def relabelled(kept: Activation, labels: Labels) -> Activation:
    """Both addends of a join are numbered as the join is."""
    if len(kept.shape) != len(labels.shape):
        return kept
    values = labels.values
    for axis, size in enumerate(kept.shape):
        if size == 1 < values.shape[axis]:  # one token added to many counts for the first
            values = values.narrow(axis, 0, 1)
    return replace(kept, tokens=values)


def is_floating(tensor: Tensor) -> bool:
    """Whether a tensor can carry a gradient."""
    return (
        tensor.dtype.is_floating_point
        or tensor.dtype == torch.complex64
        or tensor.dtype == torch.complex128
    )
