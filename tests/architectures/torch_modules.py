"""Transformers of torch.nn itself, and attention as people write it by hand."""

import functools

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from . import targets
from .registration import architecture

entry = functools.partial(architecture, family="torch")


@entry("nn.TransformerEncoder", attentions=2, target=targets.token(None))
@entry("nn.TransformerEncoder pre", attentions=2, target=targets.token(None), norm_first=True)
@entry("nn.TransformerEncoder nested", attentions=2, target=targets.token(None), nested=True)
def encoder(*, norm_first=False, nested=False):
    layer = nn.TransformerEncoderLayer(
        16, 2, dim_feedforward=32, batch_first=True, norm_first=norm_first
    )
    network = nn.TransformerEncoder(layer, 2, enable_nested_tensor=nested)
    padding = torch.zeros(2, 6, dtype=torch.bool)
    padding[1, -2:] = True
    return network, {"src": torch.randn(2, 6, 16), "src_key_padding_mask": padding}


@entry(
    "nn.TransformerEncoder sequence first",
    attentions=2,
    target=lambda output: targets.token(None)(output.transpose(0, 1)),
)
def sequence_first():
    layer = nn.TransformerEncoderLayer(16, 2, dim_feedforward=32)
    network = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    return network, {"src": torch.randn(6, 2, 16)}


@entry("nn.TransformerEncoder causal", attentions=2, target=targets.token(None, -1))
def causal():
    layer = nn.TransformerEncoderLayer(16, 2, dim_feedforward=32, batch_first=True)
    network = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    mask = nn.Transformer.generate_square_subsequent_mask(6)
    return network, {"src": torch.randn(2, 6, 16), "mask": mask, "is_causal": True}


@entry("nn.TransformerDecoder", attentions=4, target=targets.token(None, -1))
def decoder():
    layer = nn.TransformerDecoderLayer(16, 2, dim_feedforward=32, batch_first=True)
    return nn.TransformerDecoder(layer, 2), {
        "tgt": torch.randn(2, 4, 16),
        "memory": torch.randn(2, 6, 16),
    }


@entry("nn.Transformer", attentions=6, target=targets.token(None))
def transformer():
    network = nn.Transformer(16, 2, 2, 2, dim_feedforward=32, batch_first=True)
    return network, {"src": torch.randn(2, 6, 16), "tgt": torch.randn(2, 4, 16)}


class Classifier(nn.Module):
    """Words, two blocks of attention and perceptron, and the first token's class scores.

    `attend` takes q, k, v of shape (batch, head, token, feature) to a mix of v.
    """

    def __init__(self, attend, *, key_heads=2, replay=False):
        super().__init__()
        self.attend, self.key_heads, self.replay = attend, key_heads, replay
        self.words = nn.Embedding(60, 16)
        self.places = nn.Parameter(torch.randn(7, 16))
        self.queries = nn.ModuleList([nn.Linear(16, 16) for _ in range(2)])
        self.keys = nn.ModuleList([nn.Linear(16, 16 * key_heads) for _ in range(2)])
        self.outs = nn.ModuleList([nn.Linear(16, 16) for _ in range(2)])
        self.norms = nn.ModuleList([nn.LayerNorm(16) for _ in range(4)])
        self.perceptrons = nn.ModuleList(
            [nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16)) for _ in range(2)]
        )
        self.head = nn.Linear(16, 3)

    def forward(self, tokens):
        hidden = self.words(tokens) + self.places
        for index in range(2):
            run = functools.partial(checkpoint, use_reentrant=False) if self.replay else _call
            hidden = run(self.block, hidden, index)
        return self.head(hidden[:, 0])

    def block(self, hidden, index):
        normed = self.norms[2 * index](hidden)
        query = self.queries[index](normed).unflatten(-1, (2, 8)).transpose(1, 2)
        pair = self.keys[index](normed).unflatten(-1, (2, self.key_heads, 8))
        key, value = pair.permute(2, 0, 3, 1, 4)
        mixed = self.attend(query, key, value).transpose(1, 2).flatten(2)
        hidden = hidden + self.outs[index](mixed)
        return hidden + self.perceptrons[index](self.norms[2 * index + 1](hidden))


