"""Products, convolutions and attention, in every legal spelling."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tiny.spelled import HEADS, WIDTH, before_attention, fresh, rows

PRODUCTS = {
    "linear": rows(
        lambda net, x: F.linear(x, net.linear.weight, net.linear.bias),
        lambda net, x: F.linear(input=x, weight=net.linear.weight, bias=net.linear.bias),
        lambda net, x: F.linear(bias=net.linear.bias, weight=net.linear.weight, input=x),
        lambda net, x: x @ net.linear.weight.T + net.linear.bias,
        lambda net, x: torch.addmm(
            net.linear.bias, x.flatten(0, 1), net.linear.weight.T
        ).view(x.shape),
        lambda net, x: torch.addmm(
            mat2=net.linear.weight.T, mat1=x.flatten(0, 1), input=net.linear.bias
        ).view(x.shape),
    ),
    "matmul": rows(
        lambda net, x: x @ net.linear.weight,
        lambda net, x: torch.matmul(x, net.linear.weight),
        lambda net, x: torch.matmul(input=x, other=net.linear.weight),
        lambda net, x: torch.matmul(other=net.linear.weight, input=x),
        lambda net, x: x.matmul(other=net.linear.weight),
        lambda net, x: operator.matmul(x, net.linear.weight),
        lambda net, x: net.linear.weight.__rmatmul__(x),
        lambda net, x: torch.mm(input=x.flatten(0, 1), mat2=net.linear.weight).view(x.shape),
        lambda net, x: torch.bmm(input=x, mat2=net.linear.weight.expand(len(x), -1, -1)),
        lambda net, x: torch.bmm(mat2=net.linear.weight.expand(len(x), -1, -1), input=x),
        lambda net, x: torch.einsum("bic,cj->bij", x, net.linear.weight),
        lambda net, x: torch.einsum("bic,cj->bij", [x, net.linear.weight]),
        lambda net, x: torch.matmul(x, net.linear.weight, out=fresh(x)),
        lambda net, x: torch.matmul(input=x, other=net.linear.weight, out=torch.empty(0).to(x)),
        lambda net, x: torch.baddbmm(
            batch2=net.linear.weight.expand(len(x), -1, -1), batch1=x, input=x.new_zeros(1, 1, 1)
        ),
    ),
    "scores": [
        lambda net, x, scores=scores: x + spelled_scores(net.attend, x, scores)
        for scores in (
            lambda q, k: q @ k.mT,
            lambda q, k: torch.matmul(input=q, other=k.mT),
            lambda q, k: torch.matmul(other=k.mT, input=q),
            lambda q, k: torch.einsum("bhic,bhjc->bhij", q, k),
            lambda q, k: torch.bmm(
                input=q.flatten(0, 1), mat2=k.flatten(0, 1).mT
            ).unflatten(0, q.shape[:2]),
            lambda q, k: torch.baddbmm(
                input=q.new_zeros(1, 1, 1), batch1=q.flatten(0, 1), batch2=k.flatten(0, 1).mT,
                beta=0.5,
            ).unflatten(0, q.shape[:2]),
            lambda q, k: torch.matmul(q, k.mT, out=torch.empty(0).to(q)),
        )
    ],
}  # fmt: skip


def spelled_scores(attend: Any, x: Tensor, scores: Any) -> Tensor:
    """The attention with any spelling of q k^T."""
    q, k, v = attend.heads(x)
    maps = (scores(q, k) / (WIDTH // HEADS) ** 0.5).softmax(-1)
    if attend.kept is not None:
        maps.retain_grad()
        attend.kept.append(maps)
    return attend.out((maps @ v).transpose(1, 2).flatten(2))


def along_tokens(convolution: Any) -> Any:
    """A function of (example, channel, place) on tokens."""
    return lambda net, x: convolution(net, x.mT).mT


CONVOLUTIONS = {
    "one place": [before_attention(along_tokens(function)) for function in (
        lambda net, x: F.conv1d(x, net.window[..., :1], net.scale),
        lambda net, x: F.conv1d(input=x, weight=net.window[..., :1], bias=net.scale),
        lambda net, x: F.conv1d(bias=net.scale, weight=net.window[..., :1], input=x),
        lambda net, x: torch.conv1d(input=x, weight=net.window[..., :1], bias=net.scale, stride=1),
    )],
    "three places": [before_attention(along_tokens(function)) for function in (
        lambda net, x: F.conv1d(x, net.window, net.scale, 1, 1),
        lambda net, x: F.conv1d(x, net.window, net.scale, padding=1),
        lambda net, x: F.conv1d(padding=(1,), stride=(1,), bias=net.scale, weight=net.window,
                                input=x),
        lambda net, x: torch.conv1d(input=x, weight=net.window, bias=net.scale, padding="same"),
    )],
    "average": [before_attention(along_tokens(function)) for function in (
        lambda net, x: F.avg_pool1d(x, 3, 1, 1),
        lambda net, x: F.avg_pool1d(x, kernel_size=3, stride=1, padding=1),
        lambda net, x: F.avg_pool1d(padding=1, stride=1, kernel_size=3, input=x),
    )],
    "highest": [before_attention(along_tokens(function)) for function in (
        lambda net, x: F.max_pool1d(x, 3, 1, 1),
        lambda net, x: F.max_pool1d(padding=1, stride=1, kernel_size=3, input=x),
        lambda net, x: torch.max_pool1d(input=x, kernel_size=3, stride=1, padding=1),
    )],
    "running statistics": [before_attention(along_tokens(function)) for function in (
        lambda net, x: F.batch_norm(x, net.scale.detach(), net.scale.detach() ** 2, net.scale),
        lambda net, x: F.batch_norm(
            weight=net.scale, running_var=net.scale.detach() ** 2,
            running_mean=net.scale.detach(), input=x,
        ),
        lambda net, x: torch.batch_norm(
            x, net.scale, None, net.scale.detach(), net.scale.detach() ** 2, False, 0.1, 1e-5, False
        ),
    )],
}  # fmt: skip


def fused(attend: Any, x: Tensor, kernel: Any) -> Tensor:
    """The attention by a fused kernel."""
    return attend.out(kernel(*attend.heads(x)).transpose(1, 2).flatten(2))


def fused_ways(*kernels: Any) -> list[Any]:
    """The explicit attention, and it again by spellings of the fused kernel."""
    return [
        lambda net, x: x + net.attend(x),
        *(lambda net, x, way=way: x + fused(net.attend, x, way) for way in kernels),
    ]


def open_mask(q: Tensor) -> Tensor:
    """A mask that hides nothing."""
    return torch.ones(q.shape[-2], q.shape[-2], dtype=torch.bool)


ATTENTION = {
    "fused": fused_ways(
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v),
        lambda q, k, v: F.scaled_dot_product_attention(query=q, key=k, value=v),
        lambda q, k, v: F.scaled_dot_product_attention(value=v, key=k, query=q),
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, open_mask(q)),
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=open_mask(q).double()
                                                       .log()),
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, None, 0.0, False, scale=0.5),
        lambda q, k, v: F.scaled_dot_product_attention(
            scale=0.5, is_causal=False, value=v, query=q, key=k
        ),
    ),
    "causal": [
        lambda net, x: x + net.attend(x, causal),
        lambda net, x: x + fused(
            net.attend, x, lambda q, k, v: F.scaled_dot_product_attention(q, k, v, None, 0.0, True)
        ),
        lambda net, x: x + fused(
            net.attend, x,
            lambda q, k, v: F.scaled_dot_product_attention(is_causal=True, value=v, key=k, query=q),
        ),
    ],
}  # fmt: skip


def causal(scores: Tensor) -> Tensor:
    """The softmax that sees no later token."""
    later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    return scores.masked_fill(later, float("-inf")).softmax(-1)


def multi_head(net: Any, x: Tensor, by_name: bool, maps: bool) -> Tensor:
    """`F.multi_head_attention_forward` with the weights of the explicit attention."""
    parts, tokens = net.attend, x.transpose(0, 1)
    weight = torch.cat([part.weight for part in (parts.q, parts.k, parts.v)])
    bias = torch.cat([part.bias for part in (parts.q, parts.k, parts.v)])
    named = {
        "query": tokens, "key": tokens, "value": tokens, "embed_dim_to_check": WIDTH,
        "num_heads": HEADS, "in_proj_weight": weight, "in_proj_bias": bias, "bias_k": None,
        "bias_v": None, "add_zero_attn": False, "dropout_p": 0.0,
        "out_proj_weight": parts.out.weight, "out_proj_bias": parts.out.bias, "training": False,
        "key_padding_mask": None, "need_weights": maps,
    }  # fmt: skip
    if by_name:
        output, _ = F.multi_head_attention_forward(**dict(reversed(named.items())))
    else:
        output, _ = F.multi_head_attention_forward(*named.values())
    return x + output.transpose(0, 1)


MULTI_HEAD = {
    "written out": [
        lambda net, x: x + net.attend(x),
        lambda net, x: multi_head(net, x, by_name=False, maps=False),
        lambda net, x: multi_head(net, x, by_name=True, maps=False),
        lambda net, x: multi_head(net, x, by_name=False, maps=True),
        lambda net, x: multi_head(net, x, by_name=True, maps=True),
    ],
}
