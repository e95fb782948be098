"""Whole relevance maps, carried up the token graph.

R of a state has a row for each of its tokens and a column for each token of the *leaves* (sources
and learned tokens): R = I at the leaves, and every join mixes rows. This is the textbook form of
the accumulation rules; it costs O(N^3) a layer, so it serves the rules that really read whole maps
(GenAtt's co-attention, rollout across modalities) and checks the row form of all others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from relmap.errors import TraceError
from relmap.relevance.rows import (
    PropagationRule,
    RecordedPass,
    link_weights,
    mixing,
    normalized,
    skipped_joins,
)
from relmap.trace.graph import Link, State, TokenGraph

Map = Float[Tensor, "batch token leaf"]


@dataclass(eq=False)
class Maps:
    """Relevance maps of the states recorded so far, one block for each leaf.

    `blocks[state][leaf]` is (batch, tokens of the state, tokens of the leaf); a missing block is
    zero. `places[state]` says where each token number stands: (example, position). `units[state]`
    is what its tokens are of the leaves over links alone: the I of the formulas, where nothing was
    merged.
    """

    passed: RecordedPass
    leaves: tuple[int, ...]
    places: dict[int, tuple[Tensor, Tensor, int]]
    blocks: dict[int, dict[int, Tensor]] = field(default_factory=dict)
    units: dict[int, dict[int, Tensor]] = field(default_factory=dict)

    @property
    def graph(self) -> TokenGraph:
        """The token graph."""
        return self.passed.graph

    def size(self, state: int) -> int:
        """Number of tokens an example has in a state."""
        return self.places[state][2]

    def zeros(self, state: int, leaf: int) -> Map:
        """A zero block."""
        shape = (self.graph.batch, self.size(state), self.size(leaf))
        return torch.zeros(shape, dtype=self.dtype, device=self.graph.device())

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the maps."""
        return torch.float64 if self.graph.blank.dtype == torch.float64 else torch.float32

    def block(self, state: int, leaf: int) -> Map:
        """One block, zero if nothing has reached it."""
        found = self.blocks[state].get(leaf)
        return self.zeros(state, leaf) if found is None else found


Update = Callable[[Maps, State, dict[int, Tensor], list[tuple[int, Tensor]]], dict[int, Tensor]]
"""(maps, join, blocks of its residual, [(key state, E)]) -> blocks of the join."""


def carry_maps(passed: RecordedPass, rule: PropagationRule, update: Update | None = None) -> Maps:
    """Carry R from the leaves to the final states, with a rule's own update at the joins.

    The default update is the linear one: R <- w_res R + w_att E R_keys.
    """
    graph = passed.graph
    if graph.lost:
        raise TraceError(graph.lost)
    reported = {source.state for source in graph.sources}
    leaves = tuple(
        state.index for state in graph.states
        if state.index in reported or (not state.links and not state.attentions)
    )  # fmt: skip
    maps = Maps(passed, leaves, {s.index: _places(graph, s) for s in graph.states})
    skipped = skipped_joins(graph, rule.start_layer)
    for state in graph.states:
        index = state.index
        if index in leaves:
            eye = torch.eye(maps.size(index), dtype=maps.dtype, device=graph.device())
            maps.blocks[index] = {index: eye.expand(graph.batch, -1, -1)}
            maps.units[index] = maps.blocks[index]
            continue
        if state.kind != "join":
            maps.units[index] = _from_links(maps, state, maps.units)
            maps.blocks[index] = _from_links(maps, state, maps.blocks)
            continue
        if state.links:
            maps.units[index] = _residual(maps, state, maps.units)
        if index in skipped:
            maps.blocks[index] = _residual(maps, state, maps.blocks)
        else:
            maps.blocks[index] = _at_join(maps, rule, state, update)
        # A stream that begins with an attention begins with what it read.
        maps.units.setdefault(index, maps.blocks[index])
    return maps


def read_rows(maps: Maps, leaves: Mapping[int, Tensor] | None = None) -> dict[int, Tensor]:
    """The rows that the target reads, as relevance on the tokens of every leaf."""
    rows_of_leaves = dict(leaves or {})
    for index, row in maps.passed.readout.items():
        example, position, size = maps.places[index]
        dense = torch.zeros(maps.graph.batch, size, dtype=maps.dtype, device=row.device)
        known = example >= 0
        dense[example[known], position[known]] = row[known].to(maps.dtype)
        for leaf, block in maps.blocks[index].items():
            pushed = torch.einsum("bn,bnl->bl", dense, block)
            on_tokens = scatter_back(maps, leaf, pushed)
            rows_of_leaves[leaf] = (
                on_tokens if leaf not in rows_of_leaves else rows_of_leaves[leaf] + on_tokens
            )
    return rows_of_leaves


def scatter_back(maps: Maps, state: int, dense: Float[Tensor, "batch token"]) -> Tensor:
    """(batch, token) values on the token numbers of a state."""
    example, position, _ = maps.places[state]
    values = dense[example.clamp_min(0), position.clamp_min(0)]
    return torch.where(example >= 0, values, 0)


