"""Read-outs: which stream a target reads, its blocks, and what it would say of another vector.

A head reads some tokens of a final state (the class token, the last word, all patches). To ask what
it would say of another vector, the vector is put where the head reads, in the state as it leaves
the last block, and the head runs again.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from relmap.errors import InputError
from relmap.relevance.attention_maps import folded, wide
from relmap.relevance.token_rows import columns, from_rows, to_rows
from relmap.relevance.traced_pass import RecordedPass
from relmap.trace.graph import Activation, Attention, State, TokenGraph


@dataclass(frozen=True, eq=False)
class Block:
    """An attention sub-layer of a residual stream with what follows it, up to the next one."""

    state: State
    calls: tuple[Attention, ...]


@dataclass(frozen=True, eq=False)
class ReadOut:
    """What a target reads: the blocks of one residual stream, oldest first, and its last state.

    `pool` is the attention by which learned queries pool that state, where the target reads those.
    """

    state: State
    blocks: tuple[Block, ...]
    pool: Attention | None = None

    @property
    def end(self) -> Activation:
        """The state as it leaves its last block."""
        assert self.state.end is not None
        return self.state.end


def read_outs(passed: RecordedPass) -> list[ReadOut]:
    """The residual streams that the target reads.

    Raises:
        InputError: it reads none whose blocks can be told apart.
    """
    graph, outs = passed.graph, []
    for index in passed.readout:
        state, pool = graph.states[index], None
        if state.kind == "join" and not state.links and len(state.attentions) == 1:
            pool = graph.attentions[state.attentions[0]]
            state = graph.states[pool.key_state]
        blocks = _blocks(graph, state)
        if blocks and state.end is not None:
            outs.append(ReadOut(state, blocks, pool))
    if not outs:
        raise InputError(
            "the target reads no residual stream with attention blocks of its own, so there is no "
            "last block to run again; use genatt"
        )
    return outs


def _blocks(graph: TokenGraph, state: State) -> tuple[Block, ...]:
    blocks: list[Block] = []
    while True:
        parents = list(dict.fromkeys(link.parent for link in state.links))
        made = [graph.states[index] for index in parents]
        calls: list[int] = []
        if state.kind == "join":
            calls, made = list(state.attentions), made[:1]
        elif state.kind == "sum":
            # A normed attention output is a state without a residual, added to one.
            bare = [one for one in made if one.kind == "join" and not one.links]
            calls = [index for one in bare for index in one.attentions]
            made = [one for one in made if one not in bare]
        made = [one for one in made if one.kind != "learned"]
        if calls and made:
            blocks.insert(0, Block(state, tuple(graph.attentions[index] for index in calls)))
        stem = _stem(graph, made)
        if stem is None:
            return tuple(blocks)
        state = stem


def _stem(graph: TokenGraph, states: list[State]) -> State | None:
    """Of some states the one that all others were made of (experts of a stream, say)."""
    for one in states:
        if all(_reaches(graph, other, one) for other in states):
            return one
    return None


def _reaches(graph: TokenGraph, state: State, other: State) -> bool:
    waiting = [state.index]
    while waiting:
        index = waiting.pop()
        if index == other.index:
            return True
        waiting += [link.parent for link in graph.states[index].links if link.parent >= other.index]
    return False


def put(
    passed: RecordedPass, read_out: ReadOut, vectors: Float[Tensor, "batch feature"],
    rows: Float[Tensor, "token feature"],
) -> Tensor:  # fmt: skip
    """The last state with one vector per example wherever the target reads; all else is `rows`."""
    graph, state = passed.graph, read_out.state
    examples = graph.examples[state.index].to(rows.device)
    read = passed.readout[state.index].to(rows.device) > 0
    placed = torch.where(read[:, None], vectors[examples.clamp_min(0)].to(rows.dtype), rows)
    return from_rows(read_out.end, placed, passed.replay.value(read_out.end))


def alone(
    passed: RecordedPass, read_out: ReadOut, rows: Float[Tensor, "token feature"]
) -> Float[Tensor, " token"]:
    """For every token the target if its row alone stood wherever the target reads."""
    graph, state, replay = passed.graph, read_out.state, passed.replay
    whole = to_rows(read_out.end, replay.value(read_out.end), state.tokens)
    scores = wide(rows.new_zeros(state.tokens))
    for column in columns(graph, state):
        vectors = rows[column.clamp_min(0)]
        given = {read_out.end: put(passed, read_out, vectors, whole)}
        values = replay.target(given)
        kept = column >= 0
        scores[column[kept]] = values.detach().to(scores.dtype)[kept]
    return scores


def alone_in_pool(
    passed: RecordedPass, pool: Attention, values: Float[Tensor, "group head key feature"]
) -> Float[Tensor, " token"]:
    """For every key of a pooling attention the target if its queries read that key alone."""
    graph = passed.graph
    scores = wide(values.new_zeros(pool.key_tokens))
    examples = graph.examples[pool.key_state].to(values.device)
    rows = pool.row_tokens.shape[1]
    for key, tokens in enumerate(pool.column_tokens.to(values.device).unbind(1)):
        laid = values[:, :, key, None].expand(-1, -1, rows, -1)
        given = {pool.output: folded(pool.output_arrangement, laid, pool.output.shape)}
        found = passed.replay.target(given).detach().to(scores.dtype)
        kept = tokens >= 0
        scores[tokens[kept]] = found[examples[tokens[kept]]]
    return scores
