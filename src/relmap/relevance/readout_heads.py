"""What methods share that run parts of a network again: tokens as rows, read-outs, blocks.

A head reads some tokens of a final state (the class token, the last word, all patches). To ask what
it would say of another vector, the vector is put where the head reads, in the state as it leaves
the last block, and the head runs again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from relmap.errors import InputError
from relmap.relevance.attention_maps import attention_rows, wide
from relmap.relevance.rows import link_weights, moved
from relmap.relevance.traced_pass import RecordedPass
from relmap.trace.graph import Activation, Arrangement, Attention, State, TokenGraph


@dataclass(frozen=True, eq=False)
class Block:
    """An attention sub-layer of a residual stream with what follows it, up to the next one."""

    state: State
    calls: tuple[Attention, ...]


@dataclass(frozen=True, eq=False)
class Reading:
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


def readings(passed: RecordedPass) -> list[Reading]:
    """The residual streams that the target reads.

    Raises:
        InputError: it reads none whose blocks can be told apart.
    """
    graph, found = passed.graph, []
    for index in passed.readout:
        state, pool = graph.states[index], None
        if state.kind == "join" and not state.links and len(state.attentions) == 1:
            pool = graph.attentions[state.attentions[0]]
            state = graph.states[pool.key_state]
        blocks = _blocks(graph, state)
        if blocks and state.end is not None:
            found.append(Reading(state, blocks, pool))
    if not found:
        raise InputError(
            "the target reads no residual stream with attention blocks of its own, so there is no "
            "last block to run again; use genatt"
        )
    return found


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


# --- tokens as rows ---------------------------------------------------------------------------


def to_rows(activation: Activation, tensor: Tensor, count: int) -> Float[Tensor, "token feature"]:
    """An activation as one row of features for each token; zero where a token has none."""
    rows, tokens = _flat(activation, tensor)
    kept = tokens >= 0
    found = rows.new_zeros(count, rows.shape[1])
    return found.index_copy(0, tokens[kept], rows[kept])


def from_rows(
    activation: Activation, rows: Float[Tensor, "token feature"], tensor: Tensor
) -> Tensor:
    """Rows of features laid out as an activation is; places without a token as in `tensor`."""
    known, tokens = _flat(activation, tensor)
    laid = torch.where((tokens >= 0)[:, None], rows.to(known.dtype)[tokens.clamp_min(0)], known)
    order, shape = _order(activation, tensor)
    return laid.reshape(shape).permute([order.index(axis) for axis in range(tensor.ndim)])


def _order(activation: Activation, tensor: Tensor) -> tuple[list[int], list[int]]:
    """Axes with those of tokens first, and their sizes."""
    tokens = activation.tokens
    missing = tensor.ndim - tokens.ndim
    features = [
        axis for axis, size in enumerate(tensor.shape)
        if size != 1 and (axis < missing or tokens.shape[axis - missing] == 1)
    ]  # fmt: skip
    order = [axis for axis in range(tensor.ndim) if axis not in features] + features
    return order, [tensor.shape[axis] for axis in order]


def _flat(activation: Activation, tensor: Tensor) -> tuple[Tensor, Tensor]:
    """The places of tokens as rows of features, and their token numbers."""
    order, _ = _order(activation, tensor)
    tokens = activation.tokens.to(tensor.device)
    tokens = tokens.reshape((1,) * (tensor.ndim - tokens.ndim) + tuple(tokens.shape))
    lead = [
        size if tokens.shape[axis] != 1 or size == 1 else 1
        for axis, size in enumerate(tensor.shape)
    ]
    flat = tokens.expand(lead).permute(order).reshape(-1)
    return tensor.permute(order).reshape(len(flat), -1), flat


def folded(
    arrangement: Arrangement, laid: Float[Tensor, "group head row feature"],
    shape: tuple[int, ...],
) -> Tensor:  # fmt: skip
    """The way back from (group, head, row, feature) to a tensor of the call."""
    if arrangement.heads_first:
        laid = laid.transpose(0, 1)
    moved_shape = [shape[axis] for axis in arrangement.permutation]
    moved_back = [arrangement.permutation.index(axis) for axis in range(len(shape))]
    return laid.reshape(moved_shape).permute(moved_back)


def value_heads(call: Attention) -> Float[Tensor, "group head key feature"]:
    """The value vectors with as many heads as the output has."""
    return call.value.repeat_interleave(call.heads // call.value.shape[1], dim=1)


def open_pairs(
    call: Attention, rows: Int[Tensor, " row"]
) -> Bool[Tensor, "group head row key"] | None:
    """Which keys some query rows may read; None where no mask closes any."""
    if call.probabilities is None and call.mask is None and not call.causal:
        return None
    return attention_rows(call, rows) > 0


def mixes_itself(call: Attention) -> bool:
    """Whether the queries of a call are its keys, token by token."""
    return call.query_state == call.key_state and torch.equal(call.row_tokens, call.column_tokens)


# --- the tokens that enter --------------------------------------------------------------------


def entering_tokens(passed: RecordedPass) -> dict[int, Activation]:
    """For every reported state the activation in which its tokens enter the network.

    Raises:
        InputError: an input became tokens in a way that cannot be repeated with others.
    """
    found: dict[int, Activation] = {}
    for source in passed.graph.sources:
        stream = passed.graph.states[source.state].stream
        if stream is None or stream.edge is None:
            raise InputError(
                f"the tokens of {source.name!r} cannot be replaced: the network makes them without "
                "gradient, or in several steps at once; use a method that runs the network once"
            )
        found[source.state] = stream
    return found


def blank(
    passed: RecordedPass, state: int, activation: Activation, value: Tensor, kind: str
) -> Tensor:
    """What stands for no token: "zero", or the "mean" of the tokens of an example."""
    if kind == "zero":
        return torch.zeros_like(value)
    one = passed.graph.states[state]
    mean, _ = means(passed, one, to_rows(activation, value, one.tokens))
    examples = passed.graph.examples[state].to(value.device).clamp_min(0)
    return from_rows(activation, mean[examples], value)


# --- read-outs --------------------------------------------------------------------------------


def put(
    passed: RecordedPass, reading: Reading, vectors: Float[Tensor, "batch feature"],
    rows: Float[Tensor, "token feature"],
) -> Tensor:  # fmt: skip
    """The last state with one vector per example wherever the target reads; all else is `rows`."""
    graph, state = passed.graph, reading.state
    examples = graph.examples[state.index].to(rows.device)
    read = passed.readout[state.index].to(rows.device) > 0
    placed = torch.where(read[:, None], vectors[examples.clamp_min(0)].to(rows.dtype), rows)
    return from_rows(reading.end, placed, passed.replay.value(reading.end))


def alone(
    passed: RecordedPass, reading: Reading, rows: Float[Tensor, "token feature"]
) -> Float[Tensor, " token"]:
    """For every token the target if its row alone stood wherever the target reads."""
    graph, state, replay = passed.graph, reading.state, passed.replay
    whole = to_rows(reading.end, replay.value(reading.end), state.tokens)
    scores = wide(rows.new_zeros(state.tokens))
    for column in columns(graph, state):
        vectors = rows[column.clamp_min(0)]
        given = {reading.end: put(passed, reading, vectors, whole)}
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


def columns(graph: TokenGraph, state: State) -> list[Tensor]:
    """The first token of every example, the second, ...; -1 where an example has fewer."""
    examples = graph.examples[state.index]
    rows = [torch.nonzero(examples == example).flatten() for example in range(graph.batch)]
    width = max((len(row) for row in rows), default=0)
    table = torch.full((graph.batch, width), -1)
    for example, row in enumerate(rows):
        table[example, : len(row)] = row
    return list(table.to(graph.device()).unbind(1))


def means(
    passed: RecordedPass, state: State, rows: Float[Tensor, "token feature"]
) -> tuple[Float[Tensor, "batch feature"], Float[Tensor, " batch"]]:
    """The mean row of every example, padding left out, and how many tokens it was made of."""
    graph = passed.graph
    examples = graph.examples[state.index].to(rows.device)
    kept = ~padding(passed)[state.index].to(rows.device) & (examples >= 0)
    counts = torch.bincount(examples[kept], minlength=graph.batch).clamp_min(1).to(rows.dtype)
    sums = rows.new_zeros(graph.batch, rows.shape[1]).index_add(0, examples[kept], rows[kept])
    return sums / counts[:, None], counts


# --- down to the sources ----------------------------------------------------------------------


def padding(passed: RecordedPass) -> list[Tensor]:
    """For every state, which tokens only fill the batch up: all that they came from does."""
    graph, found = passed.graph, []
    for state in graph.states:
        marked = passed.padding.get(state.index)
        if marked is not None:
            found.append(marked.cpu())
            continue
        parents = torch.zeros(state.tokens, dtype=torch.long)
        empty = torch.zeros(state.tokens, dtype=torch.long)
        for link in state.links:
            flags = found[link.parent]
            child, parent = link.child_tokens, link.parent_tokens
            if child is None or parent is None:
                parents, empty = parents + 1, empty + flags.long()
            else:
                parents = parents.index_add(0, child.cpu(), torch.ones(len(child)).long())
                empty = empty.index_add(0, child.cpu(), flags[parent.cpu()].long())
        if not state.links and state.attentions:
            flags = found[graph.attentions[state.attentions[0]].query_state]
            if len(flags) == state.tokens:
                parents, empty = parents + 1, flags.long()
        found.append((parents > 0) & (parents == empty))
    return found


def carried_down(passed: RecordedPass, rows: Mapping[int, Tensor]) -> dict[int, Tensor]:
    """Scores of tokens moved to the tokens that they were made of, attention left aside.

    Tokens that only fill the batch up score nothing.
    """
    graph, filling = passed.graph, padding(passed)
    relevance = {
        index: torch.where(filling[index].to(row.device), 0, row) for index, row in rows.items()
    }

    def add(index: int, row: Tensor) -> None:
        relevance[index] = relevance[index] + row if index in relevance else row

    for state in reversed(graph.states):
        row = relevance.get(state.index)
        if row is None:
            continue
        if state.kind == "join":
            for link in state.links:
                add(link.parent, moved(link, row, graph.states))
            query = graph.attentions[state.attentions[0]].query_state
            if not state.links and graph.states[query].tokens == state.tokens:
                add(query, row)
        elif state.links:
            for link, weight in zip(state.links, link_weights(passed, state), strict=True):
                add(link.parent, moved(link, row * weight, graph.states))
    return relevance
