"""Tokens as rows: an activation of any layout as a table of features, and back.

Networks keep tokens wherever they like: behind the batch, before it, folded into windows. A trace
knows the number of every token, so that what a method does to tokens it does to rows, one for each
number of a state, and the layout of the network comes back at the end.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from relmap.relevance.padding import padding_of_states
from relmap.relevance.traced_pass import RecordedPass
from relmap.trace.batch_axis import tokens_of_examples
from relmap.trace.graph import Activation, State, TokenGraph

Table = Float[Tensor, "token width"]


def to_rows(activation: Activation, values: Tensor, count: int) -> Table:
    """Values laid out as an activation is, one row for each token; zero where a token has none."""
    tokens, order = _axes(activation, values.ndim)
    tokens = tokens.to(values.device)
    spread = values.expand(torch.broadcast_shapes(values.shape, tokens.shape))
    numbers = tokens.permute(order).reshape(-1)
    rows = spread.permute(order).reshape(len(numbers), -1)
    kept = numbers >= 0
    return rows.new_zeros(count, rows.shape[1]).index_copy(0, numbers[kept], rows[kept])


def from_rows(activation: Activation, table: Table, values: Tensor) -> Tensor:
    """Rows laid out as an activation is; places without a token stay as they are in `values`."""
    tokens, order = _axes(activation, values.ndim)
    numbers = tokens.to(values.device).permute(order).reshape(-1)
    known = values.permute(order)
    rows = table.to(values.dtype)[numbers.clamp_min(0)]
    laid = torch.where((numbers >= 0)[:, None], rows, known.reshape(len(numbers), -1))
    return laid.reshape(known.shape).permute([order.index(axis) for axis in range(values.ndim)])


def features_of(activation: Activation) -> int:
    """How many features an activation has for each token."""
    tokens, order = _axes(activation, len(activation.shape))
    return math.prod(activation.shape[axis] for axis in order if tokens.shape[axis] == 1)


def _axes(activation: Activation, rank: int) -> tuple[Tensor, list[int]]:
    """Token numbers with as many axes as the values, and the axes: tokens first, then features."""
    tokens = activation.tokens
    if tokens.ndim < rank:
        tokens = tokens.reshape((1,) * (rank - tokens.ndim) + tuple(tokens.shape))
    return tokens, sorted(range(tokens.ndim), key=lambda axis: tokens.shape[axis] == 1)


def columns(graph: TokenGraph, state: State) -> list[Tensor]:
    """The first token of every example, the second, ...; -1 where an example has fewer."""
    table = tokens_of_examples(graph.examples[state.index], graph.batch)
    return list(table.to(graph.device()).unbind(1))


def means(
    passed: RecordedPass, state: State, rows: Float[Tensor, "token feature"]
) -> tuple[Float[Tensor, "batch feature"], Float[Tensor, " batch"]]:
    """The mean row of every example, padding left out, and how many tokens it was made of."""
    graph = passed.graph
    examples = graph.examples[state.index].to(rows.device)
    kept = ~padding_of_states(passed)[state.index].to(rows.device) & (examples >= 0)
    counts = torch.bincount(examples[kept], minlength=graph.batch).clamp_min(1).to(rows.dtype)
    sums = rows.new_zeros(graph.batch, rows.shape[1]).index_add(0, examples[kept], rows[kept])
    return sums / counts[:, None], counts
