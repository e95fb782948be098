"""Which example of the batch every token belongs to."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from relmap.graph import Attention, State

UNKNOWN = -1


def token_examples(
    states: Sequence[State], attentions: Sequence[Attention], batch: int
) -> tuple[Tensor, ...]:
    """For every state, the example of each token: (token,), -1 where nothing tells.

    The batch axis of a state is the axis of its size; where two axes have that size the groups of
    its attentions decide. States without such an axis (packed sequences) learn it from the states
    that were made from them.
    """
    found: list[Tensor | None] = [_from_shape(state, attentions, batch) for state in states]
    for state in reversed(states):
        _hand_down(state, states, attentions, found)
    for state in states:
        _hand_up(state, found)
    for state in states:
        mine, filled = found[state.index], _contiguous(state, batch)
        if mine is None or filled is None:
            found[state.index] = filled if mine is None else mine
        else:
            found[state.index] = torch.where(mine < 0, filled, mine)
    return tuple(
        torch.full((state.tokens,), UNKNOWN) if one is None else one
        for state, one in zip(states, found, strict=True)
    )


def batch_axis(state: State, attentions: Sequence[Attention], batch: int) -> int | None:
    """The axis of a state's token shape that counts examples."""
    if math.prod(state.shape) != state.tokens:
        return None
    axes = [axis for axis, size in enumerate(state.shape) if size == batch]
    if len(axes) <= 1:
        return axes[0] if axes else None
    for attention in attentions:
        sides = (
            (attention.query_state, attention.row_tokens),
            (attention.key_state, attention.column_tokens),
        )
        for index, tokens in sides:
            if index == state.index and tokens.shape[0] == batch:
                for axis in axes:
                    if _groups_follow(state.shape, tokens, axis):
                        return axis
    return axes[0]


def _groups_follow(shape: tuple[int, ...], tokens: Tensor, axis: int) -> bool:
    place = tokens // math.prod(shape[axis + 1 :]) % shape[axis]
    expected = torch.arange(tokens.shape[0])[:, None].expand_as(tokens)
    return bool((place == expected)[tokens >= 0].all())


def _from_shape(state: State, attentions: Sequence[Attention], batch: int) -> Tensor | None:
    if batch == 1:
        return torch.zeros(state.tokens, dtype=torch.long)
    axis = batch_axis(state, attentions, batch)
    if axis is None:
        return None
    return torch.arange(state.tokens) // math.prod(state.shape[axis + 1 :]) % batch


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
        if found[attention.key_state] is None and state.rows is None:
            rows = torch.where(attention.row_tokens < 0, UNKNOWN, mine[attention.row_tokens])
            theirs = torch.full((states[attention.key_state].tokens,), UNKNOWN)
            group = rows.amax(dim=1, keepdim=True).expand_as(attention.column_tokens)
            kept = attention.column_tokens >= 0
            theirs[attention.column_tokens[kept]] = group[kept]
            found[attention.key_state] = theirs
