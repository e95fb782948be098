"""Heads that are computed one by one are heads of one attention: means over heads go over all.

The truth is the same network with all heads in one product, its maps and their gradients taken
from plain autograd and multiplied by hand.
"""

import pytest
import torch
from torch import nn

import relmap
from relmap.errors import TraceError

WIDTH, HEADS, TOKENS = 8, 2, 5
DEPTH = WIDTH // HEADS


class Network(nn.Module):
    """Two layers x + attend(x) behind an embedding, read at the second token."""

    def __init__(self, attend):
        super().__init__()
        torch.manual_seed(5)
        self.attend = attend
        self.q, self.k, self.v, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.embed, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 4)
        for parameter in self.parameters():
            parameter.data.mul_(1.8)
        self.double().eval()

    def split(self, x):
        return (
            f(x).unflatten(-1, (HEADS, DEPTH)).transpose(1, 2) for f in (self.q, self.k, self.v)
        )

    def forward(self, x):
        x = self.embed(x)
        for _ in range(2):
            x = x + self.attend(self, x)
        return self.head(x[:, 1])


def softmax_of(q, k, head):
    return (q[:, head] @ k[:, head].mT).softmax(-1)


def in_a_list(net, x):
    q, k, v = net.split(x)
    return net.out(torch.cat([softmax_of(q, k, h) @ v[:, h] for h in range(HEADS)], -1))


def stacked(net, x):
    q, k, v = net.split(x)
    outputs = torch.stack([softmax_of(q, k, h) @ v[:, h] for h in range(HEADS)], 1)
    return net.out(outputs.transpose(1, 2).flatten(2))


def fused(net, x):
    q, k, v = net.split(x)
    attend = nn.functional.scaled_dot_product_attention
    made = [attend(q[:, h], k[:, h], v[:, h], scale=1.0) for h in range(HEADS)]
    return net.out(torch.cat(made, -1))


def projected_and_summed(net, x):
    q, k, v = net.split(x)
    pieces = net.out.weight.split(DEPTH, 1)
    made = [nn.functional.linear(softmax_of(q, k, h) @ v[:, h], pieces[h]) for h in range(HEADS)]
    return made[0] + made[1] + net.out.bias


def example_by_example(net, x):
    q, k, v = net.split(x)
    whole = [
        torch.stack([(q[b, h].mm(k[b, h].t())).softmax(-1).mm(v[b, h]) for h in range(HEADS)])
        for b in range(len(x))
    ]
    return net.out(torch.stack(whole).transpose(1, 2).flatten(2))


def in_one_product(net, x):
    q, k, v = net.split(x)
    maps = (q @ k.mT).softmax(-1)
    if maps.requires_grad:
        maps.retain_grad()
    net.maps.append(maps)
    return net.out((maps @ v).transpose(1, 2).flatten(2))


def by_hand(x, target, method):
    """Rows of R that the second token reads: GenAtt, or rollout with an added identity."""
    network = Network(in_one_product)
    network.maps = []
    network(x.clone().requires_grad_())[:, target].sum().backward()
    relevance = identity = torch.eye(TOKENS).to(x).expand(len(x), -1, -1)
    for one in network.maps:
        if method == "genatt":
            mixing = (one * one.grad).clamp_min(0).mean(1).detach()
            relevance = relevance + mixing @ relevance
        else:
            relevance = (identity + one.detach().mean(1)) / 2 @ relevance
    return relevance[:, 1]


SPELLINGS = [in_a_list, stacked, fused, projected_and_summed, example_by_example]


@pytest.mark.parametrize("method", ["genatt", "rollout"])
@pytest.mark.parametrize("attend", SPELLINGS, ids=lambda one: one.__name__)
def test_heads_in_several_calls_are_heads_of_one_attention(attend, method):
    x = torch.randn(
        3, TOKENS, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(2)
    )
    scores = relmap.explain(Network(attend), x=x, target=2, method=method).scores["x"]
    torch.testing.assert_close(scores, by_hand(x, 2, method), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "method",
    ["raw-attention", "attgrad", "wra", "partial-lrp", "transformer-attribution", "attcat"],
)
def test_every_method_reads_single_heads_as_it_reads_all(method):
    x = torch.randn(
        2, TOKENS, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(2)
    )
    whole, apart = Network(in_one_product), Network(stacked)
    whole.maps = []
    expected = relmap.explain(whole, x=x, target=2, method=method).scores["x"]
    scores = relmap.explain(apart, x=x, target=2, method=method).scores["x"]
    torch.testing.assert_close(scores, expected, rtol=1e-9, atol=1e-9)


def test_a_method_that_needs_all_heads_at_once_says_so():
    x = torch.randn(2, TOKENS, WIDTH, dtype=torch.float64)
    with pytest.raises(TraceError, match="computes them in several calls"):
        relmap.explain(Network(in_a_list), x=x, target=2, method="attention-gradcam")


def test_attentions_of_several_heads_that_are_added_are_not_averaged():
    def twice(net, x):
        q, k, v = net.split(x)
        first = ((q @ k.mT).softmax(-1) @ v).transpose(1, 2).flatten(2)
        second = ((k @ q.mT).softmax(-1) @ v).transpose(1, 2).flatten(2)
        return net.out(first + second)

    x = torch.randn(2, TOKENS, WIDTH, dtype=torch.float64)
    graph = relmap.record(Network(twice), x=x)
    assert [call.share for call in graph.attentions] == [1.0] * 4


def in_halves(net, x):
    q, k, v = net.split(x)
    maps = (q @ k.mT).softmax(-1)
    halves = [maps @ part for part in v.chunk(2, -1)]
    return net.out(torch.cat(halves, -1).transpose(1, 2).flatten(2))


def computed_twice(net, x):
    q, k, v = net.split(x)
    maps = (q @ k.mT).softmax(-1)
    return net.out(((maps @ v + maps @ v) / 2).transpose(1, 2).flatten(2))


@pytest.mark.parametrize("attend", [in_halves, computed_twice], ids=lambda one: one.__name__)
def test_one_map_in_several_products_is_refused(attend):
    x = torch.randn(2, TOKENS, WIDTH, dtype=torch.float64)
    with pytest.raises(TraceError, match="several products of one attention map"):
        relmap.explain(Network(attend), x=x, target=2, method="genatt")


def test_scores_scaled_by_zero_are_uniform_attention():
    def level(net, x):
        q, k, v = net.split(x)
        made = nn.functional.scaled_dot_product_attention(q, k, v, scale=0.0)
        return net.out(made.transpose(1, 2).flatten(2))

    x = torch.randn(2, TOKENS, WIDTH, dtype=torch.float64)
    scores = relmap.explain(Network(level), x=x, target=2, method="rollout").scores["x"]
    layer = (torch.eye(TOKENS, dtype=x.dtype) + 1 / TOKENS) / 2
    expected = (layer @ layer)[1].expand_as(scores)
    torch.testing.assert_close(scores, expected, rtol=1e-9, atol=1e-9)
