"""Norms, softmaxes and sums over axes, in every legal spelling."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from tiny.spelled import WIDTH, fresh, rows


def softmaxes(*functions: Any) -> list[Any]:
    """Spellings of the softmax of an attention."""
    return [lambda net, x, way=way: x + net.attend(x, way) for way in functions]


def norm_of(net: Any) -> dict[str, Any]:
    """What a layer normalisation takes by name."""
    return {"weight": net.norm.weight, "bias": net.norm.bias, "eps": 1e-5}


REDUCTIONS = {
    "softmax": softmaxes(
        lambda s: s.softmax(-1),
        lambda s: torch.softmax(s, -1),
        lambda s: torch.softmax(input=s, dim=-1),
        lambda s: torch.softmax(dim=-1, input=s),
        lambda s: torch.softmax(s, axis=-1),
        lambda s: F.softmax(s, -1),
        lambda s: F.softmax(input=s, dim=3),
        lambda s: F.softmax(dim=-1, input=s, dtype=torch.float64),
        lambda s: s.softmax(dim=-1),
        lambda s: torch.softmax(s, -1, out=fresh(s)),
    ),
    "layer_norm": rows(
        lambda net, x: F.layer_norm(x, (WIDTH,), net.norm.weight, net.norm.bias, 1e-5),
        lambda net, x: F.layer_norm(input=x, normalized_shape=(WIDTH,), **norm_of(net)),
        lambda net, x: F.layer_norm(normalized_shape=(WIDTH,), input=x, **norm_of(net)),
        lambda net, x: torch.layer_norm(x, (WIDTH,), net.norm.weight, net.norm.bias),
        lambda net, x: torch.layer_norm(
            input=x, normalized_shape=(WIDTH,), bias=net.norm.bias, weight=net.norm.weight
        ),
    ),
    "rms_norm": rows(
        lambda net, x: F.rms_norm(x, (WIDTH,), net.scale, 1e-5),
        lambda net, x: F.rms_norm(eps=1e-5, weight=net.scale, normalized_shape=(WIDTH,), input=x),
        lambda net, x: torch.rms_norm(input=x, normalized_shape=[WIDTH], weight=net.scale,
                                      eps=1e-5),
    ),
    "sum": rows(
        lambda net, x: x * x.sum(-1, True),
        lambda net, x: x * torch.sum(x, -1, keepdim=True),
        lambda net, x: x * torch.sum(input=x, dim=-1, keepdim=True),
        lambda net, x: x * torch.sum(keepdims=True, axis=-1, input=x),
        lambda net, x: x * x.sum(dim=(-1,), keepdim=True),
        lambda net, x: x * x.sum(axis=2, keepdims=True),
        lambda net, x: x * torch.sum(x, -1, True, out=fresh(x, *x.shape[:2], 1)),
    ),
    "mean": rows(
        lambda net, x: x - x.mean(-1, True),
        lambda net, x: x - torch.mean(input=x, dim=-1, keepdim=True),
        lambda net, x: x - torch.mean(dim=-1, keepdim=True, input=x),
        lambda net, x: x - x.mean(axis=-1, keepdims=True),
    ),
    "norm": rows(
        lambda net, x: x / x.norm(2, -1, True),
        lambda net, x: x / torch.norm(input=x, p=2, dim=-1, keepdim=True),
        lambda net, x: x / x.norm(dim=-1, keepdim=True),
        lambda net, x: x / torch.linalg.vector_norm(x, 2, -1, True),
        lambda net, x: x / torch.linalg.vector_norm(x, dim=-1, keepdim=True, ord=2),
        lambda net, x: x / torch.linalg.norm(x, None, -1, True),
        lambda net, x: x / torch.linalg.norm(input=x, dim=-1, keepdim=True),
    ),
    "normalize": rows(
        lambda net, x: F.normalize(x, 2.0, -1),
        lambda net, x: F.normalize(input=x, p=2.0, dim=-1),
        lambda net, x: F.normalize(dim=-1, input=x),
        lambda net, x: F.normalize(x, dim=2, out=fresh(x)),
    ),
    "var": rows(
        lambda net, x: x * x.var(-1, keepdim=True),
        lambda net, x: x * torch.var(input=x, dim=-1, keepdim=True),
        lambda net, x: x * torch.var(x, -1, correction=1, keepdim=True),
        lambda net, x: x * x.var(dim=(-1,), unbiased=True, keepdim=True),
        lambda net, x: x * torch.var_mean(dim=-1, keepdim=True, input=x)[0],
    ),
    "max": rows(
        lambda net, x: x - x.amax(-1, True),
        lambda net, x: x - torch.amax(input=x, dim=-1, keepdim=True),
        lambda net, x: x - x.max(-1, True).values,
        lambda net, x: x - torch.max(dim=-1, keepdim=True, input=x)[0],
        lambda net, x: x - x.max(axis=-1, keepdims=True)[0],
    ),
    "log_softmax": rows(
        lambda net, x: x.log_softmax(-1),
        lambda net, x: F.log_softmax(input=x, dim=-1),
        lambda net, x: torch.log_softmax(dim=-1, input=x),
    ),
    "glu": rows(
        lambda net, x: F.glu(torch.cat([x, x], -1)),
        lambda net, x: F.glu(input=torch.cat([x, x], -1), dim=-1),
        lambda net, x: F.glu(dim=2, input=torch.cat([x, x], -1)),
    ),
}  # fmt: skip
