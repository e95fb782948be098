"""LeGrad: the positive gradient of every layer's own score with respect to its own attention.

    z^l = mean_n Z^l_n,    s^l = head(z^l)_c
    E = sum_l mean_{h,i} (ds^l / dA^l_hi)+                 (Bousselham et al., ICCV 2025)

with Z^l the tokens that leave block l and `head` the model's own read-out, run again on them.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from relmap.errors import InputError
from relmap.methods import METHODS
from relmap.relevance.attention_maps import TILE_ELEMENTS, gradient_rows, open_pairs
from relmap.relevance.read_outs import Block, ReadOut, put, read_outs
from relmap.relevance.residual_path import carried_down
from relmap.relevance.rows import on_keys
from relmap.relevance.token_rows import means, to_rows
from relmap.relevance.traced_pass import RecordedPass
from relmap.trace.graph import Attention


@METHODS.register(
    "legrad",
    aliases=("le-grad", "layerwise-explanation-gradient"),
    reference="Bousselham et al., ICCV 2025, and its authors' code",
    needs=("graph", "replay"),
    target_dependent=True,
)
def legrad(passed: RecordedPass, *, layers: int = 0) -> dict[int, Tensor]:
    """Gradient of each layer's own score by its own attention, clamped, summed over layers.

    R_j = sum_l mean_{h,i} (ds^l/dA^l_hij)+, with s^l the target if the mean token of layer l stood
    where the head reads. `layers` is how many of the last layers are summed, 0 all of them (the
    authors' code takes the last 2). Where learned queries pool the tokens (SigLIP), layer l's
    tokens are pooled in place of the last layer's and the gradient is that of the pooling
    attention. Layers whose tokens differ from the last layer's (earlier stages of a pyramid)
    are left out, padding is in no mean, and what a mask closes counts for nothing. Use it to find
    what a text names in an image (CLIP and its kin), where it is among the sharpest; scores are
    never negative.

    Raises:
        InputError: `layers` is negative, or the target reads no layer of a residual stream.
    """
    if layers < 0:
        raise InputError(f"layers={layers}: give how many of the last layers count, 0 for all")
    relevance: dict[int, Tensor] = {}
    for read_out in read_outs(passed):
        for block in read_out.blocks[-layers:]:
            end = block.state.end
            if end is None or end.shape != read_out.end.shape:
                continue
            parts = _of_layer if read_out.pool is None else _of_pool
            for key, row in parts(passed, read_out, block):
                relevance[key] = relevance[key] + row if key in relevance else row
    if not relevance:
        raise InputError(
            "legrad puts tokens of a layer where the target reads those of the last one, and no "
            "layer of this network has tokens of the same shape; use genatt"
        )
    return carried_down(passed, relevance)


def _of_layer(passed: RecordedPass, read_out: ReadOut, block: Block) -> list[tuple[int, Tensor]]:
    """The score of the layer's mean token, followed back to the layer's own attentions."""
    replay, end = passed.replay, block.state.end
    assert end is not None
    with torch.enable_grad():
        outputs = [replay.value(call.output).detach().requires_grad_() for call in block.calls]
        given = {call.output: one for call, one in zip(block.calls, outputs, strict=True)}
        (left,) = replay.values(given, [end])
        rows = to_rows(end, left, block.state.tokens)
        mean, counts = means(passed, block.state, rows)
        score = replay.target({read_out.end: put(passed, read_out, mean, rows)})
        found = torch.autograd.grad(score.sum(), outputs, allow_unused=True)
    return [
        (call.key_state, _received(passed, call, gradient) / _of_keys(passed, call, counts))
        for call, gradient in zip(block.calls, found, strict=True)
        if gradient is not None
    ]


def _of_pool(passed: RecordedPass, read_out: ReadOut, block: Block) -> list[tuple[int, Tensor]]:
    """The score of the layer's tokens, pooled, followed back to the pooling attention."""
    replay, pool, end = passed.replay, read_out.pool, block.state.end
    assert pool is not None
    assert end is not None
    given = {read_out.end: replay.value(end)}
    values = replay.value_vectors(pool, given)
    with torch.enable_grad():
        (output,) = replay.values(given, [pool.output])
        output = output.detach().requires_grad_()
        score = replay.target(given | {pool.output: output})
        (gradient,) = torch.autograd.grad(score.sum(), [output])
    row = _received(passed, replace(pool, value=values), gradient)
    return [(pool.key_state, row / pool.row_tokens.shape[1])]


def _of_keys(passed: RecordedPass, call: Attention, counts: Tensor) -> Tensor:
    """How many queries the examples of the keys have."""
    return counts[passed.graph.examples[call.key_state].to(counts.device).clamp_min(0)]


def _received(passed: RecordedPass, call: Attention, gradient: Tensor) -> Tensor:
    """(ds/dA)+ averaged over heads and summed over queries, dA = dO v^T, on the key tokens."""
    laid = call.output_arrangement.apply(gradient)
    queries, keys = laid.shape[2], call.column_tokens.shape[1]
    size = max(1, TILE_ELEMENTS // max(1, call.groups * call.heads * keys))
    total = 0
    for rows in torch.arange(queries, device=laid.device).split(size):
        part = gradient_rows(call, laid, rows).clamp_min(0)
        readable = open_pairs(call, rows)
        part = (part if readable is None else part * readable).mean(dim=1) * call.share
        real = (call.row_tokens[:, rows.to(call.row_tokens.device)] >= 0).to(part.device)
        total = total + torch.einsum("grk,gr->gk", part, real.to(part.dtype))
    assert isinstance(total, Tensor)
    return on_keys(call, total)
