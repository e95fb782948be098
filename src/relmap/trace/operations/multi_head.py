"""`F.multi_head_attention_forward`, written out in public functions.

It hides its inner attention from a mode, and would call itself for ever if it were run inside one.
"""

from __future__ import annotations

import inspect
import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from relmap._torch_private import unwatched
from relmap.trace.calls import Call

HIDDEN_ATTENTION = "multi_head_attention_forward"
"""The function that is written out."""


def multi_head_attention_forward(call: Call) -> Any:
    """Shape (b): the same computation in public functions, watched by the recorder."""
    given = _bound(call.args, call.kwargs)
    if given["bias_k"] is not None or given["add_zero_attn"]:
        raise call.notebook.refuse("nn.MultiheadAttention with bias_k or add_zero_attn is not read")
    if given["static_k"] is not None or given["static_v"] is not None:
        raise call.notebook.refuse("nn.MultiheadAttention with static keys is not read")
    with call.notebook.watching():
        return _multi_head(given)


def written_out(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
    """The same computation in public functions, for a mode that calls it inside itself."""
    return _multi_head(_bound(args, kwargs))


_SIGNATURE = inspect.signature(functional.multi_head_attention_forward)


def _bound(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """All arguments of a call by name, those that were left out by their defaults."""
    bound = _SIGNATURE.bind(*args, **kwargs)
    bound.apply_defaults()
    return bound.arguments


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
    if given["need_weights"]:
        with torch.no_grad(), unwatched():
            scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
            maps = (scores if mask is None else scores + mask).softmax(-1)
            maps = maps.mean(1) if given["average_attn_weights"] else maps
            maps = maps.squeeze(0) if single else maps
    return (result.squeeze(1) if single else result), maps


def _projections(given: dict[str, Any]) -> tuple[list[Any], list[Any]]:
    if given["use_separate_proj_weight"]:
        weights = [given[f"{name}_proj_weight"] for name in "qkv"]
    else:
        weights = list(given["in_proj_weight"].chunk(3))
    bias = given["in_proj_bias"]
    return weights, [None] * 3 if bias is None else list(bias.chunk(3))


def _merged_mask(given: dict[str, Any], batch: int, heads: int, q: Tensor, k: Tensor) -> Any:
    """The float mask that both masks of nn.MultiheadAttention make together."""
    merged = None
    attention, padding = given["attn_mask"], given["key_padding_mask"]
    if attention is None and given["is_causal"]:
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
