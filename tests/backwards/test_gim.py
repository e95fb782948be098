"""GIM against its rules written out, on attention in every form."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import relmap

TEMPERATURE = 2.0


class SoftSoftmax(torch.autograd.Function):
    """Softmax whose gradient is taken at a higher temperature."""

    @staticmethod
    def forward(context, scores):
        context.save_for_backward(scores)
        return scores.softmax(-1)

    @staticmethod
    def backward(context, arriving):
        (scores,) = context.saved_tensors
        soft = (scores / TEMPERATURE).softmax(-1)
        return soft * (arriving - (soft * arriving).sum(-1, keepdim=True))


def halved(tensor):
    return tensor / 2 + (tensor / 2).detach()


class Block(nn.Module):
    """Normed attention with grouped heads and a gated feed-forward, fused or written out."""

    def __init__(self, form, kv_heads, causal):
        super().__init__()
        self.form, self.kv_heads, self.causal = form, kv_heads, causal
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 3)
        self.q, self.o = nn.Linear(8, 8), nn.Linear(8, 8)
        self.k, self.v = nn.Linear(8, 2 * kv_heads), nn.Linear(8, 2 * kv_heads)
        self.up, self.gate, self.down = nn.Linear(8, 12), nn.Linear(8, 12), nn.Linear(12, 8)

    def forward(self, features, literal=False):
        normed = self.normed(features, literal)
        q, k, v = (
            part(normed).unflatten(-1, (-1, 2)).transpose(1, 2) for part in (self.q, self.k, self.v)
        )
        if literal:
            k, v = (tensor.repeat_interleave(4 // self.kv_heads, 1) for tensor in (k, v))
            scores = halved(q) @ halved(k).transpose(-1, -2) / math.sqrt(2)
            maps = SoftSoftmax.apply(scores + self.mask(scores))
            mixed = halved(maps) @ halved(v)
        elif self.form == "fused":
            mixed = F.scaled_dot_product_attention(
                q, k, v, is_causal=self.causal, enable_gqa=self.kv_heads < 4
            )
        else:
            k, v = (tensor.repeat_interleave(4 // self.kv_heads, 1) for tensor in (k, v))
            scores = q @ k.transpose(-1, -2) / math.sqrt(2)
            mixed = (scores + self.mask(scores)).softmax(-1) @ v
        stream = features + self.o(mixed.transpose(1, 2).flatten(2))
        up, gate = self.up(stream), F.silu(self.gate(stream))
        hidden = halved(up) * halved(gate) if literal else up * gate
        return self.head((stream + self.down(hidden)).mean(1))

    def normed(self, features, literal):
        if not literal:
            return self.norm(features)
        centred = features - features.mean(-1, keepdim=True)
        scale = (features.var(-1, correction=0, keepdim=True) + self.norm.eps).rsqrt().detach()
        return centred * scale * self.norm.weight + self.norm.bias

    def mask(self, scores):
        closed = torch.ones_like(scores, dtype=torch.bool).triu(1) & self.causal
        return torch.zeros_like(scores).masked_fill(closed, -math.inf)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("form", ["fused", "written out"])
def test_gim_is_its_rules(form, kv_heads, causal):
    network = Block(form, kv_heads, causal).double().eval()
    features = torch.randn(2, 5, 8, dtype=torch.float64)
    found = relmap.explain(
        network, features=features, target=1, method="input-x-gradient", backward="gim"
    )
    entering = features.clone().requires_grad_()
    network(entering, literal=True)[:, 1].sum().backward()
    wanted = (entering * entering.grad).sum(-1)
    torch.testing.assert_close(found.scores["features"].double(), wanted, rtol=1e-9, atol=1e-12)


def test_the_temperature_is_an_option_and_has_to_be_positive():
    network = Block("fused", 4, False).eval()
    given = {"features": torch.randn(1, 5, 8), "target": 1, "method": "input-x-gradient"}
    soft = relmap.explain(network, backward=relmap.backwards.gim(temperature=4.0), **given)
    plain = relmap.explain(network, backward="gim", **given)
    assert not torch.equal(soft.scores["features"], plain.scores["features"])
    with pytest.raises(relmap.InputError, match="has to be above 0"):
        relmap.backwards.gim(temperature=0.0)
