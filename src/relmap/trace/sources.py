"""Which tokens each forward argument became: order, learned tokens beside them, patch grid."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from relmap.trace.batch_axis import tokens_of_examples
from relmap.trace.graph import Attention, Source, State
from relmap.trace.tags import StateDraft
from relmap.trace.tracing import Recorded


def find_sources(
    recorded: Recorded,
    drafts: Sequence[StateDraft],
    states: Sequence[State],
    attentions: Sequence[Attention],
    examples: Sequence[Tensor],
    batch: int,
) -> tuple[Source, ...]:
    """The sources of a graph, in the order of the forward's arguments."""
    order = {name: place for place, name in enumerate(recorded.inputs)}
    found: list[Source] = []
    for state, draft in zip(states, drafts, strict=True):
        if state.kind != "source":
            continue
        names = tuple(sorted(state.names, key=lambda name: order[name]))
        report, beside = _with_learned(state, states, attentions)
        tokens = tokens_of_examples(examples[report.index], batch)
        own = _own_numbers(draft, state)
        tokens, elements = _in_input_order(tokens, _elements(report, state, beside, tokens, own))
        grid, cells = _grid(draft, state, batch)
        patches = None
        if grid is not None and cells is not None:
            patches = _positions(report, state, beside, cells, tokens)
        found.append(
            Source(names[0], names, report.index, tokens, elements, grid if patches is not None
                   else None, patches)
        )  # fmt: skip
    found = _entering_attention(found, states, drafts)
    found.sort(key=lambda source: (order[source.name], source.state))
    return tuple(_uniquely_named(found))


def _entering_attention(
    sources: Sequence[Source], states: Sequence[State], drafts: Sequence[StateDraft]
) -> list[Source]:
    """Of several sources of one argument, those that only convolutions read are left out."""
    entering = {source.name for source in sources if drafts[source.state].settled}
    return [
        source for source in sources
        if drafts[source.state].settled or source.name not in entering
    ]  # fmt: skip


def _uniquely_named(sources: Sequence[Source]) -> list[Source]:
    """An argument that became tokens twice (two patch sizes) is two sources: `x` and `x.2`."""
    seen: dict[str, int] = {}
    named = []
    for source in sources:
        count = seen[source.name] = seen.get(source.name, 0) + 1
        name = source.name if count == 1 else f"{source.name}.{count}"
        named.append(
            Source(name, source.names, source.state, source.tokens, source.elements, source.grid,
                   source.patches)
        )  # fmt: skip
    return named


def _with_learned(
    state: State, states: Sequence[State], attentions: Sequence[Attention]
) -> tuple[State, list[State]]:
    """Follow a source into the concatenations that only put learned tokens beside it.

    Only while nothing else reads the source: keys with a learned prefix are another matter.
    """
    chain: list[State] = []
    current = state
    for other in states:
        if other.kind != "concatenation" or other.index <= current.index:
            continue
        parents = {link.parent for link in other.links}
        if current.index not in parents:
            continue
        rest = parents - {current.index}
        if _read_otherwise(current, other, states, attentions):
            continue
        if all(states[index].kind == "learned" for index in rest):
            current = other
            chain.append(other)
    return current, chain


def _read_otherwise(
    state: State, reader: State, states: Sequence[State], attentions: Sequence[Attention]
) -> bool:
    """Whether anything but one state is made from a state or attends with it."""
    linked = any(
        link.parent == state.index
        for one in states
        if one.index != reader.index
        for link in one.links
    )
    return linked or any(state.index in (one.query_state, one.key_state) for one in attentions)


def _own_numbers(draft: StateDraft, state: State) -> Tensor:
    """The tokens of a source, counted where the input made them; -1 where a constant did.

    A read-out token or padding put beside the raw input is no element of it.
    """
    places = draft.positions
    if places is None or places.numel() != state.tokens:
        return torch.arange(state.tokens)
    made = places.flatten() >= 0
    return torch.where(made, made.cumsum(0) - 1, -1)


def _elements(
    report: State, source: State, chain: list[State], tokens: Tensor, numbers: Tensor
) -> Tensor:
    """Which of the source's own tokens each reported token is; -1 where no input made it."""
    made = _mapped(torch.arange(source.tokens), source, chain)
    own = torch.full((report.tokens,), -1)
    kept = made >= 0
    own[made[kept]] = numbers[kept]
    return torch.where(tokens >= 0, own[tokens.clamp_min(0)], -1)


def _in_input_order(tokens: Tensor, elements: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens in the order of the input, where a network drew another order for each example."""
    tokens, elements = tokens.clone(), elements.clone()
    for row, numbers in zip(tokens, elements, strict=True):
        made = numbers >= 0
        order = numbers[made].argsort()
        row[made], numbers[made] = row[made][order], numbers[made][order]
    return tokens, elements


def _mapped(tokens: Tensor, source: State, chain: Sequence[State]) -> Tensor:
    """Where tokens of the source stand in the last state of the chain."""
    current = source.index
    for state in chain:
        place = torch.full((int(tokens.max()) + 1,), -1)
        for link in state.links:
            if link.parent != current:
                continue
            if link.parent_tokens is None or link.child_tokens is None:
                place = torch.arange(len(place))
                continue
            kept = link.parent_tokens < len(place)
            place[link.parent_tokens[kept]] = link.child_tokens[kept]
        tokens = torch.where(tokens >= 0, place[tokens.clamp_min(0)], -1)
        current = state.index
    return tokens


def _positions(
    report: State, source: State, chain: Sequence[State], cells: Tensor, tokens: Tensor
) -> Tensor | None:
    placed = _mapped(cells, source, chain)
    if bool((placed < 0).any()):
        return None
    where = torch.full((report.tokens,), -1)
    first = tokens[0][tokens[0] >= 0]
    where[first] = torch.arange(len(first))
    positions = where[placed]
    return None if bool((positions < 0).any()) else positions


def _grid(
    draft: StateDraft, state: State, batch: int
) -> tuple[tuple[int, ...] | None, Tensor | None]:
    """The patch grid and the source tokens of example 0 in row-major order."""
    if draft.grid is not None:
        if len(draft.grid) < 2:
            return None, None
        count = math.prod(draft.grid)
        frames, rest = divmod(state.tokens, count * batch)
        if rest or not frames:
            return None, None
        # Several grids an example: the frames of a video, or crops of a picture.
        grid = draft.grid if frames == 1 else (frames, *draft.grid)
        return (grid, torch.arange(frames * count)) if len(grid) <= 3 else (None, None)
    shape = draft.input_shape
    if draft.positions is None or len(shape) != 4 or state.tokens % batch:
        return None, None
    return _grid_of_positions(draft.positions.flatten(), shape, state.tokens // batch)


def _grid_of_positions(
    positions: Tensor, shape: tuple[int, ...], count: int
) -> tuple[tuple[int, ...] | None, Tensor | None]:
    """The grid of tokens cut out of an image by reshaping: where their first pixels lie."""
    first = (positions >= 0) & (positions < math.prod(shape[1:]))
    tokens = torch.nonzero(first).flatten()
    if len(tokens) != count:
        return None, None
    width = shape[-1]
    pixel = positions[tokens] % (shape[-2] * width)
    rows, columns = pixel // width, pixel % width
    height, wide = len(torch.unique(rows)), len(torch.unique(columns))
    if height * wide != count:
        return None, None
    order = torch.argsort(rows * width + columns)
    return (height, wide), tokens[order]
