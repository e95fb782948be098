"""Grad-ECLIP: the last block's values, weighted by the gradient of its output.

    R_i = (sum_c ds/do_c lambda_i v_ic)+,    lambda_i = minmax_i cos(q, k_i)
                                                                     (Zhao et al., ICML 2024)

with o the attention output before W_O at the token that is read, q its query, k_i and v_i the keys
and values of the last block.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from relmap.errors import InputError
from relmap.methods import METHODS
from relmap.relevance.attention_maps import (
    TILE_ELEMENTS,
    attention_rows,
    folded,
    gradient_rows,
    mixes_itself,
    open_pairs,
    require_all_heads,
    value_heads,
)
from relmap.relevance.padding import padding_of_states
from relmap.relevance.read_outs import Block, ReadOut, read_outs
from relmap.relevance.residual_path import carried_down
from relmap.relevance.rows import on_keys
from relmap.relevance.streams import made_by_inputs
from relmap.relevance.token_rows import to_rows
from relmap.relevance.traced_pass import RecordedPass
from relmap.trace.graph import Activation, Attention


@METHODS.register(
    "grad-eclip",
    aliases=("gradient-eclip", "grad-e-clip"),
    reference="Zhao et al., ICML 2024, and its authors' code",
    needs=("graph", "replay"),
    target_dependent=True,
)
def grad_eclip(
    passed: RecordedPass, *, single_head: bool = True, similarity: bool = True
) -> dict[int, Tensor]:
    """Values of the last attention times the gradient of its output, clamped.

    R_i = (sum_r sum_c dy/do_rc lambda_ri v_ic)+ over the rows r that the target reads (the class
    token, the last word). `single_head` runs the last attention again with one head of full width,
    A = softmax(sum_h S_h / sqrt(H)), as the authors' code does and their numbers are made; False
    explains the network as it is. `similarity` weighs each key by lambda, the cosine of query and
    key, both taken through W_O (the authors' code; in cross-attention as they are), scaled to 0..1
    over the tokens that an input made; without it lambda = 1 (the paper's ablation). Where the
    stream also reads another one, its last cross-attention scores that one's tokens. Use it for
    what decides the score of a CLIP; it sees the last block alone.

    Raises:
        InputError: the target reads no residual stream, or queries and keys are unknown.
        TraceError: the last attention computes its heads in several calls.
    """
    relevance: dict[int, Tensor] = {}
    for read_out in read_outs(passed):
        for block, call in _last_calls(passed, read_out):
            row = _scores(passed, block, call, single_head, similarity)
            known = relevance.get(call.key_state)
            relevance[call.key_state] = row if known is None else known + row
    return carried_down(passed, relevance)


def _last_calls(passed: RecordedPass, read_out: ReadOut) -> list[tuple[Block | None, Attention]]:
    """The last attention of a stream to itself, and the last to each other stream."""
    if read_out.pool is not None:
        return [(None, read_out.pool)]
    found: dict[tuple[bool, tuple[int, ...]], tuple[Block | None, Attention]] = {}
    for block in read_out.blocks:
        for call in block.calls:
            itself = call.query_state == call.key_state
            names = () if itself else passed.graph.states[call.key_state].shape
            found[(itself, names)] = (block, call)
    return list(found.values())


def _scores(
    passed: RecordedPass, block: Block | None, call: Attention, single_head: bool, similarity: bool
) -> Tensor:
    require_all_heads(call)
    replay = passed.replay
    output = _with_one_head(call) if single_head else replay.value(call.output)
    with torch.enable_grad():
        output = output.detach().to(replay.value(call.output).dtype).requires_grad_()
        score = replay.target({call.output: output})
        (gradient,) = torch.autograd.grad(score.sum(), [output], allow_unused=True)
    laid = call.output_arrangement.apply(torch.zeros_like(output) if gradient is None else gradient)
    read = (laid != 0).any(dim=3).any(dim=1).any(dim=0)
    rows = torch.nonzero(read).flatten()  # the others add nothing
    keys = call.column_tokens.shape[1]
    size = max(1, TILE_ELEMENTS // max(1, call.groups * call.heads * keys))
    weigh = _similarity(passed, block, call) if similarity and len(rows) else None
    total = laid.new_zeros(call.groups, keys)
    for part in rows.split(size):
        # sum_c do_c v_ic over all heads: dA of one head of full width.
        values = gradient_rows(call, laid, part)
        readable = open_pairs(call, part)
        values = (values if readable is None else values * readable).sum(dim=1)
        if weigh is not None:
            values = values * weigh(part)
        total = total + values.sum(dim=1)
    return on_keys(call, total.clamp_min(0))


def _with_one_head(call: Attention) -> Tensor:
    """The attention output if all heads were one: scores added up, at the scale of their width.

    The scores are read from the maps, log A_h = S_h + (a number for each row), which softmax does
    not see, so that networks that write their own softmax are read as well.
    """
    values = value_heads(call)
    heads, keys = call.heads, call.column_tokens.shape[1]
    size = max(1, TILE_ELEMENTS // max(1, call.groups * heads * keys))
    queries = torch.arange(call.row_tokens.shape[1], device=values.device)
    parts = []
    for rows in queries.split(size):
        scores = attention_rows(call, rows).log().sum(dim=1, keepdim=True) / math.sqrt(heads)
        probabilities = scores.softmax(dim=-1).nan_to_num(nan=0.0)
        parts.append(probabilities @ values.to(probabilities.dtype))
    return folded(call.output_arrangement, torch.cat(parts, dim=2), call.output.shape)


def _similarity(
    passed: RecordedPass, block: Block | None, call: Attention
) -> Callable[[Tensor], Tensor]:
    """From query rows to lambda: cos(q, k_i), scaled to 0..1 over the keys that inputs made."""
    if call.query is None or call.key is None:
        raise InputError(
            f"the queries and keys of {call.module} are unknown, so grad-eclip cannot compare "
            "them; pass similarity=False, or load the model with attn_implementation='sdpa'"
        )
    queries, keys = _side_by_side(passed, block, call)
    columns = call.column_tokens.to(keys.device)
    made = made_by_inputs(passed.graph)[call.key_state].to(keys.device)
    made = made & ~padding_of_states(passed)[call.key_state].to(keys.device)
    counted = (made[columns.clamp_min(0)] & (columns >= 0))[:, None, :]

    def weigh(rows: Tensor) -> Float[Tensor, "group row key"]:
        one = functional.normalize(queries[:, rows], dim=-1)
        cosine = one @ functional.normalize(keys, dim=-1).transpose(-1, -2)
        low = torch.where(counted, cosine, math.inf).amin(dim=-1, keepdim=True)
        high = torch.where(counted, cosine, -math.inf).amax(dim=-1, keepdim=True)
        spread = torch.where(high > low, high - low, 1)
        return torch.where(counted & (high > low), (cosine - low) / spread, 0)

    return weigh


def _side_by_side(
    passed: RecordedPass, block: Block | None, call: Attention
) -> tuple[Float[Tensor, "group query feature"], Float[Tensor, "group key feature"]]:
    """Queries and keys with their heads side by side, taken through W_O where both fit it."""
    assert call.query is not None
    assert call.key is not None
    query = call.query
    key = call.key.repeat_interleave(query.shape[1] // call.key.shape[1], dim=1)
    branch = None if block is None else block.state.branch
    fits = query.shape[-1] == call.value.shape[-1] and mixes_itself(call)
    if branch is not None and block is not None and fits and block.state.rows is None:
        projected = partial(_projected, passed, block, call, branch)
        return projected(query), projected(key)
    return query.transpose(1, 2).flatten(2), key.transpose(1, 2).flatten(2)


def _projected(
    passed: RecordedPass, block: Block, call: Attention, branch: Activation, vectors: Tensor
) -> Float[Tensor, "group token feature"]:
    """What the output projection makes of (group, head, token, feature) in place of the output."""
    output = folded(call.output_arrangement, vectors, call.output.shape)
    (found,) = passed.replay.values({call.output: output}, [branch])
    rows = to_rows(branch, found, block.state.tokens)
    return rows[call.row_tokens.to(rows.device).clamp_min(0)]
