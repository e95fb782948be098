"""Relevance on the token graph: push a row down, or carry whole maps up.

Every accumulation rule turns an attention call into a token mixing E (rows = queries, columns =
keys) and says how the residual stream and the mixing weigh in the sum of a join:

    R  <-  w_res R + w_att E R_keys.

Of the map R only the rows that the target reads are wanted, so the linear rules push these rows
down, r <- w_res r + w_att r^T E, in the order in which the gradient flows: no N x N product, and
rows without relevance are never rebuilt. `relmap.relevance.maps` carries the whole R for rules that
need it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from relmap.errors import InputError, TraceError
from relmap.relevance.attention_maps import Tile, per_token, tiles
from relmap.relevance.mixer_rows import mixer_rows
from relmap.relevance.traced_pass import RecordedPass as RecordedPass
from relmap.trace.graph import Attention, Link, State, TokenGraph

Mix = Callable[[Tile], Float[Tensor, "group row key"]]
"""The token mixing E of some rows of a call."""


@dataclass(frozen=True, eq=False)
class PropagationRule:
    """An accumulation rule: how a call mixes tokens, and how a join weighs its two addends.

    `mix(tile)` gives rows of E. `weigh(row_sums, share)` gives (w_res, w_att) of tokens whose rows
    of E sum to `row_sums`; `share(passed, state)` gives a number per token of a join (the residual
    stream's share, say), None if the rule needs none. `gradient` says whether mix reads dA,
    `normalize` divides the rows of E by their sums first (a row of zeros stays one).
    """

    mix: Mix
    weigh: Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor]]
    share: Callable[[RecordedPass, State], Tensor] | None = None
    gradient: bool = True
    start_layer: int = 0
    normalize: bool = False


def normalized(mixing_rows: Tensor, sums: Tensor) -> Tensor:
    """Rows divided by their sums; rows of zeros stay zero."""
    total = sums[..., None]
    return torch.where(total > 0, mixing_rows / torch.where(total > 0, total, 1), 0)


def push_rows(
    passed: RecordedPass, rule: PropagationRule, rows: Mapping[int, Tensor] | None = None
) -> dict[int, Tensor]:
    """Push rows (by default those that the target reads) down to the sources.

    Returns the relevance that reached every state, by its index.
    """
    graph = passed.graph
    if rows is None and graph.lost:
        raise TraceError(graph.lost)
    relevance = dict(passed.readout if rows is None else rows)
    skipped = skipped_joins(graph, rule.start_layer)
    for state in reversed(graph.states):
        row = relevance.get(state.index)
        if row is None or not bool(row.any()):
            continue
        if state.kind != "join":
            if state.links:
                _push_links(passed, state, row, relevance)
        elif state.index in skipped:
            _add(relevance, state.links[0].parent, moved(state.links[0], row, graph.states))
        else:
            _push_join(passed, rule, state, row, relevance)
    return relevance


@dataclass(eq=False)
class _Join:
    """A join through which relevance is being pushed.

    `queries` is the relevance of its rows, `kept` collects what the residual stream keeps of it.
    """

    state: State
    rule: PropagationRule
    queries: Tensor
    share: Tensor | None
    kept: Tensor
    relevance: dict[int, Tensor]


def _push_join(
    passed: RecordedPass,
    rule: PropagationRule,
    state: State,
    row: Tensor,
    relevance: dict[int, Tensor],
) -> None:
    graph = passed.graph
    queries = row if state.rows is None else moved(state.rows, row, graph.states)
    kept = torch.zeros_like(queries)
    join = _Join(state, rule, queries, _share(passed, rule, state), kept, relevance)
    calls = [graph.attentions[index] for index in state.attentions]
    if len(calls) == 1:
        for rows, mixing_rows in mixing(passed, rule, calls[0], queries):
            _push_rows_of(join, calls[0], rows, mixing_rows, mixing_rows.sum(dim=-1))
    else:
        held = [list(mixing(passed, rule, call, queries)) for call in calls]
        sums = _sums_over_calls(calls, held, queries)
        for call, part in zip(calls, held, strict=True):
            for rows, mixing_rows in part:
                tokens = call.row_tokens[:, rows].to(sums.device).clamp_min(0)
                _push_rows_of(join, call, rows, mixing_rows, sums[tokens])
    if state.links:
        residual = kept if state.rows is None else moved_back(state.rows, kept, row, queries)
        _add(relevance, state.links[0].parent, moved(state.links[0], residual, graph.states))


def _push_rows_of(
    join: _Join, call: Attention, rows: Tensor, mixing_rows: Tensor, sums: Tensor
) -> None:
    """Push the relevance of some query rows to their keys; note what the residual keeps."""
    queries, kept, residual_stream = join.queries, join.kept, bool(join.state.links)
    # A model spread over several devices meets on the first one.
    mixing_rows, sums = mixing_rows.to(queries.device), sums.to(queries.device)
    tokens = call.row_tokens[:, rows].to(queries.device)
    weight = row_relevance(call, tokens, queries)
    if residual_stream:
        own = None if join.share is None else join.share[tokens.clamp_min(0)]
        residual, attention = join.rule.weigh(sums, own)
        flat = tokens.reshape(-1)
        keep = (flat >= 0) & (weight.reshape(-1) != 0)
        values = (residual.expand_as(weight) * queries[tokens.clamp_min(0)]).reshape(-1)
        kept[flat[keep]] = values[keep].to(kept.dtype)
        weight = weight * attention
    if join.rule.normalize or not residual_stream:
        mixing_rows = normalized(mixing_rows, sums)
    pushed = torch.einsum("gr,grk->gk", weight.to(mixing_rows.dtype), mixing_rows)
    _add(join.relevance, call.key_state, on_keys(call, pushed))


def on_keys(call: Attention, pushed: Float[Tensor, "group key"]) -> Float[Tensor, " token"]:
    """Relevance of the keys of a call, on the token numbers of the key state."""
    columns = call.column_tokens.to(pushed.device).reshape(-1)
    keep = columns >= 0
    return pushed.new_zeros(call.key_tokens).index_add(0, columns[keep], pushed.reshape(-1)[keep])


def row_relevance(call: Attention, tokens: Tensor, queries: Tensor) -> Tensor:
    """Relevance of the query rows; a token with several rows in one call shares it equally."""
    weight = torch.where(tokens >= 0, queries[tokens.clamp_min(0)], 0)
    copies = call.row_copies
    return weight if copies is None else weight / copies.to(weight.device)[tokens.clamp_min(0)]


def _sums_over_calls(
    calls: Sequence[Attention], held: Sequence[list[tuple[Tensor, Tensor]]], queries: Tensor
) -> Tensor:
    """Row sums of E where several calls make one row together."""
    sums = torch.zeros_like(queries)
    for call, part in zip(calls, held, strict=True):
        for rows, mixing_rows in part:
            tokens = call.row_tokens[:, rows].to(queries.device)
            keep = (tokens >= 0).reshape(-1)
            row_sums = mixing_rows.sum(dim=-1).to(sums.dtype)
            if call.row_copies is not None:
                row_sums = row_sums / call.row_copies.to(queries.device)[tokens.clamp_min(0)]
            sums = sums.index_add(0, tokens.reshape(-1)[keep], row_sums.reshape(-1)[keep])
    return sums


def mixing(
    passed: RecordedPass, rule: PropagationRule, call: Attention, queries: Tensor | None = None
) -> Iterator[tuple[Tensor, Float[Tensor, "group row key"]]]:
    """Rows of E of one call, only those whose tokens carry relevance; None means all rows."""
    tokens = call.row_tokens
    rows = torch.arange(tokens.shape[1], device=tokens.device)
    if queries is not None:
        active = (queries.to(tokens.device)[tokens.clamp_min(0)] != 0) & (tokens >= 0)
        rows = rows[active.any(dim=0)]
    rows = rows.to(call.value.device)
    if call.is_mixer:
        yield from mixer_rows(passed, rule.mix if rule.gradient else None, call, rows)
        return
    gradient = passed.gradient(call.output) if rule.gradient else None
    if rule.gradient and gradient is None:
        gradient = call.value.new_zeros(call.output.shape)
    relevance = None
    if passed.relevances is not None:
        relevance = passed.relevance(call.output)
        if relevance is None:
            relevance = call.value.new_zeros(call.output.shape)
    for tile in tiles(call, rows, gradient, relevance):
        yield tile.rows.to(tokens.device), rule.mix(tile)


def _share(passed: RecordedPass, rule: PropagationRule, state: State) -> Tensor | None:
    if rule.share is None or not state.links:
        return None
    share = rule.share(passed, state)
    return share if state.rows is None else moved_values(state.rows, share, passed.graph.states)


def _push_links(
    passed: RecordedPass, state: State, row: Tensor, relevance: dict[int, Tensor]
) -> None:
    """Concatenations hand relevance on, merges share it equally, sums by Input x Gradient."""
    weights = link_weights(passed, state)
    for link, weight in zip(state.links, weights, strict=True):
        _add(relevance, link.parent, moved(link, row * weight, passed.graph.states))


def link_weights(passed: RecordedPass, state: State) -> list[Tensor]:
    """How much of each token's relevance goes over each link."""
    if state.kind == "sum":
        return sum_shares(passed, state)
    ones = torch.ones(state.tokens, device=passed.graph.device())
    counts = [_parents(link, state.tokens, ones) for link in state.links]
    total = torch.stack(counts).sum(0).clamp_min(1)
    return [count / total for count in counts]


def _parents(link: Link, tokens: int, ones: Tensor) -> Tensor:
    if link.child_tokens is None:
        return ones
    return torch.bincount(link.child_tokens, minlength=tokens).to(ones)


def sum_shares(passed: RecordedPass, state: State) -> list[Tensor]:
    """Shares of the addends of a sum: mean positive Input x Gradient, as at a join."""
    parts: list[Tensor] = []
    for operand in state.operands:
        contribution = passed.input_x_gradient(operand)
        if contribution is None:
            parts.append(torch.zeros(state.tokens, device=passed.graph.device()))
        else:
            parts.append(per_token(contribution.clamp_min(0), operand, state.tokens))
    means = [example_mean(passed.graph, state, part) for part in parts]
    total = torch.stack(means).sum(0)
    even = 1.0 / len(parts)
    return [torch.where(total > 0, part / torch.where(total > 0, total, 1), even) for part in means]


def example_mean(
    graph: TokenGraph, state: State, values: Float[Tensor, " token"]
) -> Float[Tensor, " token"]:
    """Every token's value replaced by the mean over the tokens of its example."""
    examples = graph.examples[state.index].to(values.device)
    if bool((examples < 0).any()):
        if graph.batch > 1:
            raise TraceError(
                f"relmap cannot tell which example of the batch the tokens of {state.module} "
                "belong to; explain one example at a time"
            )
        examples = torch.zeros_like(examples)
    sums = values.new_zeros(graph.batch).index_add(0, examples, values)
    counts = torch.bincount(examples, minlength=graph.batch).clamp_min(1)
    return (sums / counts)[examples]


def moved(link: Link, row: Tensor, states: Sequence[State]) -> Tensor:
    """A row on the tokens of a state, moved to its parent's tokens (shared among several)."""
    count = states[link.parent].tokens
    if link.child_tokens is None or link.parent_tokens is None:
        return row
    child = link.child_tokens.to(row.device)
    copies = torch.bincount(child, minlength=len(row)).clamp_min(1)
    return row.new_zeros(count).index_add(
        0, link.parent_tokens.to(row.device), (row / copies)[child]
    )


def moved_values(link: Link, values: Tensor, states: Sequence[State]) -> Tensor:
    """Values on the tokens of a state, read at its parent's tokens."""
    if link.child_tokens is None or link.parent_tokens is None:
        return values
    found = values.new_zeros(states[link.parent].tokens)
    found[link.parent_tokens.to(values.device)] = values[link.child_tokens.to(values.device)]
    return found


def moved_back(link: Link, kept: Tensor, row: Tensor, queries: Tensor) -> Tensor:
    """What the residual keeps, from row numbers back to the join's own tokens.

    The share kept of each row, applied to the join's own relevance.
    """
    if link.child_tokens is None or link.parent_tokens is None:
        return kept
    ratio = torch.where(queries != 0, kept / torch.where(queries != 0, queries, 1), 0)
    child, parent = link.child_tokens.to(row.device), link.parent_tokens.to(row.device)
    copies = torch.bincount(child, minlength=len(row)).clamp_min(1)
    mean = row.new_zeros(len(row)).index_add(0, child, ratio[parent]) / copies
    return row * mean


def _add(relevance: dict[int, Tensor], index: int, row: Tensor) -> None:
    known = relevance.get(index)
    relevance[index] = row if known is None else known + row


# --- streams and layers -----------------------------------------------------------------------


def stream_layers(graph: TokenGraph) -> dict[int, tuple[int, int]]:
    """For every join with a residual: (root of its stream, layer number within the stream).

    A stream is a residual chain of attention sub-layers. It goes on through merges and through
    learned tokens put beside it, and ends where several streams become one sequence.
    """
    place: dict[int, tuple[int, int]] = {}
    layers: dict[int, tuple[int, int]] = {}
    for state in graph.states:
        parents = [link.parent for link in state.links]
        made = [index for index in parents if graph.states[index].kind != "learned"]
        if state.kind == "join" and parents:
            root, depth = place[parents[0]]
            layers[state.index] = (root, depth)
            place[state.index] = (root, depth + 1)
        elif state.kind in ("merge", "sum", "concatenation") and len(set(made)) == 1:
            place[state.index] = place[made[0]]
        else:
            place[state.index] = (state.index, 0)
    return layers


def skipped_joins(graph: TokenGraph, start_layer: int) -> set[int]:
    """Joins before `start_layer`, counted within each stream (negative: from its end)."""
    if start_layer == 0:
        return set()
    layers = stream_layers(graph)
    length: dict[int, int] = {}
    for root, depth in layers.values():
        length[root] = max(length.get(root, 0), depth + 1)
    longest = max(length.values(), default=0)
    if not -longest <= start_layer < longest:
        raise InputError(
            f"start_layer={start_layer} does not exist: the longest stream of this network has "
            f"{longest} attention layers (0 to {longest - 1}, or -{longest} to -1)"
        )
    return {
        index for index, (root, depth) in layers.items()
        if depth < (start_layer if start_layer >= 0 else length[root] + start_layer)
    }  # fmt: skip