def dense_mixing(
    maps: Maps, rule: PropagationRule, state: State, call: int
) -> Float[Tensor, "batch query key"]:
    """The token mixing E of one call as a whole matrix for each example."""
    graph = maps.graph
    attention = graph.attentions[call]
    row_state = state.index if state.rows is None else state.rows.parent
    row_places, key_places = maps.places[row_state], maps.places[attention.key_state]
    shape = (graph.batch, row_places[2], key_places[2])
    dense = torch.zeros(shape, dtype=maps.dtype, device=graph.device())
    columns = attention.column_tokens.to(dense.device)
    for rows, values in mixing(maps.passed, rule, attention):
        values = values.to(dense.device)
        tokens = attention.row_tokens[:, rows].to(dense.device)
        if attention.row_copies is not None:
            copies = attention.row_copies.to(dense.device)[tokens.clamp_min(0)]
            values = values / copies[..., None]
        keep = (tokens[:, :, None] >= 0) & (columns[:, None, :] >= 0)
        example = row_places[0][tokens.clamp_min(0)][:, :, None].expand_as(keep)
        row = row_places[1][tokens.clamp_min(0)][:, :, None].expand_as(keep)
        column = key_places[1][columns.clamp_min(0)][:, None, :].expand_as(keep)
        dense.index_put_(
            (example[keep], row[keep], column[keep]), values[keep].to(dense.dtype), accumulate=True
        )
    return dense


def _at_join(
    maps: Maps, rule: PropagationRule, state: State, update: Update | None
) -> dict[int, Tensor]:
    graph = maps.graph
    calls = [
        (graph.attentions[index].key_state, _mixing_of(maps, rule, state, index))
        for index in state.attentions
    ]  # fmt: skip
    if not state.links:
        total = torch.stack([mixed.sum(-1) for _, mixed in calls]).sum(0)
        return _mixed(maps, [(key, normalized(mixed, total)) for key, mixed in calls])
    residual = _residual(maps, state, maps.blocks)
    if update is not None:
        return update(maps, state, residual, calls)
    sums = torch.stack([mixed.sum(-1) for _, mixed in calls]).sum(0)
    share = (
        None if rule.share is None else gather(maps, state.index, rule.share(maps.passed, state))
    )
    kept, taken = rule.weigh(sums, share)
    if rule.normalize:
        calls = [(key, normalized(mixed, sums)) for key, mixed in calls]
    blocks = _mixed(maps, [(key, mixed * taken.expand_as(sums)[..., None]) for key, mixed in calls])
    for leaf, block in residual.items():
        scaled = block * kept.expand_as(sums)[..., None]
        blocks[leaf] = scaled if leaf not in blocks else blocks[leaf] + scaled
    return blocks


def _mixing_of(maps: Maps, rule: PropagationRule, state: State, call: int) -> Tensor:
    """Rows of E of one call, in the order of the join's own tokens."""
    mixed = dense_mixing(maps, rule, state, call)
    if state.rows is None:
        return mixed
    return link_matrix(maps, state, state.rows) @ mixed


def _mixed(maps: Maps, calls: list[tuple[int, Tensor]]) -> dict[int, Tensor]:
    blocks: dict[int, Tensor] = {}
    for key, mixed in calls:
        for leaf, block in maps.blocks[key].items():
            product = mixed @ block
            blocks[leaf] = product if leaf not in blocks else blocks[leaf] + product
    return blocks


def _residual(maps: Maps, state: State, below: dict[int, dict[int, Tensor]]) -> dict[int, Tensor]:
    link = state.links[0]
    if link.child_tokens is None:
        return dict(below[link.parent])
    matrix = link_matrix(maps, state, link)
    return {leaf: matrix @ block for leaf, block in below[link.parent].items()}


def _from_links(maps: Maps, state: State, below: dict[int, dict[int, Tensor]]) -> dict[int, Tensor]:
    blocks: dict[int, Tensor] = {}
    for link, weight in zip(state.links, link_weights(maps.passed, state), strict=True):
        matrix = link_matrix(maps, state, link)
        scaled = matrix * gather(maps, state.index, weight)[..., None]
        for leaf, block in below[link.parent].items():
            product = scaled @ block
            blocks[leaf] = product if leaf not in blocks else blocks[leaf] + product
    return blocks


def link_matrix(maps: Maps, state: State, link: Link) -> Float[Tensor, "batch child parent"]:
    """Rows: tokens of the state; columns: tokens of the parent; rows sum to 1 (or are empty)."""
    graph = maps.graph
    example, position, size = maps.places[state.index]
    parent_places = maps.places[link.parent]
    if link.child_tokens is None or link.parent_tokens is None:
        eye = torch.eye(size, dtype=maps.dtype, device=graph.device())
        return eye.expand(graph.batch, -1, -1)
    child = link.child_tokens.to(example.device)
    parent = link.parent_tokens.to(example.device)
    copies = torch.bincount(child, minlength=state.tokens).clamp_min(1).to(maps.dtype)
    matrix = torch.zeros(
        (graph.batch, size, parent_places[2]), dtype=maps.dtype, device=graph.device()
    )
    matrix.index_put_(
        (example[child], position[child], parent_places[1][parent]), 1 / copies[child],
        accumulate=True,
    )  # fmt: skip
    return matrix


def gather(maps: Maps, state: int, values: Float[Tensor, " token"]) -> Tensor:
    """Values on the token numbers of a state, as (batch, token)."""
    example, position, size = maps.places[state]
    dense = values.new_zeros((maps.graph.batch, size))
    known = example >= 0
    dense[example[known], position[known]] = values[known]
    return dense


def _places(graph: TokenGraph, state: State) -> tuple[Tensor, Tensor, int]:
    """Example and position of every token of a state, and the tokens of the largest example."""
    example = graph.examples[state.index]
    if bool((example < 0).all()):
        raise TraceError(
            f"relmap cannot tell which example of the batch the tokens of {state.module} belong "
            "to; explain one example at a time"
        )
    position = torch.zeros_like(example)
    size = 0
    for one in range(graph.batch):
        mine = example == one
        count = int(mine.sum())
        position[mine] = torch.arange(count)
        size = max(size, count)
    device = graph.device()
    return example.to(device), position.to(device), size
