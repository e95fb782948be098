"""Attention maps and their gradients, rebuilt a few rows at a time and dropped again.

The model ran with its own fused attention and kept no map. With q, k, v and dO = dy/dO of a call,

    A = softmax(scale q k^T + mask),    dA = dy/dA = dO v^T,

so any row of A and dA costs one small product. Rows are asked for in tiles that fit a memory
budget; rows that carry no relevance are never asked for. Half precision is lifted to float32.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from relmap.errors import TraceError
from relmap.trace.graph import Activation, Arrangement, Attention

STABILIZER = 1e-9
"""What keeps the denominators of relevance rules away from zero, as in the published code."""

TILE_ELEMENTS = 1 << 24
"""Elements of one (group, head, row, key) tile: 64 MB in float32."""


@dataclass(frozen=True, eq=False)
class Tile:
    """Some rows of one attention call.

    `probabilities` is A, or the relevance R_A of a relevance backward in its place; `gradient` is
    dA = dy/dA (None where the method needs none).
    """

    attention: Attention
    rows: Int[Tensor, " row"]
    probabilities: Float[Tensor, "group head row key"]
    gradient: Float[Tensor, "group head row key"] | None


def wide(tensor: Tensor) -> Tensor:
    """The tensor in float32, or in float64 if it already is."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def attention_rows(
    attention: Attention, rows: Int[Tensor, " row"]
) -> Float[Tensor, "group head row key"]:
    """Rows of the attention map A = softmax(scale q k^T + mask) of one call.

    Rows that the mask closes entirely are zero, as the fused kernels have it.
    """
    if attention.probabilities is not None:
        return wide(attention.probabilities[:, :, rows])
    query, key = attention.query, attention.key
    assert query is not None
    assert key is not None
    scores = _product(wide(query[:, :, rows]), wide(key))
    if attention.scale is not None:
        scores = scores * attention.scale
    if attention.causal:
        columns = torch.arange(key.shape[2], device=rows.device)
        scores = scores.masked_fill(columns > rows[:, None], -math.inf)
    if attention.mask is not None:
        mask = attention.mask[:, :, rows]
        if mask.dtype == torch.bool:
            scores = scores.masked_fill(~mask, -math.inf)
        else:
            scores = scores + wide(mask)
    return scores.softmax(dim=-1).nan_to_num(nan=0.0)


def gradient_rows(
    attention: Attention,
    output_gradient: Float[Tensor, "group head query feature"],
    rows: Int[Tensor, " row"],
) -> Float[Tensor, "group head row key"]:
    """Rows of dA = dO v^T, the gradient of the target with respect to the attention map."""
    return _product(wide(output_gradient[:, :, rows]), wide(attention.value))


def relevance_rows(
    attention: Attention,
    probabilities: Float[Tensor, "group head row key"],
    output_relevance: Float[Tensor, "group head query feature"],
    rows: Int[Tensor, " row"],
) -> Float[Tensor, "group head row key"]:
    """Rows of R_A = A (R_O / O v^T) / 2, the relevance of the attention map (O = A v).

    Chefer, Gur & Wolf, CVPR 2021, eq. 7 with the normalisation that halves both operands.
    """
    value = wide(attention.value)
    heads, shared = probabilities.shape[1], value.shape[1]
    spread = value.repeat_interleave(heads // shared, dim=1) if heads != shared else value
    half = wide(output_relevance[:, :, rows]) / 2
    return _product(safe_divide(half, probabilities @ spread), value).mul_(probabilities)


def safe_divide(above: Tensor, below: Tensor) -> Tensor:
    """The quotient above / (below + 1e-9), and 0 where below is 0."""
    return (above / (below + STABILIZER)).masked_fill_(below == 0, 0)


def _product(
    left: Float[Tensor, "group head row dim"], right: Float[Tensor, "group fewer key dim"]
) -> Float[Tensor, "group head row key"]:
    """Left right^T per head; grouped heads share a key."""
    groups, heads, rows, width = left.shape
    shared = right.shape[1]
    if shared == heads:
        return left @ right.transpose(-1, -2)
    grouped = left.reshape(groups, shared, heads // shared * rows, width)
    return (grouped @ right.transpose(-1, -2)).reshape(groups, heads, rows, -1)


def tiles(
    attention: Attention,
    rows: Int[Tensor, " row"],
    output_gradient: Tensor | None = None,
    output_relevance: Tensor | None = None,
) -> Iterator[Tile]:
    """The asked rows of a call, in tiles of bounded size.

    `output_gradient` is dO in the layout of the call's output; without it tiles have no gradient.
    With `output_relevance`, R_O, tiles hold R_A in place of A.
    """
    columns = attention.column_tokens.shape[1]
    size = max(1, TILE_ELEMENTS // max(1, attention.groups * attention.heads * columns))
    laid, relevance = (
        None if one is None else attention.output_arrangement.apply(one)
        for one in (output_gradient, output_relevance)
    )  # fmt: skip
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        gradient = None if laid is None else gradient_rows(attention, laid, part)
        probabilities = attention_rows(attention, part)
        if relevance is not None:
            probabilities = relevance_rows(attention, probabilities, relevance, part)
        yield Tile(attention, part, probabilities, gradient)


def mean_over_heads(
    tile: Tile, values: Float[Tensor, "group head row key"]
) -> Float[Tensor, "group row key"]:
    """A call's part of the mean over all heads of its attention, which may be in several calls."""
    return values.mean(dim=1) * tile.attention.share


def require_all_heads(call: Attention) -> None:
    """Refuse a call that holds some of the heads of its attention where all are needed at once.

    Raises:
        TraceError: the heads of the attention are computed in several calls.
    """
    if call.share < 1:
        raise TraceError(
            f"this method needs all heads of an attention at once, and {call.module} computes them "
            "in several calls; compute them in one, or use genatt"
        )


def clamped_head_mean(tile: Tile) -> Float[Tensor, "group row key"]:
    """E_h[max(A, 0)]: as `head_mean` for attention, the positive part alone for relevance."""
    return mean_over_heads(tile, tile.probabilities.clamp_min(0))


def head_mean(tile: Tile) -> Float[Tensor, "group row key"]:
    """E_h[A]: the attention of some rows, averaged over heads."""
    return mean_over_heads(tile, tile.probabilities)


def gradient_weighted(tile: Tile) -> Float[Tensor, "group row key"]:
    """E_h[(A * dA)+]: clamped first, then averaged over heads (GenAtt eq. 5, WRA eq. 2)."""
    assert tile.gradient is not None
    return mean_over_heads(tile, (tile.probabilities * tile.gradient).clamp_min(0))


def per_token(values: Tensor, activation: Activation, count: int) -> Float[Tensor, " token"]:
    """Sum of an elementwise quantity of an activation over the features of each token."""
    tokens = activation.tokens
    if tokens.ndim < values.ndim:
        tokens = tokens.reshape((1,) * (values.ndim - tokens.ndim) + tuple(tokens.shape))
    features = [axis for axis in range(values.ndim) if tokens.shape[axis] == 1]
    summed = wide(values).sum(dim=features, keepdim=True) if features else wide(values)
    flat = tokens.to(values.device).expand(summed.shape).reshape(-1)
    found = summed.new_zeros(count)
    kept = flat >= 0
    return found.index_add(0, flat[kept], summed.reshape(-1)[kept])


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
