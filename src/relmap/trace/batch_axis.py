"""Which example of the batch every token belongs to."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from relmap.errors import TraceError
from relmap.trace.graph import Attention, State
from relmap.trace.tags import StateDraft

UNKNOWN = -1


def token_examples(
    states: Sequence[State], attentions: Sequence[Attention], batch: int
) -> tuple[Tensor, ...]:
    """For every state, the example of each token: (token,), -1 where nothing tells.

    The batch axis of a state is the axis of its size along which no attention mixes the tokens
    that it shares with other states. A state without such an axis (packed sequences), or with
    several, learns it from the states that it was made from or that were made from it.

    Raises:
        TraceError: two axes of a state may be the batch axis, and nothing tells them apart.
    """
    axes = _batch_axes(states, attentions, batch)
    found = [_along(state, axes[state.index], batch) for state in states]
    for _ in range(2):  # what was learned upwards may be handed down on another side
        for state in reversed(states):
            _hand_down(state, states, attentions, found)
        for state in states:
            _hand_up(state, found)
    for state in states:
        mine, filled = found[state.index], _contiguous(state, batch)
        if mine is None and state.kind != "learned" and len(axes[state.index]) > 1:
            raise TraceError(
                f"two axes of the tokens of {state.module} are as long as the batch, and relmap "
                "cannot tell which of them counts the examples; explain one example at a time"
            )
        if mine is None or filled is None:
            found[state.index] = filled if mine is None else mine
        else:
            found[state.index] = torch.where(mine < 0, filled, mine)
    return tuple(
        torch.full((state.tokens,), UNKNOWN) if one is None else one
        for state, one in zip(states, found, strict=True)
    )


def pass_examples_on(drafts: Sequence[StateDraft], batch: int) -> None:
    """The examples of drafts beside the graph: what its states become, and the raw inputs."""
    for draft in drafts:
        if draft.examples is not None or batch == 1:
            continue
        if draft.kind == "input":
            draft.examples = _of_elements(draft, drafts, batch)
        elif draft.links:
            draft.examples = _of_links(draft)


def _of_links(draft: StateDraft) -> Tensor:
    mine = torch.full((draft.tokens,), UNKNOWN)
    for parent, child, theirs in draft.links:
        one, other = torch.broadcast_tensors(child.values, theirs.values)
        kept = (one >= 0) & (other >= 0) & (one < draft.tokens)
        if parent.examples is not None:
            mine[one[kept]] = parent.examples[other[kept]]
    return mine


def _of_elements(draft: StateDraft, drafts: Sequence[StateDraft], batch: int) -> Tensor | None:
    """Elements of a raw input belong to the examples of the tokens that were cut out of it."""
    shape = draft.shape
    axes = [axis for axis, size in enumerate(shape) if size == batch]
    if len(axes) < 2:  # the size alone tells
        return None
    for one in drafts:
        if one.kind != "source" or (one.names, one.input_shape) != (draft.names, shape):
            continue
        if one.positions is None or one.examples is None:
            continue
        places = {
            axis: one.positions.flatten() // math.prod(shape[axis + 1 :]) % batch for axis in axes
        }
        axes = [axis for axis in axes if torch.equal(places[axis], one.examples)]
    if len(axes) != 1:
        return None
    return torch.arange(math.prod(shape)) // math.prod(shape[axes[0] + 1 :]) % batch


def tokens_of_examples(examples: Tensor, batch: int) -> Tensor:
    """Token numbers as (example, token), of which example each token is; -1 where one has fewer.

    Example:
        >>> tokens_of_examples(torch.tensor([0, 1, 0]), 2).tolist()
        [[0, 2], [1, -1]]
    """
    rows = [torch.nonzero(examples == example).flatten() for example in range(batch)]
    table = torch.full((batch, max((len(row) for row in rows), default=0)), -1)
    for example, row in enumerate(rows):
        table[example, : len(row)] = row
    return table


def _batch_axes(
    states: Sequence[State], attentions: Sequence[Attention], batch: int
) -> list[list[int]]:
    """For every state, the axes of its token shape that may count examples."""
    streams: list[int] = []  # the oldest state with the same tokens, along residual connections
    for state in states:
        same = [
            link.parent for link in state.links
            if link.child_tokens is None and states[link.parent].shape == state.shape
        ]  # fmt: skip
        streams.append(streams[same[0]] if same and same[0] < state.index else state.index)
    axes = [
        [axis for axis, size in enumerate(state.shape) if size == batch]
        if math.prod(state.shape) == state.tokens else []
        for state in states
    ]  # fmt: skip
    told = [one for one in attentions if not one.is_mixer]  # a mixer has no groups
    for attention in told if batch > 1 else ():
        for index, tokens in (
            (attention.query_state, attention.row_tokens),
            (attention.key_state, attention.column_tokens),
        ):
            stream, shape = streams[index], states[index].shape
            axes[stream] = [axis for axis in axes[stream] if not _mixes(shape, tokens, axis)]
    return [axes[stream] for stream in streams]


def _mixes(shape: tuple[int, ...], tokens: Tensor, axis: int) -> bool:
    """Whether the tokens of one group of an attention, (group, token), differ along an axis."""
    place = tokens // math.prod(shape[axis + 1 :]) % shape[axis]
    known = tokens >= 0
    first = torch.where(known, place, shape[axis]).amin(dim=1, keepdim=True)
    return bool(((place != first) & known).any())


def _along(state: State, axes: Sequence[int], batch: int) -> Tensor | None:
    if batch == 1:
        return torch.zeros(state.tokens, dtype=torch.long)
    if len(axes) != 1:
        return None
    return torch.arange(state.tokens) // math.prod(state.shape[axes[0] + 1 :]) % batch


def _hand_up(state: State, found: list[Tensor | None]) -> None:
    """A state made from one whose examples are known."""
    if found[state.index] is not None:
        return
    mine = torch.full((state.tokens,), UNKNOWN)
    for link in state.links:
        theirs = found[link.parent]
        if theirs is None:
            continue
        if link.child_tokens is None or link.parent_tokens is None:
            mine = theirs.clone()
        else:
            mine[link.child_tokens] = theirs[link.parent_tokens]
    if bool((mine >= 0).any()):
        found[state.index] = mine


def _contiguous(state: State, batch: int) -> Tensor | None:
    """Frames or texts of one example lie side by side along the first axis."""
    if math.prod(state.shape) != state.tokens or state.shape[0] % batch:
        return None
    return torch.arange(state.tokens) // (state.tokens // batch)


def _hand_down(
    state: State, states: Sequence[State], attentions: Sequence[Attention],
    found: list[Tensor | None],
) -> None:  # fmt: skip
    mine = found[state.index]
    if mine is None:
        return
    for link in state.links:
        if found[link.parent] is not None:
            continue
        if link.child_tokens is None or link.parent_tokens is None:
            found[link.parent] = mine.clone()
            continue
        theirs = torch.full((states[link.parent].tokens,), UNKNOWN)
        theirs[link.parent_tokens] = mine[link.child_tokens]
        found[link.parent] = theirs
    for index in state.attentions:
        attention = attentions[index]
        if attention.is_mixer:
            continue
        if found[attention.key_state] is None and state.rows is None:
            rows = torch.where(attention.row_tokens < 0, UNKNOWN, mine[attention.row_tokens])
            theirs = torch.full((states[attention.key_state].tokens,), UNKNOWN)
            group = rows.amax(dim=1, keepdim=True).expand_as(attention.column_tokens)
            kept = attention.column_tokens >= 0
            theirs[attention.column_tokens[kept]] = group[kept]
            found[attention.key_state] = theirs
