"""What a mixer's tokens contributed: the matrix that takes the place of A * dA.

    C_ij = <dO_i, J_ij x_j>,    J_ij = do_i/dx_j,    dO_i = dy/do_i

is what token j brought to y through the output i of a part of the network. One vector-Jacobian
product of that part alone gives a row, and rows without relevance are never asked for. For an
attention whose scores are taken for constant it is A * dA itself.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from relmap.errors import TraceError
from relmap.relevance.attention_maps import Tile, wide
from relmap.relevance.traced_pass import RecordedPass
from relmap.trace.graph import Activation, Attention

ROWS = 32
"""Rows that are asked for at once, each with the memory of one backward pass of the part."""


def mixer_rows(
    passed: RecordedPass,
    mix: Callable[[Tile], Tensor] | None,
    call: Attention,
    rows: Int[Tensor, " row"],
) -> Iterator[tuple[Tensor, Float[Tensor, "group row key"]]]:
    """Rows of E of a mixer, made of tiles in which C stands for A * dA (A is 1, dA is C).

    Raises:
        TraceError: the rule reads A alone, which a mixer does not have, or relevance in its place.
    """
    if mix is None or passed.relevances is not None:
        raise TraceError(without_map(call.module))
    for part in rows.split(ROWS):
        found = contributions(passed, call, part)[:, None]
        yield part.to(call.row_tokens.device), mix(Tile(call, part, torch.ones_like(found), found))


def without_map(module: str) -> str:
    """What is said to methods that read attention maps by themselves."""
    return (
        f"{module} mixes tokens by something else than softmax attention, so there is no attention "
        "map to read; genatt, wra and attgrad read what its tokens contribute instead, and "
        "input-x-gradient, integrated-gradients and occlusion need no map at all"
    )


def contributions(
    passed: RecordedPass, call: Attention, rows: Int[Tensor, " row"]
) -> Float[Tensor, "group row key"]:
    """C of some rows of a mixer, by token numbers of its keys."""
    gradient = passed.gradient(call.output)
    tokens = call.row_tokens.to(rows.device)[:, rows]
    known = [one for one in call.entered if one.edge is not None]
    if gradient is None or call.output.edge is None or not known:
        return wide(call.value).new_zeros(*tokens.shape, call.column_tokens.shape[1])
    given = _one_row_each(call.output, gradient, tokens)
    contributed = sum(
        _per_key(place, part, passed.value(place), call.key_tokens)
        for place, part in zip(known, _products(call, known, given), strict=True)
        if part is not None
    )
    if not isinstance(contributed, Tensor):
        return wide(call.value).new_zeros(*tokens.shape, call.column_tokens.shape[1])
    columns = call.column_tokens.to(contributed.device)
    laid = contributed[:, columns.clamp_min(0)].transpose(0, 1)  # (group, row, key)
    real = (tokens >= 0)[:, :, None] & (columns >= 0)[:, None, :]
    return torch.where(real, laid, 0)


def _one_row_each(
    place: Activation, gradient: Tensor, tokens: Int[Tensor, "group row"]
) -> Float[Tensor, "row ..."]:
    """The gradient of an output with all but one row of each group set to zero."""
    mine = place.tokens.to(gradient.device)
    mine = mine.reshape((1,) * (gradient.ndim - mine.ndim) + tuple(mine.shape))
    row_of = torch.full((int(max(mine.max(), tokens.max())) + 1,), -1, device=gradient.device)
    for number, column in enumerate(tokens.to(gradient.device).unbind(1)):
        row_of[column[column >= 0]] = number
    at = torch.where(mine >= 0, row_of[mine.clamp_min(0)], -1)
    count = torch.arange(tokens.shape[1], device=gradient.device)
    chosen = at[None] == count.reshape(-1, *(1,) * gradient.ndim)
    return torch.where(chosen, gradient[None], 0)


def _products(
    call: Attention, places: Sequence[Activation], given: Float[Tensor, "row ..."]
) -> list[Tensor | None]:
    """J^T of several vectors, for everything that entered the part."""
    edges: Any = [one.edge for one in places]
    output: Any = [call.output.edge]

    def ask(vectors: Tensor, batched: bool) -> tuple[Tensor | None, ...]:
        return torch.autograd.grad(
            output, edges, [vectors], retain_graph=True, allow_unused=True, is_grads_batched=batched
        )

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an operation without a batched form is only slower
            return list(ask(given, True))
    except RuntimeError:  # code with a backward of its own goes back one row at a time
        answers = [ask(vectors, False) for vectors in given]
    return [
        None if any(part is None for part in parts) else torch.stack(list(parts))  # type: ignore[arg-type]
        for parts in zip(*answers, strict=True)
    ]


def _per_key(
    place: Activation, product: Float[Tensor, "row ..."], value: Tensor, count: int
) -> Float[Tensor, "row token"]:
    """<J^T dO_i, x_j> for every token j that entered."""
    multiplied = wide(product) * wide(value)
    tokens = place.tokens.to(multiplied.device)
    tokens = tokens.reshape((1,) * (value.ndim - tokens.ndim) + tuple(tokens.shape))
    features = [axis + 1 for axis in range(value.ndim) if tokens.shape[axis] == 1]
    summed = multiplied.sum(dim=features, keepdim=True) if features else multiplied
    flat = tokens.expand(summed.shape[1:]).reshape(-1)
    kept = flat >= 0
    return summed.new_zeros(len(summed), count).index_add(
        1, flat[kept], summed.reshape(len(summed), -1)[:, kept]
    )
