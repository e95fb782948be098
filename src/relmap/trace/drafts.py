"""The notebook: drafts of states and attentions, and the tags by which tensors lead to them.

While a pass is watched, every rule writes into one notebook: that a tensor holds tokens of a state,
that tokens were merged, that an attention met its residual. The finished graph is made of these
drafts when the pass is over (`relmap.trace.freeze`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from relmap._torch_private import objects_running
from relmap.errors import TraceError
from relmap.trace.labels import Labels
from relmap.trace.tags import (
    AttentionDraft,
    Lost,
    Node,
    Pending,
    StateDraft,
    Tag,
    Tokens,
    activation,
    is_floating,
    relabelled,
)

_TAG = "_relmap_tag"


class Notebook:
    """The drafts of one pass: which tokens every tensor holds, and the states they belong to.

    Rules of operations write here what they find out. Nothing here runs a function of the network.
    `taped` says that the pass can be run again, so that drafts note where that is possible.
    """

    taped = False

    def __init__(self, network: nn.Module, keep_values: bool = True) -> None:
        super().__init__()
        self.keep_values = keep_values
        self.states: list[StateDraft] = []
        self.attentions: list[AttentionDraft] = []
        self.absorbed: set[int] = set()  # attentions inside a mixer, by index
        self.hidden: list[str] = []
        self._flags: list[tuple[Node, str]] = []
        self.module_names = {id(module): name for name, module in network.named_modules()}
        self._settled: dict[tuple[frozenset[int], int], tuple[StateDraft, Pending]] = {}
        self._nodes: list[Node] = []
        self._marked: list[Tensor] = []
        self._written: list[Tensor] = []
        self._sources: list[tuple[StateDraft, Tensor | None, StateDraft]] = []

    def watching(self) -> AbstractContextManager[Any]:
        """A block in which functions are watched again, for rules that run some themselves."""
        return nullcontext()

    # --- tags -----------------------------------------------------------------------------------

    def tag(self, tensor: Any) -> Tag | None:
        """What is known about a tensor; None for a constant."""
        if not isinstance(tensor, Tensor):
            return None
        kept = tensor.__dict__.get(_TAG)
        if kept is None or kept[0] is not self:
            return self._foreign(tensor) if tensor.requires_grad and tensor.grad_fn else None
        return kept[1]

    def _foreign(self, tensor: Tensor) -> Lost:
        """A tensor that takes part in autograd, but that no watched function returned."""
        kind = type(tensor.grad_fn).__name__
        return Lost(self.at(f"a tensor came out of code that relmap cannot watch ({kind})"))

    def attach(self, tensor: Tensor, tag: Tag | None) -> None:
        """Write a tag on a tensor."""
        if tag is None:
            vars(tensor).pop(_TAG, None)
        else:
            setattr(tensor, _TAG, (self, tag))

    def mark(self, tensor: Tensor, tag: Tag) -> None:
        """Write a tag on a tensor that outlives the pass; it is taken off at the end."""
        self._marked.append(tensor)
        self.attach(tensor, tag)

    def written(self, tensor: Tensor, tag: Tag | None) -> None:
        """Note that the pass has written on a tensor, which may be one that the network keeps."""
        self._written.append(tensor)
        self.attach(tensor, tag)

    def forget(self) -> None:
        """Take tags off the tensors that outlive the pass, and let go of what was drafted.

        Tags lead to drafts, drafts to autograd's nodes, and nodes back to tensors that they saved:
        Python's collector does not see the last step, so nothing else would free a pass.
        """
        for tensor in self._marked:
            vars(tensor).pop(_TAG, None)
        for tensor in self._written:
            vars(tensor).pop(_TAG, None)
            tensor.detach_()
        for draft in (*self.states, *self.attentions):
            vars(draft).clear()
        for node in self._nodes:
            node.read = node.scored = None
        for held in (
            self.states,
            self.attentions,
            self._nodes,
            self._marked,
            self._written,
            self._sources,
        ):
            held.clear()
        self._settled.clear()

    def node(
        self, *parents: Node, origin: Node | None = None, carried: tuple[Node, ...] = ()
    ) -> Node:
        """A new computed value."""
        root = origin.root if origin is not None else None
        made = Node(len(self._nodes), parents, root, carried)
        self._nodes.append(made)
        return made

    def module(self) -> str:
        """Path of the innermost module of the network whose forward is running."""
        names = (self.module_names.get(id(owner)) for owner in objects_running())
        return next((name for name in names if name is not None), "") or "the network"

    def at(self, message: str) -> str:
        """A message with the place it speaks of."""
        return f"{message}, in {self.module()}"

    def flag(self, what: str, node: Node) -> None:
        """Note that tokens see their neighbours in everything computed from a value."""
        self._flags.append((node, self.at(what)))

    def approximations(self, attentions: Iterable[AttentionDraft]) -> tuple[str, ...]:
        """The flags that lie between tokens and the queries, keys or values of some attentions."""
        reached: set[int] = set()
        waiting = [node for draft in attentions for node in draft.nodes]
        while waiting:
            node = waiting.pop()
            if node.index not in reached:
                reached.add(node.index)
                waiting += [*node.parents, *((node.origin,) if node.origin else ())]
        return tuple(dict.fromkeys(text for node, text in self._flags if node.index in reached))

    # --- states ---------------------------------------------------------------------------------

    def new_state(self, kind: Any, labels: Labels, **fields: Any) -> StateDraft:
        """A state whose tokens are numbered over the token axes of `labels`."""
        shape = tuple(labels.values.shape[axis] for axis in labels.varying) or (1,)
        draft = StateDraft(
            index=len(self.states), kind=kind, tokens=math.prod(shape), shape=shape, **fields
        )
        draft.module = self.module()
        draft.node = self.node()
        self.states.append(draft)
        return draft

    def add_input(self, name: str, tensor: Tensor) -> None:
        """Number the elements of a forward argument."""
        labels = Labels.number(tensor.shape)
        state = self.new_state("input", labels, names=(name,))
        state.shape = tuple(tensor.shape)
        self.mark(tensor, Tokens(state, labels, self.node()))

    def joint_input(self, parts: Sequence[Tokens], shape: tuple[int, ...]) -> Tokens:
        """Raw inputs of several arguments put side by side: one raw input with all their names."""
        names = tuple(dict.fromkeys(name for part in parts for name in part.state.names))
        labels = Labels.number(shape)
        state = self.new_state("input", labels, names=names)
        state.shape = shape
        return Tokens(state, labels, self.node(*(part.node for part in parts)))

    def source_of(self, owner: StateDraft, positions: Tensor | None, labels: Labels) -> StateDraft:
        """The source state made of the input elements `positions`, one for each set of them."""
        for known, where, state in self._sources:
            if known is owner and (where is positions or _equal(where, positions)):
                return state
        state = self.new_state("source", labels, names=owner.names)
        state.positions, state.input_shape = positions, owner.shape
        self._sources.append((owner, positions, state))
        return state

    def _numbered_as_known(self, owner: StateDraft, positions: Tensor, labels: Labels) -> Labels:
        """The same tokens in another order (a transposed input) keep the numbers they have."""
        for known, where, _ in self._sources:
            if known is not owner or where is None or where.numel() != positions.numel():
                continue
            order = where.flatten().argsort()
            ordered = where.flatten()[order]
            at = torch.searchsorted(ordered, positions.flatten()).clamp_max(len(order) - 1)
            if torch.equal(ordered[at], positions.flatten()):
                return Labels(labels.shape, order[at].reshape(positions.shape))
        return labels

    def tokens_of_input(self, tensor: Tensor, tag: Tokens, features: Iterable[int]) -> Tokens:
        """See a raw input as tokens: the given axes are features, all others number tokens."""
        axes = [axis % tensor.ndim for axis in features]
        positions = tag.labels.full()
        none = positions.max() + 1  # constants beside the input have no place in it
        positions = torch.where(positions < 0, none, positions)
        for axis in axes:
            positions = positions.amin(dim=axis, keepdim=True)
        positions = torch.where(positions == none, -1, positions)
        if tag.state.tokens == positions.numel() and not is_floating(tensor):
            positions = tag.labels.values
        labels = Labels.number(tensor.shape, axes)
        positions = positions.reshape(labels.values.shape)
        labels = self._numbered_as_known(tag.state, positions, labels)
        state = self.source_of(tag.state, positions, labels)
        state.stream = state.stream or activation(tensor, labels, self.keep_values)
        tokens = Tokens(state, labels, tag.node)
        self.attach(tensor, tokens)
        return tokens

    def settle(self, tag: Tokens, tensor: Tensor | None = None) -> Tokens:
        """Make the tokens of a tensor a state that others can be made from.

        A raw input becomes tokens (its last axis is the feature axis); an attention output that
        has not met its residual becomes a state without one, once for each set of attentions. It
        may meet its residual all the same, and then the state counts for nothing unless somebody
        reads it: a statistic that is only written down leaves the graph as it is.
        """
        if tag.state.kind == "input" and tensor is not None and tensor.ndim:
            tag = self.tokens_of_input(tensor, tag, [tensor.ndim - 1])
        tag.state.settled = True
        if tag.pending is None:
            tag.state.read = True
            return tag
        state = self.settled_as(tag)
        if state is None:
            drafts = list(tag.pending.attentions)
            state = self.new_state("join", tag.labels, attentions=drafts, settled=True)
            state.tokens, state.shape = tag.state.tokens, tag.state.shape
            # The output itself: every later use of these tokens comes after it.
            state.stream = drafts[0].output
            if tag.pending.held is not None:
                state.links = [(tag.state, tag.labels, tag.labels)]
                state.residual, state.stream = tag.pending.held
                state.branch = tag.pending.branch
            state.read = True
            self._settled[tag.pending.key, id(tag.pending.held)] = state, tag.pending
        return Tokens(state, tag.labels, tag.node)

    def settled_as(self, tag: Tokens) -> StateDraft | None:
        """The state that an attention output became when it was read, if it was."""
        if tag.pending is None:
            return None
        found = self._settled.get((tag.pending.key, id(tag.pending.held)))
        return None if found is None else found[0]

    def learn(self, tensor: Tensor, features: Sequence[int]) -> Tokens:
        """See a constant as learned tokens, numbered over all axes that are not features."""
        labels = Labels.number(tensor.shape, features)
        return self.learned(tensor, labels)

    def learned(self, tensor: Tensor, labels: Labels) -> Tokens:
        """See a constant as learned tokens with given labels."""
        state = self.new_state("learned", labels, settled=True)
        state.tokens = int(labels.values.max()) + 1 if labels.values.numel() else 0
        state.stream = activation(tensor, labels, self.keep_values)
        tag = Tokens(state, labels, self.node())
        self.mark(tensor, tag)
        return tag

    def merge(self, tag: Tokens, tensor: Tensor, labels: Labels, parents: Labels) -> Tokens:
        """Tokens made of several tokens each: `labels` number them, `parents` say of which."""
        if tag.pending is not None:
            tag = self.settle(tag, tensor)
        state = self.new_state("merge", labels, links=[(tag.state, labels, parents)], settled=True)
        return Tokens(state, labels, self.node(tag.node))

    def join(
        self, branch: Tokens, residual: Tokens, values: tuple[Any, Any], result: Tensor
    ) -> Tokens:
        """The residual stream after an attention: residual + branch."""
        assert branch.pending is not None
        self.settle(residual)
        shape = tuple(result.shape)
        labels = residual.labels.broadcast_to(shape)
        rows = branch.labels.broadcast_to(shape)
        state = self.new_state("join", labels, attentions=list(branch.pending.attentions))
        state.tokens, state.shape, state.settled = residual.state.tokens, residual.state.shape, True
        state.links = [(residual.state, labels, labels)]
        if branch.state is not residual.state or not rows.same_as(labels):
            state.rows = (branch.state, labels, rows)
        state.residual, state.branch = (relabelled(value, labels) for value in values)
        state.stream = activation(result, labels, value=False)
        return Tokens(state, labels, self.node(branch.node, residual.node))

    def sum(self, parts: Sequence[Tokens], tensors: Sequence[Tensor], result: Tensor) -> Tokens:
        """Two states added token by token."""
        shape = tuple(result.shape)
        parts = [self.settle(part, tensor) for part, tensor in zip(parts, tensors, strict=True)]
        placed = [part.labels.broadcast_to(shape) for part in parts]
        features = set(range(len(shape)))
        for labels in placed:
            features -= set(labels.varying)
        labels = Labels.number(shape, sorted(features))
        links = [(part.state, labels, at) for part, at in zip(parts, placed, strict=True)]
        state = self.new_state("sum", labels, links=links, settled=True)
        state.operands = [activation(tensor.expand(shape), labels) for tensor in tensors]
        state.stream = activation(result, labels)
        return Tokens(state, labels, self.node(*(part.node for part in parts)))

    def refuse(self, message: str) -> TraceError:
        """An error that names the module where recording stopped."""
        return TraceError(self.at(message))


def _equal(left: Tensor | None, right: Tensor | None) -> bool:
    if left is None or right is None:
        return left is right
    one, other = left.flatten(), right.flatten()
    return one.numel() == other.numel() and torch.equal(one.sort().values, other.sort().values)