def _call(function, *arguments):
    return function(*arguments)


def _matmul(query, key, value):
    return (query @ key.transpose(-2, -1) / 8**0.5).softmax(-1) @ value


def _einsum(query, key, value):
    scores = torch.einsum("bhid,bhjd->bhij", query, key) * 8**-0.5
    return torch.einsum("bhij,bhjd->bhid", torch.softmax(scores, dim=-1), value)


def _key_first(query, key, value):
    """Scores with the keys along the rows, and the softmax along them."""
    scores = torch.einsum("bhjd,bhid->bhji", key, query) * 8**-0.5
    return torch.einsum("bhji,bhjd->bhid", scores.softmax(dim=-2), value)


def _baddbmm(query, key, value):
    q, k, v = (part.flatten(0, 1) for part in (query, key, value))
    bias = torch.zeros(q.shape[0], q.shape[1], k.shape[1])
    scores = torch.baddbmm(bias, q, k.transpose(1, 2), alpha=8**-0.5)
    return torch.bmm(functional.softmax(scores, dim=-1), v).unflatten(0, query.shape[:2])


def _by_hand(query, key, value):
    """No softmax function: exponentials, divided by their sum."""
    scores = query @ key.mT * 8**-0.5
    weights = (scores - scores.amax(-1, keepdim=True)).exp()
    return weights / weights.sum(-1, keepdim=True) @ value


def _masked(query, key, value):
    scores = query @ key.mT * 8**-0.5
    earlier = torch.ones(scores.shape[-2:], dtype=torch.bool).tril(-1)
    weights = torch.softmax(scores.masked_fill(earlier, float("-inf")), -1)
    return weights.flip(-1) @ value.flip(-2)


def _grouped(query, key, value):
    return functional.scaled_dot_product_attention(query, key, value, enable_gqa=True)


def _boolean(query, key, value):
    mask = torch.ones(7, 7, dtype=torch.bool).tril(2)
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=0.5)


@entry("hand-made:matmul", attentions=2, attend=_matmul)
@entry("hand-made:einsum", attentions=2, attend=_einsum)
@entry("hand-made:keys first", attentions=2, attend=_key_first)
@entry("hand-made:baddbmm", attentions=2, attend=_baddbmm)
@entry("hand-made:exponentials", attentions=2, attend=_by_hand)
@entry("hand-made:masked and flipped", attentions=2, attend=_masked)
@entry("hand-made:grouped", attentions=2, attend=_grouped, key_heads=1)
@entry("hand-made:boolean mask", attentions=2, attend=_boolean)
@entry("hand-made:checkpoint", attentions=2, attend=_matmul, replay=True)
def by_hand(**settings):
    return Classifier(**settings), {"tokens": torch.randint(0, 60, (2, 7))}


class Pooled(nn.Module):
    """Features read by learned queries through nn.MultiheadAttention."""

    def __init__(self, *, weights=False, **changes):
        super().__init__()
        self.weights = weights
        self.queries = nn.Parameter(torch.randn(1, 3, 16))
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True, **changes)
        self.head = nn.Linear(16, 4)

    def forward(self, features):
        queries = self.queries.expand(features.shape[0], -1, -1)
        read, _ = self.attention(queries, features, features, need_weights=self.weights)
        return self.head((queries + read).mean(1))


@entry("nn.MultiheadAttention", attentions=1)
@entry("nn.MultiheadAttention weights", attentions=1, weights=True)
@entry("nn.MultiheadAttention widths", attentions=1, kdim=12, vdim=12, width=12)
@entry("nn.MultiheadAttention bias_k", attentions=1, refused="bias_k", add_bias_kv=True)
@entry("nn.MultiheadAttention zero", attentions=1, refused="add_zero_attn", add_zero_attn=True)
def pooled(*, width=16, **changes):
    return Pooled(**changes), {"features": torch.randn(2, 5, width)}
