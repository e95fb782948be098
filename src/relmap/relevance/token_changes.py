"""What a network makes of each token by itself: E -> Ẽ, beside what it mixes into it.

An attention without its mixing is E_h = E W_V^h W_O^h, one projection for each head. Nothing is
known of the weights: the projections are what the network itself computes, run again and
differentiated, so that biases drop out; of a norm behind them their linear part is taken. Tokens
are rows of tables here, numbered as the tokens of a state.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from relmap.errors import InputError
from relmap.relevance.attention_maps import wide
from relmap.relevance.rows import moved_values
from relmap.relevance.token_rows import Table, features_of, from_rows, to_rows
from relmap.trace import Replay
from relmap.trace.graph import Activation, Attention, State, TokenGraph

_TRIED = 64
"""Tokens on which it is tried whether a projection is the same for all."""


def entering(graph: TokenGraph, index: int, call: Attention | None) -> Activation | None:
    """E: the tokens of a state as they enter the next attention of their stream, before its norm.

    Where they are only read (the output of an encoder), what the call reads; None where that has
    other tokens.
    """
    onward = graph.states[index].onward
    if onward is not None:
        return onward[0]
    read = None if call is None else call.value_input
    return None if read is None or int(read.tokens.max()) >= graph.states[index].tokens else read


def head_outputs(
    replay: Replay, graph: TokenGraph, state: State, call: Attention, tokens: Table
) -> Iterator[Table]:
    """E W_V^h W_O^h of the keys of a call, for one head after another.

    `tokens` is E; where its width is not that of what the projection reads, the latter is taken.

    Raises:
        InputError: the call's values are not projected from its key tokens.
    """
    read, made, behind = call.value_input, call.value_output, state.stream
    if read is None or made is None or call.lay_values is None or behind is None:
        raise unknown(call)
    if int(read.tokens.max()) >= call.key_tokens:
        raise unknown(call)
    with torch.enable_grad():
        inputs = [replay.value(one).detach().requires_grad_() for one in (read, call.output)]
        given = dict(zip((read, call.output), inputs, strict=True))
        value_map, stream_map = map(linear_part, replay.values(given, [made, behind]), inputs)
    if value_map is None or stream_map is None:
        raise unknown(call)
    laid = inputs[0].detach()
    if features_of(read) == tokens.shape[1]:
        laid = from_rows(read, tokens, torch.zeros_like(laid))
    vectors = _on_tokens(call, call.lay_values(value_map(laid)))
    shared = call.heads // vectors.shape[1]
    projection = _Behind(call, state, behind, stream_map, _join_tokens(graph, state))
    weights = projection.weights(call.output_arrangement.apply(inputs[1].detach()))
    for head in range(call.heads):
        own = vectors[:, head // shared]
        yield own @ weights[head] if weights is not None else projection.by_itself(own, head)


def linear_part(output: Tensor, given: Tensor) -> Callable[[Tensor], Tensor] | None:
    """The map v -> (d output / d given) v, by differentiating the backward pass.

    None where the output does not depend on what is given.
    """
    if not output.requires_grad:
        return None
    probe = torch.zeros_like(output, requires_grad=True)
    (back,) = torch.autograd.grad(output, given, probe, create_graph=True, allow_unused=True)
    if back is None:
        return None

    def along(direction: Tensor) -> Tensor:
        (found,) = torch.autograd.grad(back, probe, direction, retain_graph=True)
        return found

    return along


def unknown(call: Attention) -> InputError:
    """The error of attentions of which head outputs are not known."""
    return InputError(
        f"the values of {call.module} are learned, or mixed from several tensors or tokens, so "
        "what the attention makes of a token by itself is not known; explain the network with "
        "genatt, which reads attention alone"
    )


class _Behind:
    """What stands between the output of an attention and the stream behind it: W_O.

    `numbers` gives the join's token of every row number.
    """

    def __init__(
        self, call: Attention, state: State, stream: Activation,
        along: Callable[[Tensor], Tensor], numbers: Tensor,
    ) -> None:  # fmt: skip
        self.call, self.state, self.stream, self.along = call, state, stream, along
        rows = call.row_tokens
        self.tokens = torch.where(rows >= 0, numbers[rows.clamp_min(0)], -1)

    def weights(
        self, output: Float[Tensor, "group head row feature"]
    ) -> Float[Tensor, "head feature width"] | None:
        """W_O, read off by unit vectors on different tokens; None where it is not one for all.

        Whether it is one for all is tried on the recorded output of some tokens.
        """
        _, heads, _, size = output.shape
        flat = self.tokens.reshape(-1)
        tokens, inverse = flat.unique(return_inverse=True)
        first = torch.full_like(tokens, len(flat))
        first = first.scatter_reduce(0, inverse, torch.arange(len(flat)), "amin")[tokens >= 0]
        group, row = first // self.tokens.shape[1], first % self.tokens.shape[1]
        tokens = tokens[tokens >= 0]
        changes: list[Tensor] = []
        for start in range(0, heads * size, len(tokens)):
            unit = torch.arange(start, min(heads * size, start + len(tokens)))
            many = len(unit)
            laid = torch.zeros_like(output)
            laid[group[:many], unit // size, row[:many], unit % size] = 1
            changes.append(self._through(laid)[tokens[:many]])
        weights = torch.cat(changes).unflatten(0, (heads, size))
        laid = torch.zeros_like(output)
        laid[group, :, row] = output[group, :, row]
        step = slice(None, None, max(1, len(tokens) // _TRIED))
        wanted = self._through(laid)[tokens[step]]
        tried = wide(output[group[step], :, row[step]])
        total = torch.einsum("thf,hfw->tw", tried, weights)
        tolerance = math.sqrt(torch.finfo(output.dtype).eps)
        return weights if (total - wanted).norm() <= tolerance * wanted.norm() else None

    def by_itself(self, vectors: Float[Tensor, "token feature"], head: int) -> Table:
        """One head's vectors where their own tokens stand.

        Raises:
            InputError: the keys are other tokens than the queries.
        """
        call = self.call
        if call.key_state != call.query_state:
            raise InputError(
                f"the projection behind {call.module} is not the same for all tokens (a gate, a "
                "norm), and its keys are not its queries; explain the network with genatt"
            )
        rows = call.row_tokens.to(vectors.device)
        laid = vectors.new_zeros(
            (*rows.shape[:1], call.heads, rows.shape[1], vectors.shape[1])
        )  # fmt: skip
        laid[:, head] = torch.where((rows >= 0)[..., None], vectors[rows.clamp_min(0)], 0)
        through = self._through(laid.to(call.value.dtype))
        summed = through.new_zeros(call.key_tokens, through.shape[1])
        kept = rows >= 0
        summed[rows[kept]] = through[self.tokens.to(rows.device)[kept]]
        return summed

    def _through(self, laid: Float[Tensor, "group head row feature"]) -> Table:
        """What an attention output adds to the stream, biases aside."""
        with torch.enable_grad():
            blank = laid.new_zeros(self.call.output.shape, requires_grad=True)
            arranged = self.call.output_arrangement.apply(blank)
            (direction,) = torch.autograd.grad(arranged, blank, laid)
        return to_rows(self.stream, wide(self.along(direction)), self.state.tokens)


def _on_tokens(
    call: Attention, vectors: Float[Tensor, "group head key feature"]
) -> Float[Tensor, "token head feature"]:
    """Value vectors on the tokens of the key state."""
    columns = call.column_tokens.to(vectors.device)
    summed = wide(vectors).new_zeros(call.key_tokens, vectors.shape[1], vectors.shape[3])
    kept = columns >= 0
    summed[columns[kept]] = wide(vectors).transpose(1, 2)[kept]
    return summed


def _join_tokens(graph: TokenGraph, state: State) -> Tensor:
    """The join's token of every row number of its attentions; -1 where there is none."""
    if state.rows is None:
        return torch.arange(state.tokens)
    return moved_values(state.rows, torch.arange(1, state.tokens + 1), graph.states) - 1
