"""CLIP Surgery: a second path of value-value attention, and what all texts share taken out.

    architecture:  x <- x + W_O softmax(v v^T / sqrt(d)) v,  no feed-forward
    features:      s_nk = w_k S_nk - mean_k'(w_k' S_nk'),  S_nk = cos(F_n, T_k)
                   w = softmax(2 cos(F_cls, T)), divided by its mean

(Li et al. 2025), with F_n token n of the new path, read by the model's own head, and T_k the texts.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from relmap.errors import InputError
from relmap.methods import METHODS
from relmap.relevance.attention_maps import TILE_ELEMENTS, folded, mixes_itself, value_heads, wide
from relmap.relevance.read_outs import ReadOut, alone, alone_in_pool, read_outs
from relmap.relevance.residual_path import carried_down
from relmap.relevance.streams import made_by_inputs, own_leaves
from relmap.relevance.token_rows import from_rows, to_rows
from relmap.relevance.traced_pass import RecordedPass
from relmap.targets.answers import fields
from relmap.trace.graph import Attention

_EMBEDDINGS = (("image_embeds", "text_embeds"), ("image_features", "text_features"), ("0", "1"))


@METHODS.register(
    "clip-surgery",
    aliases=("clipsurgery", "surgery"),
    reference="Li, Wang, Duan & Li, Pattern Recognition 162, 2025, and its authors' code",
    needs=("graph", "replay"),
    target_dependent=True,
    requires="an image tower that the target reads, alone (CLIP, ViT)",
    renamed={"blocks": "layers"},
)
def clip_surgery(
    passed: RecordedPass,
    *,
    architecture: bool = True,
    features: bool = True,
    layers: int = 6,
    redundancy: Literal["mean", "last"] = "mean",
) -> dict[int, Tensor]:
    """How much each patch looks like the text, on a path where tokens read what is like them.

    `architecture` takes the last `layers` layers (the paper: 6; all, where there are fewer) on the
    second path, with the values of the first; off, the tokens are the model's own. `features` takes
    out what all texts given for the same image share: give one image with the texts that compete,
    `image=picture, text=["a cat", "a dog", "grass"]`; each row of the result is one of them and
    depends on the others. `redundancy="last"` subtracts the last text instead, s_nk = S_nk - S_nK:
    for a single text give the empty one after it (the paper: `**processor(text=["a cat", ""],
    images=picture, return_tensors="pt", padding=True)`) or a text that says nothing, "a photo". A
    text that is alone is compared with none, and S itself is returned. Words are scored the other
    way round: how well word t alone would match the image. Signed. Use it to find all things that a
    list of texts names in one image, without gradients; `relmap.points` then marks them for
    interactive segmentation.

    Raises:
        InputError: `layers` is below 1, or the target reads no image tower.
    """
    if layers < 1:
        raise InputError(f"layers={layers}: give at least 1")
    rows: dict[int, Tensor] = {}
    images, others = _towers(passed)
    for read_out in images:
        tokens = (
            _second_path(passed, read_out, layers) if architecture else _tokens(passed, read_out)
        )
        scores = _read(passed, read_out, tokens)
        if features:
            scores = _without_shared(passed, read_out, scores, redundancy)
        rows[read_out.state.index] = scores
    for read_out in others:
        rows[read_out.state.index] = _read(passed, read_out, _tokens(passed, read_out))
    return carried_down(passed, rows)


def _towers(passed: RecordedPass) -> tuple[list[ReadOut], list[ReadOut]]:
    """The streams made of the patches of one image alone, and all others."""
    grids = {one.state for one in passed.graph.sources if one.grid is not None}
    inputs = {one.state for one in passed.graph.sources}
    images: list[ReadOut] = []
    others: list[ReadOut] = []
    for read_out in read_outs(passed):
        leaves = set(own_leaves(passed.graph, read_out.state.index)) & inputs
        (images if len(leaves) == 1 and leaves <= grids else others).append(read_out)
    if not images:
        raise InputError(
            "clip-surgery needs a target that reads an image tower, a stream of one image's "
            "patches alone, as CLIP and ViT have it; for texts, and where image and text share a "
            "stream, use genatt or legrad"
        )
    return images, others


def _tokens(passed: RecordedPass, read_out: ReadOut) -> Float[Tensor, "token feature"]:
    """The tokens as they leave the last block."""
    return to_rows(read_out.end, passed.replay.value(read_out.end), read_out.state.tokens)


def _second_path(
    passed: RecordedPass, read_out: ReadOut, count: int
) -> Float[Tensor, "token feature"]:
    """Patches that gathered value-value attention; learned tokens (CLS) keep the first path."""
    replay, end = passed.replay, _tokens(passed, read_out)
    taken = [
        block for block in read_out.blocks[-count:]
        if block.state.end is not None and block.state.end.shape == read_out.end.shape
    ]  # fmt: skip
    start, new = taken[0].state.residual if taken else None, None
    if start is not None:
        new = to_rows(start, replay.value(start), read_out.state.tokens)
    for block in taken:
        branch, call = block.state.branch, block.calls[0]
        if new is None or branch is None or len(block.calls) > 1 or not mixes_itself(call):
            raise InputError(_NO_BLOCKS)
        with torch.no_grad():
            (added,) = replay.values({call.output: _value_attention(call)}, [branch])
        new = new + to_rows(branch, added, read_out.state.tokens)
    if new is None:
        raise InputError(_NO_BLOCKS)
    made = made_by_inputs(passed.graph)[read_out.state.index].to(new.device)
    return torch.where(made[:, None], new, end)


_NO_BLOCKS = (
    "clip-surgery needs blocks that add one attention of the patches to themselves to the stream "
    "that the target reads; pass architecture=False, or use legrad"
)


def _value_attention(call: Attention) -> Tensor:
    """Softmax(v v^T / sqrt(d)) v for every head, in the shape of the attention output."""
    values = wide(value_heads(call))
    real = (call.column_tokens >= 0).to(values.device)[:, None, None, :]
    size = max(1, TILE_ELEMENTS // max(1, values.shape[0] * values.shape[1] * values.shape[2]))
    parts = []
    for rows in values.split(size, dim=2):
        scores = rows @ values.transpose(-1, -2) / math.sqrt(values.shape[-1])
        parts.append(scores.masked_fill(~real, -math.inf).softmax(dim=-1) @ values)
    return folded(call.output_arrangement, torch.cat(parts, dim=2), call.output.shape)


def _read(
    passed: RecordedPass, read_out: ReadOut, tokens: Float[Tensor, "token feature"]
) -> Float[Tensor, " token"]:
    """The target of every token alone, S_nk for the text k of its example."""
    if read_out.pool is None:
        return alone(passed, read_out, tokens)
    given = from_rows(read_out.end, tokens, passed.replay.value(read_out.end))
    with torch.no_grad():
        values = passed.replay.value_vectors(read_out.pool, {read_out.end: given})
    heads = values.repeat_interleave(read_out.pool.heads // values.shape[1], dim=1)
    return alone_in_pool(passed, read_out.pool, heads)


def _without_shared(
    passed: RecordedPass, read_out: ReadOut, scores: Float[Tensor, " token"], redundancy: str
) -> Float[Tensor, " token"]:
    """S_nk less what all texts of the same image share at token n."""
    examples = passed.graph.examples[read_out.state.index]
    cosines = _cosines(passed)
    found = scores.clone()
    for group in _same_image(passed, read_out):
        if len(group) < 2:
            continue
        places = [torch.nonzero(examples == example).flatten() for example in group]
        table = torch.stack([scores[one.to(scores.device)] for one in places])  # text, token
        if redundancy == "last":
            table = table - table[-1]
        else:
            weights = (2 * cosines[group]).softmax(0).to(table)
            table = table * (weights / weights.mean())[:, None]
            table = table - table.mean(dim=0)
        for one, row in zip(places, table, strict=True):
            found[one.to(found.device)] = row
    return found


def _same_image(passed: RecordedPass, read_out: ReadOut) -> list[list[int]]:
    """Examples by image: their tokens are the same, number by number."""
    tokens, examples = _tokens(passed, read_out), passed.graph.examples[read_out.state.index]
    groups: list[list[int]] = []
    for example in range(passed.graph.batch):
        mine = tokens[(examples == example).to(tokens.device)]
        for group in groups:
            theirs = tokens[(examples == group[0]).to(tokens.device)]
            if mine.shape == theirs.shape and torch.allclose(mine, theirs, rtol=1e-4, atol=1e-5):
                group.append(example)
                break
        else:
            groups.append([example])
    return groups


def _cosines(passed: RecordedPass) -> Float[Tensor, " batch"]:
    """cos(F_cls, T_k) of every example; the target itself where the output has no embeddings."""
    output: Any = passed.replay.output({})
    parts = fields(output)
    for names in _EMBEDDINGS:
        one, other = (parts.get(name) for name in names)
        if not isinstance(one, Tensor) or not isinstance(other, Tensor) or one.ndim != 2:
            continue
        if one.shape == other.shape and len(one) == passed.graph.batch:
            return functional.cosine_similarity(one, other)
    return passed.replay.target({})
