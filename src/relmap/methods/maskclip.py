"""MaskCLIP: every token's own value, read by the model's head in place of the pooled one.

    u_j = W_O v_j (+ x_j, feed-forward),    R_j = head(u_j)_c          (Zhou et al., ECCV 2022)

which is the last block with the identity for its attention map.
"""

from __future__ import annotations

import torch
from torch import Tensor

from relmap.errors import InputError
from relmap.methods import METHODS
from relmap.relevance.attention_maps import folded, mixes_itself, value_heads
from relmap.relevance.read_outs import ReadOut, alone, alone_in_pool, read_outs
from relmap.relevance.residual_path import carried_down
from relmap.relevance.streams import made_by_inputs
from relmap.relevance.token_rows import to_rows
from relmap.relevance.traced_pass import RecordedPass
from relmap.trace.graph import Attention


@METHODS.register(
    "maskclip",
    aliases=("mask-clip", "value-attention"),
    reference="Zhou, Loy & Dai, ECCV 2022; as the code of Zhao et al., ICML 2024 has it",
    needs=("graph", "replay"),
    target_dependent=True,
    requires="an attention of the read tokens to themselves",
)
def maskclip(passed: RecordedPass, *, residual: bool = True) -> dict[int, Tensor]:
    """The target of each token alone, the last attention replaced by its own values.

    R_j = y(u_j): the target if token j, taken through the last block with A = I, stood wherever
    the head reads. `residual` keeps the block's residual stream and feed-forward layer (as
    Grad-ECLIP's code has it); without it u_j = W_O v_j + b_O alone (as CLIP Surgery's). Where
    learned queries pool the tokens (SigLIP) they read token j alone. Signed. Use it for where a
    CLIP sees what a text names, with no gradient at all; it says which patch looks like the text,
    not which one was decisive.

    Raises:
        InputError: the target reads learned queries, or tokens that never attend to themselves.
    """
    rows: dict[int, Tensor] = {}
    made = made_by_inputs(passed.graph)
    for read_out in read_outs(passed):
        if not bool(made[read_out.state.index].any()):
            continue
        if read_out.pool is not None:
            found = alone_in_pool(passed, read_out.pool, value_heads(read_out.pool))
        else:
            taken = _through_last_block(passed, read_out, residual)
            found = None if taken is None else alone(passed, read_out, taken)
        if found is not None:
            rows[read_out.state.index] = found
    if not rows:
        raise InputError(
            "maskclip needs a last block in which the tokens of an input attend to themselves; "
            "this target reads learned queries or another stream's tokens: use genatt or legrad"
        )
    return carried_down(passed, rows)


def _through_last_block(passed: RecordedPass, read_out: ReadOut, residual: bool) -> Tensor | None:
    """The tokens after the last block with the identity for its attention map."""
    for block in reversed(read_out.blocks):
        if not all(mixes_itself(call) for call in block.calls):
            continue  # a cross-attention comes after the self-attention of its layer
        given = {call.output: _own_values(call) for call in block.calls}
        wanted = read_out.end if residual else block.state.branch
        if wanted is None:
            return None
        with torch.no_grad():
            (left,) = passed.replay.values(given, [wanted])
        return to_rows(wanted, left, read_out.state.tokens)
    return None


def _own_values(call: Attention) -> Tensor:
    return folded(call.output_arrangement, value_heads(call), call.output.shape)
