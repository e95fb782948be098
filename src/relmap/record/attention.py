"""Attention calls: the three shapes in which they appear, brought into one form.

(a) `scaled_dot_product_attention`; (b) `multi_head_attention_forward`, which hides its inner
attention and is therefore written out here in public functions; (c) a softmax followed by a matrix
product. All three end in `_record`, which lays q, k, v, the map and the output out as
(group, head, token, feature).
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from relmap.graph import Arrangement
from relmap.record.calls import Call
from relmap.record.labels import Labels
from relmap.record.tags import (
    AttentionDraft,
    Constant,
    Lost,
    Pair,
    Pending,
    Tag,
    Tokens,
    activation,
)

if TYPE_CHECKING:
    from relmap.record.recorder import Recorder


def scaled_dot_product_attention(call: Call) -> Any:
    """Shape (a): run the fused kernel and record its operands."""
    recorder = call.recorder
    q, k, v = (call.argument(i, n, None) for i, n in enumerate(("query", "key", "value")))
    output = _run_kernel(call)
    tags = [recorder.tag(tensor) for tensor in (q, k, v)]
    lost = next((tag for tag in tags if isinstance(tag, Lost)), None)
    if lost is None and any(isinstance(tag, Pair) for tag in tags):
        lost = call.lost("attends to scores")
    if lost is not None:
        recorder.hidden.append(lost.reason)
        recorder.attach(output, lost)
        return output
    output = _with_gradient(output)
    found = _token_operands(recorder, (q, k, v), tags)
    for tag in found:
        if tag.labels.shape[-1] > 1 and len(tag.labels.shape) - 1 in tag.labels.varying:
            lost = call.lost("attends over channels instead of tokens")
            recorder.hidden.append(lost.reason)
            recorder.attach(output, lost)
            return output
    rows, _keys, values = (Tokens(t.state, t.labels.collapse([-1]), t.node) for t in found)
    lead = output.shape[:-2]
    query_shape, key_shape = (*lead, q.shape[-2]), (*lead, k.shape[-2])
    layout = _lay_out(rows.labels, values.labels, query_shape, key_shape)
    mask = call.argument(3, "attn_mask", None)
    arrays: dict[str, object] = {
        "query": _lead(q.detach(), lead, layout),
        "key": _grouped(k.detach(), lead, layout),
        "value": _grouped(v.detach(), lead, layout),
        "mask": None if mask is None else _mask(mask.detach(), lead, layout, q, k),
        "causal": bool(call.argument(5, "is_causal", False)),
        "scale": call.argument(6, "scale", None) or 1 / math.sqrt(q.shape[-1]),
    }
    tag = _record(recorder, rows, values, (query_shape, key_shape), layout, output, arrays)
    recorder.attach(output, tag)
    return output


def _run_kernel(call: Call) -> Tensor:
    """Run the kernel; a learned bias is detached, since the fused kernels want it constant."""
    mask = call.argument(3, "attn_mask", None)
    if mask is None or not mask.requires_grad or isinstance(call.recorder.tag(mask), Tokens | Pair):
        return call.function(*call.args, **call.kwargs)
    if len(call.args) > 3:
        return call.function(*call.args[:3], mask.detach(), *call.args[4:], **call.kwargs)
    return call.function(*call.args, **(call.kwargs | {"attn_mask": mask.detach()}))


def multi_head_attention_forward(call: Call) -> Any:
    """Shape (b): the same computation in public functions, watched by the recorder."""
    names = _MHA_ARGUMENTS
    given = dict(zip(names, call.args, strict=False)) | call.kwargs
    if given.get("bias_k") is not None or given.get("add_zero_attn"):
        raise call.recorder.refuse("nn.MultiheadAttention with bias_k or add_zero_attn is not read")
    if given.get("static_k") is not None or given.get("static_v") is not None:
        raise call.recorder.refuse("nn.MultiheadAttention with static keys is not read")
    with call.recorder:
        return _multi_head(given)


_MHA_ARGUMENTS = [
    "query",
    "key",
    "value",
    "embed_dim_to_check",
    "num_heads",
    "in_proj_weight",
    "in_proj_bias",
    "bias_k",
    "bias_v",
    "add_zero_attn",
    "dropout_p",
    "out_proj_weight",
    "out_proj_bias",
    "training",
    "key_padding_mask",
    "need_weights",
    "attn_mask",
    "use_separate_proj_weight",
    "q_proj_weight",
    "k_proj_weight",
    "v_proj_weight",
    "static_k",
    "static_v",
    "average_attn_weights",
    "is_causal",
]


def _multi_head(given: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
    query, key, value = given["query"], given["key"], given["value"]
    single = query.dim() == 2
    if single:
        key, value = (query if key is query else key.unsqueeze(1)), value
        query = query.unsqueeze(1)
        key = query if key is given["query"] else key
        value = query if value is given["query"] else value.unsqueeze(1)
    heads, batch = given["num_heads"], query.shape[1]
    weights, biases = _projections(given)
    q, k, v = (
        functional.linear(tensor, weight, bias).unflatten(-1, (heads, -1)).permute(1, 2, 0, 3)
        for tensor, weight, bias in zip((query, key, value), weights, biases, strict=True)
    )
    mask = _merged_mask(given, batch, heads, q, k)
    output = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    joined = output.permute(2, 0, 1, 3).flatten(2)
    result = functional.linear(joined, given["out_proj_weight"], given["out_proj_bias"])
    maps = None
    if given.get("need_weights", True):
        with torch.no_grad(), torch._C.DisableTorchFunction():
            scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
            maps = (scores if mask is None else scores + mask).softmax(-1)
            maps = maps.mean(1) if given.get("average_attn_weights", True) else maps
            maps = maps.squeeze(0) if single else maps
    return (result.squeeze(1) if single else result), maps


def _projections(given: dict[str, Any]) -> tuple[list[Any], list[Any]]:
    if given.get("use_separate_proj_weight"):
        weights = [given[f"{name}_proj_weight"] for name in "qkv"]
    else:
        weights = list(given["in_proj_weight"].chunk(3))
    bias = given["in_proj_bias"]
    return weights, [None] * 3 if bias is None else list(bias.chunk(3))


def _merged_mask(given: dict[str, Any], batch: int, heads: int, q: Tensor, k: Tensor) -> Any:
    """The float mask that both masks of nn.MultiheadAttention make together."""
    merged = None
    attention, padding = given.get("attn_mask"), given.get("key_padding_mask")
    if attention is None and given.get("is_causal"):
        attention = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).triu(1)
    if attention is not None:
        attention = _additive(attention, q)
        if attention.dim() == 3:
            attention = attention.view(-1, heads, *attention.shape[-2:])
        merged = attention
    if padding is not None:
        padding = _additive(padding, q).view(batch if padding.dim() == 2 else 1, 1, 1, -1)
        merged = padding if merged is None else merged + padding
    return merged


def _additive(mask: Tensor, like: Tensor) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(like.dtype)
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask, -math.inf)


def attend(
    call: Call,
    pair: Pair,
    maps: Tensor,
    letters: str,
    value: Tensor,
    tag: Any,
    value_letters: str,
    out: str,
) -> Tag:
    """Shape (c): an attention map times values."""
    recorder = call.recorder
    key = next(letter for letter in letters if letter not in out)
    features = [letter for letter in value_letters if letter not in letters]
    query = _query_letter(pair, letters, value_letters, out)
    if query is None or len(features) != 1:
        return call.lost("is an attention in a form relmap does not read")
    lead = [letter for letter in letters if letter not in (query, key)]
    call.result = output = _with_gradient(call.result)
    shape = tuple(maps.shape[letters.index(letter)] for letter in lead)
    query_shape = (*shape, maps.shape[letters.index(query)])
    key_shape = (*shape, maps.shape[letters.index(key)])
    values = _values(recorder, value, tag, value_letters, [*lead, key], pair, letters)
    if values is None:
        return call.lost("reads values whose tokens are not those of the keys")
    rows = _rows(recorder, pair, maps, letters, [*lead, query], values, query_shape)
    order = [out.index(letter) for letter in (*lead, query, features[0])]
    layout = _lay_out(rows.labels, values.labels, query_shape, key_shape)
    arranged = replace(layout, permutation=tuple(order[axis] for axis in layout.permutation))
    laid = _to_letters(value.detach(), value_letters, [*lead, key, features[0]])
    arrays: dict[str, object] = {
        "probabilities": layout.apply(_to_letters(maps.detach(), letters, [*lead, query, key])),
        "value": layout.apply(laid.expand(*shape, *laid.shape[-2:])),
    }
    found = _record(
        recorder, rows, values, (query_shape, key_shape), layout, output, arrays, arranged
    )
    labels = Labels((*query_shape, 1), rows.labels.values.unsqueeze(-1)).permute(_inverse(order))
    return Tokens(
        found.state, Labels(tuple(output.shape), labels.values), found.node, found.pending
    )


def _inverse(order: list[int]) -> list[int]:
    return [order.index(axis) for axis in range(len(order))]


def _query_letter(pair: Pair, letters: str, value_letters: str, out: str) -> str | None:
    free = [letter for letter in letters if letter in out and letter not in value_letters]
    if pair.rows is not None:
        varying = [one for one in free if letters.index(one) in pair.rows.labels.varying]
        if len(varying) == 1:
            return varying[0]
    return free[-1] if free else None


def _values(
    recorder: Recorder,
    value: Tensor,
    tag: Any,
    value_letters: str,
    order: list[str],
    pair: Pair,
    letters: str,
) -> Tokens | None:
    """Tokens of the values along (lead, key); for constant values those of the keys."""
    columns = pair.columns
    if tag is None or isinstance(tag, Constant):
        if columns is not None:
            return Tokens(columns.state, _ordered(columns.labels, letters, order), columns.node)
        features = [
            a
            for a, letter in enumerate(value_letters)
            if letter != order[-1] and not (a == 0 and value.ndim > 2)
        ]
        tag = recorder.learn(value, features)
    tag = recorder.settle(tag, value)
    key_axis = value_letters.index(order[-1])
    if value.shape[key_axis] > 1 and key_axis not in tag.labels.varying:
        return None
    return Tokens(tag.state, _ordered(tag.labels, value_letters, order), tag.node)


def _rows(
    recorder: Recorder,
    pair: Pair,
    maps: Tensor,
    letters: str,
    order: list[str],
    values: Tokens,
    shape: tuple[int, ...],
) -> Tokens:
    if pair.rows is not None:
        return Tokens(pair.rows.state, _ordered(pair.rows.labels, letters, order), pair.rows.node)
    if values.state.kind == "learned" and shape[-1] == values.labels.shape[-1]:
        return values
    # Learned queries: one set per group, numbered where the values' groups vary.
    features = [a for a in range(len(shape) - 1) if a not in values.labels.varying]
    return recorder.learned(maps.new_zeros(shape), Labels.number(shape, features))


def _ordered(labels: Labels, letters: str, order: list[str]) -> Labels:
    """Labels along the given letters; missing ones are added, others (features) dropped."""
    kept = [letter for letter in order if letter in letters]
    gone = [letter for letter in letters if letter not in order]
    moved = labels.permute([letters.index(letter) for letter in (*kept, *gone)])
    moved = moved.collapse(range(len(kept), len(letters))) if gone else moved
    values, shape = moved.values, list(moved.shape)
    for position, letter in enumerate(order):
        if letter not in letters:
            values = values.unsqueeze(position)
            shape.insert(position, 1)
    return Labels(tuple(shape), values)


def _to_letters(tensor: Tensor, letters: str, order: list[str]) -> Tensor:
    moved = tensor.permute([letters.index(letter) for letter in order if letter in letters])
    for position, letter in enumerate(order):
        if letter not in letters:
            moved = moved.unsqueeze(position)
    return moved


def _token_operands(
    recorder: Recorder, tensors: tuple[Tensor, ...], tags: list[Tag | None]
) -> list[Tokens]:
    """Tokens of q, k, v; constants become learned tokens, shared where their rows pair up."""
    known = next((tag for tag in tags[1:] + tags[:1] if isinstance(tag, Tokens)), None)
    lead = () if known is None else known.labels.varying
    found: list[Tokens] = []
    for position, (tensor, tag) in enumerate(zip(tensors, tags, strict=True)):
        if isinstance(tag, Tokens):
            found.append(recorder.settle(tag, tensor))
            continue
        twin = _twin(found, tensor, position)
        if twin is not None:
            found.append(twin)
            continue
        groups = {0} if known is None else {a for a in lead if a < tensor.ndim - 2}
        features = [a for a in range(tensor.ndim) if a != tensor.ndim - 2 and a not in groups]
        found.append(recorder.learn(tensor, features))
    return found


def _twin(found: list[Tokens], tensor: Tensor, position: int) -> Tokens | None:
    """Learned tokens of the same call that a constant shares: v those of k, k those of q."""
    for other in reversed(found if position == 2 else found[:1]):
        same_rows = other.labels.shape[-2] == tensor.shape[-2]
        if same_rows and (other.state.kind == "learned" or position == 2):
            return Tokens(other.state, Labels(tuple(tensor.shape), other.labels.values), other.node)
    return None


def _lay_out(
    rows: Labels, columns: Labels, query_shape: tuple[int, ...], key_shape: tuple[int, ...]
) -> Arrangement:
    """Which leading axes are groups (their tokens differ) and which are heads."""
    rank = len(query_shape) - 1
    varying = {*rows.broadcast_to(query_shape).varying, *columns.broadcast_to(key_shape).varying}
    groups = [axis for axis in range(rank) if axis in varying]
    heads = [axis for axis in range(rank) if axis not in varying]
    group_count = math.prod(query_shape[axis] for axis in groups)
    head_count = math.prod(query_shape[axis] for axis in heads)
    order = (*groups, *heads, rank, rank + 1)
    plain = Arrangement(order, group_count, head_count)
    if head_count > 1 or group_count == 1:
        return plain
    return _unfold_heads(plain, rows.broadcast_to(query_shape), columns.broadcast_to(key_shape))


def _unfold_heads(plain: Arrangement, rows: Labels, columns: Labels) -> Arrangement:
    """Heads folded into the groups (`bmm` on batch x heads): groups with the same tokens."""
    signature = torch.stack(
        [_by_group(labels, plain.permutation).amax(-1) for labels in (rows, columns)], dim=-1
    )
    distinct = torch.unique(signature, dim=0).shape[0]
    total = plain.groups
    if distinct == total or total % distinct:
        return plain
    heads = total // distinct
    if torch.equal(signature, signature[::heads].repeat_interleave(heads, 0)):
        return Arrangement(plain.permutation, distinct, heads)
    if torch.equal(signature, signature[:distinct].repeat(heads, 1)):
        return Arrangement(plain.permutation, distinct, heads, heads_first=True)
    return plain


def _by_group(labels: Labels, permutation: tuple[int, ...]) -> Tensor:
    moved = labels.full().permute([axis for axis in permutation if axis < len(labels.shape)])
    return moved.reshape(-1, labels.shape[-1])


def _group_tokens(labels: Labels, shape: tuple[int, ...], layout: Arrangement) -> Tensor:
    """Token numbers as (group, token)."""
    full = labels.broadcast_to(shape)
    spread = Labels(shape, full.values).full().unsqueeze(-1)
    return layout.apply(spread)[:, 0, :, 0].contiguous()


def _lead(tensor: Tensor, lead: tuple[int, ...], layout: Arrangement) -> Tensor:
    return layout.apply(tensor.expand(*lead, *tensor.shape[-2:]))


def _grouped(tensor: Tensor, lead: tuple[int, ...], layout: Arrangement) -> Tensor:
    """Keys or values, which may have fewer heads than the queries."""
    if tensor.ndim == len(lead) + 2 and tensor.shape[-3] not in (1, lead[-1]):
        expanded = tensor.expand(*lead[:-1], *tensor.shape[-3:])
        heads = layout.heads * tensor.shape[-3] // lead[-1]
        return replace(layout, heads=heads).apply(expanded)
    return _lead(tensor, lead, layout)


def _mask(mask: Tensor, lead: tuple[int, ...], layout: Arrangement, q: Tensor, k: Tensor) -> Tensor:
    return layout.apply(mask.expand(*lead, q.shape[-2], k.shape[-2]))


def _with_gradient(output: Tensor) -> Tensor:
    """An attention between constants still has a gradient to ask for."""
    if torch.is_grad_enabled() and not output.requires_grad:
        return output.detach().requires_grad_()
    return output


def _record(
    recorder: Recorder,
    rows: Tokens,
    values: Tokens,
    shapes: tuple[Any, Any],
    layout: Arrangement,
    output: Tensor,
    arrays: dict[str, object],
    output_layout: Arrangement | None = None,
) -> Tokens:
    query_shape, key_shape = shapes
    row_tokens = _group_tokens(rows.labels, query_shape, layout)
    column_tokens = _group_tokens(values.labels, key_shape, layout)
    for tokens, what in ((row_tokens, "queries"), (column_tokens, "keys")):
        if tokens.shape[1] > 1 and bool((tokens == tokens[:, :1]).all()):
            raise recorder.refuse(f"an attention was found whose {what} cannot be told apart")
    spread = Labels(tuple(output.shape), rows.labels.values.unsqueeze(-1))
    draft = AttentionDraft(
        len(recorder.attentions),
        rows,
        values,
        row_tokens,
        column_tokens,
        output_layout or layout,
        activation(output, spread, value=False),
        arrays,
        recorder.module(),
        (rows.node, values.node),
    )
    recorder.attentions.append(draft)
    node = recorder.node(rows.node, values.node)
    return Tokens(rows.state, spread, node, Pending((draft,)))
