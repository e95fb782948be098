"""The gradient family written as surgery: detached factors and halved gradients, by hand.

    half(t, n) = t / n + (t - t / n).detach()      ratio(f, x) = x (f(x) / x).detach()
    norm(x)    = (x - mean) / std.detach() w + b   attention: softmax(..).detach() v, or q / 4,
                                                   k / 4, v / 2 of its gradient

A network is written once, with the methods of `Plain`; under `Surgery` the same lines compute the
same values with another gradient. transformers' networks get their modules exchanged.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor, nn


def half(tensor: Tensor, parts: float) -> Tensor:
    return tensor / parts + (tensor - tensor / parts).detach()


def ratio(function: Callable[[Tensor], Tensor], operand: Tensor) -> Tensor:
    safe = torch.where(operand == 0, 1e-12, operand)
    return operand * (function(safe) / safe).detach()


@dataclass(frozen=True)
class Surgery:
    """Which factors a backward takes for constants."""

    attention_constant: bool
    activation_ratio: bool = True
    gamma: float | None = None

    def activate(self, function: Callable[[Tensor], Tensor], operand: Tensor) -> Tensor:
        return ratio(function, operand) if self.activation_ratio else function(operand)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        if not self.attention_constant:
            query, key, value = half(query, 4), half(key, 4), half(value, 2)
        scores = query @ key.transpose(-1, -2)
        weights = (scores if mask is None else scores + mask).softmax(-1)
        return (weights.detach() if self.attention_constant else weights) @ value

    def residual(self, one: Tensor, other: Tensor) -> Tensor:
        """The gamma rule: gradients times z w(z_i) / (w(a) a + w(b) b)."""
        total = one + other
        if self.gamma is None:
            return total
        a, b, z = one.detach(), other.detach(), total.detach()
        weight_a = 1 + self.gamma * (torch.sign(a) == torch.sign(z))
        weight_b = 1 + self.gamma * (torch.sign(b) == torch.sign(z))
        below = weight_a * a + weight_b * b
        shared = one * (weight_a * z / below) + other * (weight_b * z / below)
        return shared + (z - shared).detach()


SURGERIES = {
    "libra": Surgery(True),
    "cp-lrp": Surgery(True),
    "attnlrp": Surgery(False),
    "reslrp": Surgery(False, gamma=1.0),
}


# --- modules of transformers ------------------------------------------------------------------


class LayerNorm(nn.Module):
    def __init__(self, plain: nn.LayerNorm) -> None:
        super().__init__()
        self.plain = plain

    def forward(self, x: Tensor) -> Tensor:
        scale = (x.var(-1, correction=0, keepdim=True) + self.plain.eps).sqrt().detach()
        normed = (x - x.mean(-1, keepdim=True)) / scale
        return normed * self.plain.weight + self.plain.bias


class RMSNorm(nn.Module):
    def __init__(self, plain: Any) -> None:
        super().__init__()
        self.plain = plain

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        scale = (wide.square().mean(-1, keepdim=True) + self.plain.variance_epsilon).rsqrt()
        return self.plain.weight * (wide * scale.detach()).to(x.dtype)


class Activation(nn.Module):
    def __init__(self, plain: nn.Module, surgery: Surgery) -> None:
        super().__init__()
        self.plain, self.surgery = plain, surgery

    def forward(self, x: Tensor) -> Tensor:
        return self.surgery.activate(self.plain, x)


class GatedMLP(nn.Module):
    def __init__(self, plain: Any, surgery: Surgery) -> None:
        super().__init__()
        self.plain, self.surgery = plain, surgery

    def forward(self, x: Tensor) -> Tensor:
        gate = self.surgery.activate(nn.functional.silu, self.plain.gate_proj(x))
        return self.plain.down_proj(half(gate * self.plain.up_proj(x), 2))


def operate(network: nn.Module, surgery: Surgery) -> nn.Module:
    """Exchange norms, activations, gated products and the attention function of a network."""
    for parent in list(network.modules()):
        for name, module in list(parent.named_children()):
            kind = type(module).__name__
            if isinstance(parent, (LayerNorm, RMSNorm, Activation, GatedMLP)):
                continue
            if isinstance(module, nn.LayerNorm):
                setattr(parent, name, LayerNorm(module))
            elif kind == "LlamaRMSNorm":
                setattr(parent, name, RMSNorm(module))
            elif kind == "LlamaMLP":
                setattr(parent, name, GatedMLP(module, surgery))
            elif "GELU" in kind or isinstance(module, nn.Tanh):
                setattr(parent, name, Activation(module, surgery))

    def attention(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None,
        scaling: float | None = None, **_: Any,
    ) -> tuple[Tensor, None]:  # fmt: skip
        copies = query.shape[1] // key.shape[1]
        key, value = (one.repeat_interleave(copies, 1) for one in (key, value))
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        if mask is not None and mask.dtype == torch.bool:
            closed = torch.zeros(mask.shape, dtype=query.dtype)
            mask = closed.masked_fill(~mask, torch.finfo(query.dtype).min)
        if mask is None and query.shape[2] > 1 and getattr(module, "is_causal", False):
            mask = torch.full((query.shape[2],) * 2, -torch.inf, dtype=query.dtype).triu(1)
        output = surgery.attend(query * scale, key, value, mask)
        return output.transpose(1, 2).contiguous(), None

    name = f"surgery-{id(surgery)}"
    transformers.AttentionInterface.register(name, attention)
    transformers.AttentionMaskInterface.register(
        name, transformers.masking_utils.ALL_MASK_ATTENTION_FUNCTIONS["sdpa"]
    )
    network.set_attn_implementation(name)
    return network


def input_x_gradient(
    network: nn.Module, inputs: dict[str, Any], target: Callable[[Any], Tensor], module: str
) -> Tensor:
    """Sum over features of x dy/dx, with x what a module of the network returns."""
    kept: list[Tensor] = []

    def keep(_: nn.Module, args: Any, output: Any) -> Tensor:
        kept.append(output.detach().requires_grad_())
        return kept[-1]

    network.requires_grad_(False)
    handle = network.get_submodule(module).register_forward_hook(keep)
    try:
        value = target(network(**inputs)).sum()
    finally:
        handle.remove()
    (gradient,) = torch.autograd.grad(value, kept[-1])
    return (kept[-1] * gradient).sum(-1).detach()
