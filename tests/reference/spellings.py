"""Small networks written twice: as somebody would write them, and with their surgery.

A body is a function of (parts, x, surgery). Without a surgery it uses torch's operations in one of
the ways in which they are written; with one it detaches and halves by hand.
"""

import math

import torch
from torch import nn
from torch.nn import functional

from .linearised import half

WIDTH, HEADS = 8, 2


class Network(nn.Module):
    """Parts for a body, given as a function of (parts, x, surgery), between embedding and head."""

    def __init__(self, body, surgery=None):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.surgery = body, surgery
        self.q, self.k, self.v, self.o, self.a, self.b = (nn.Linear(WIDTH, WIDTH) for _ in range(6))
        self.up, self.down, self.head = nn.Linear(WIDTH, 16), nn.Linear(16, WIDTH), nn.Linear(8, 3)
        self.norm = nn.LayerNorm(WIDTH)
        self.first, self.last = (
            nn.MultiheadAttention(WIDTH, HEADS, batch_first=first) for first in (True, False)
        )
        self.groups, self.batch = nn.GroupNorm(2, WIDTH), nn.BatchNorm1d(WIDTH)
        self.batch.running_mean.normal_()
        self.batch.running_var.uniform_(0.5, 2)
        for parameter in self.parameters():
            parameter.data.mul_(2).add_(torch.randn_like(parameter) * 0.1)

    def forward(self, x):
        return self.head(self.body(self, x, self.surgery)[:, 0])

    def heads(self, x):
        parts = [one(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for one in
                 (self.q, self.k, self.v)]  # fmt: skip
        return [parts[0] / 2, *parts[1:]]

    def joined(self, heads):
        return self.o(heads.transpose(1, 2).flatten(2))


def attention(n, x, s):
    q, k, v = n.heads(x)
    if s is None:
        return n.joined(functional.scaled_dot_product_attention(q, k, v, scale=1.0))
    return n.joined(s.attend(q, k, v, None))


def einsum_attention(n, x, s):
    q, k, v = n.heads(x)
    if s is not None:
        return n.joined(s.attend(q, k, v, None))
    maps = torch.einsum("bhid,bhjd->bhij", q, k).softmax(-1)
    return n.joined(torch.einsum("bhij,bhjd->bhid", maps, v))


def baddbmm_attention(n, x, s):
    q, k, v = n.heads(x)
    if s is not None:
        return n.joined(s.attend(q, k, v, None))
    q, k, v = (one.flatten(0, 1) for one in (q, k, v))
    maps = torch.baddbmm(q.new_empty(1, 1, 1), q, k.transpose(1, 2), beta=0, alpha=1).softmax(-1)
    return n.joined(torch.bmm(maps, v).unflatten(0, (-1, HEADS)))


def matmul_attention_in_place(n, x, s):
    q, k, v = n.heads(x)
    bias = torch.linspace(0, 1, q.shape[2], dtype=x.dtype)
    if s is not None:
        return n.joined(s.attend(q, k, v, bias))
    maps = q @ k.mT
    maps += bias
    return n.joined(maps.softmax(-1) @ v)


def torch_attention(module, batch_first):
    def attend(n, x, s):
        layer = getattr(n, module)
        if s is None:
            turned = x if batch_first else x.transpose(0, 1)
            found = layer(turned, turned, turned, need_weights=False)[0]
            return found if batch_first else found.transpose(0, 1)
        parts = functional.linear(x, layer.in_proj_weight, layer.in_proj_bias).chunk(3, -1)
        q, k, v = (one.unflatten(-1, (HEADS, -1)).transpose(1, 2) for one in parts)
        found = s.attend(q / math.sqrt(WIDTH // HEADS), k, v, None)
        return layer.out_proj(found.transpose(1, 2).flatten(2))

    return attend


def shared_einsum_attention(n, x, s):
    """Queries and keys are one tensor."""
    y = n.q(x)
    if s is None:
        return torch.einsum("bij,bjd->bid", torch.einsum("bid,bjd->bij", y, y).softmax(-1), x)
    return s.attend(y, y, x, None)


def add(s, one, other):
    return one + other if s is None else s.residual(one, other)


def times(s, one, other):
    return one * other if s is None else half(one * other, 2)


def root_mean_square(power):
    def norm(n, x, s):
        scale = power(x.pow(2).mean(-1, keepdim=True) + 1e-6)
        return x * (scale if s is None else scale.detach())

    return norm


def moved_norm(plain):
    """A norm of channels, which are the second axis there."""

    def norm(n, x, s):
        y = x.transpose(1, 2)
        if s is None:
            return plain(n, y).transpose(1, 2)
        return _operated_norm(plain.__name__, n, y).transpose(1, 2)

    return norm


def _operated_norm(name, n, y):
    if name == "batch":
        return n.batch(y)
    shape = (len(y), 2 if name == "groups" else y.shape[1], -1)
    flat = y.reshape(shape)
    scale = (flat.var(-1, correction=0, keepdim=True) + 1e-5).sqrt().detach()
    found = ((flat - flat.mean(-1, keepdim=True)) / scale).reshape(y.shape)
    if name == "instance":
        return found
    return found * n.groups.weight[:, None] + n.groups.bias[:, None]


def groups(n, y):
    return n.groups(y)


def batch(n, y):
    return n.batch(y)


def instance(n, y):
    return functional.instance_norm(y)


def layer_norm(n, x, s):
    if s is None:
        return n.norm(x)
    scale = (x.var(-1, correction=0, keepdim=True) + 1e-5).sqrt().detach()
    return (x - x.mean(-1, keepdim=True)) / scale * n.norm.weight + n.norm.bias


def activation(plain):
    return lambda n, x, s: n.down(plain(n.up(x)) if s is None else s.activate(plain, n.up(x)))


def gelu_by_erf(x):
    return x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0)))


def gelu_by_tanh(x):
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0))
    return 0.5 * x * (1.0 + torch.tanh(inner))


def quick_gelu(x):
    return x * torch.sigmoid(1.702 * x)


def silu_in_place(x):
    gate = x.clone()
    gate.sigmoid_()
    return gate.mul_(x)


def relu_in_place(n, x, s):
    if s is not None:
        return n.down(s.activate(torch.relu, n.up(x)))
    return n.down(functional.relu(n.up(x), inplace=True))


def gated_linear(n, x, s):
    y = n.up(x)
    one, other = y.chunk(2, -1)
    return functional.glu(y, -1) if s is None else one * other.sigmoid().detach()


def gated_gelu(n, x, s):
    one, other = n.up(x).chunk(2, -1)
    gate = functional.gelu(other) if s is None else s.activate(functional.gelu, other)
    return times(s, one, gate)


def gated_in_place(n, x, s):
    """The gate is overwritten by the product, which is no gate."""
    if s is not None:
        return half(n.a(x).sigmoid().detach() * n.b(x) * n.o(x), 2)
    gate = n.a(x).sigmoid()
    gate *= n.b(x)
    return gate * n.o(x)


def squared(n, x, s):
    return n.a(x) * n.a(x) if s is None else half(n.a(x) * n.a(x), 2)


def squared_one_tensor(n, x, s):
    y = n.a(x)
    return y * y if s is None else half(y * y, 2)


def standing(part, attend=attention, norm=layer_norm):
    def body(n, x, s):
        x = add(s, x, attend(n, norm(n, x, s), s))
        return add(s, x, part(n, norm(n, x, s), s))

    return body


def normed_after_in_place(n, x, s):
    if s is not None:
        x = s.residual(attention(n, x, s), x)
        return s.residual(x, n.down(s.activate(torch.relu, n.up(x))))
    y = attention(n, x, s)
    y += x
    branch = n.down(torch.relu_(n.up(y)))
    y += branch
    return y


MLP = activation(functional.gelu)
BODIES = {
    "fused attention": standing(MLP),
    "einsum": standing(MLP, einsum_attention),
    "baddbmm": standing(MLP, baddbmm_attention),
    "scores biased in place": standing(MLP, matmul_attention_in_place),
    "queries that are keys": standing(MLP, shared_einsum_attention),
    "torch's attention": standing(MLP, torch_attention("first", True)),
    "torch's attention, tokens first": standing(MLP, torch_attention("last", False)),
    "gelu by erf": standing(activation(gelu_by_erf)),
    "gelu by tanh": standing(activation(gelu_by_tanh)),
    "quick gelu": standing(activation(quick_gelu)),
    "silu in place": standing(activation(silu_in_place)),
    "squared relu": standing(activation(lambda x: torch.square(torch.relu(x)))),
    "relu in place": standing(relu_in_place),
    "residuals in place": normed_after_in_place,
    "glu": standing(gated_linear),
    "gated gelu": standing(gated_gelu),
    "a gate overwritten": standing(gated_in_place),
    "a square of two": standing(squared),
    "a square of one": standing(squared_one_tensor),
    "rsqrt": standing(MLP, norm=root_mean_square(torch.rsqrt)),
    "power -0.5": standing(MLP, norm=root_mean_square(lambda x: x**-0.5)),
    "pow(x, -0.5)": standing(MLP, norm=root_mean_square(lambda x: torch.pow(x, -0.5))),
    "one by a root": standing(MLP, norm=root_mean_square(lambda x: 1 / x.sqrt())),
    "rsqrt in place": standing(MLP, norm=root_mean_square(lambda x: x.add_(0).rsqrt_())),
    "group norm": standing(MLP, norm=moved_norm(groups)),
    "batch norm": standing(MLP, norm=moved_norm(batch)),
    "instance norm": standing(MLP, norm=moved_norm(instance)),
}
