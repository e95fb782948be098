"""The same network written in two ways gets the same map.

Each pair below is one function of the input; the second form is the plain one. A recorder that
takes one of them for something else would give two maps.
"""

import pytest
import torch
from torch import nn
from torch.nn import functional

import relmap


class Attend(nn.Module):
    """Ordinary attention with two heads, in explicit products, without a residual."""

    def __init__(self, width=8):
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x, y=None):
        y = x if y is None else y
        heads = [f(t).unflatten(-1, (2, -1)).transpose(1, 2) for f, t in
                 ((self.q, x), (self.k, y), (self.v, y))]  # fmt: skip
        maps = (heads[0] @ heads[1].transpose(-1, -2) * 2).softmax(-1)
        return self.out((maps @ heads[2]).transpose(1, 2).flatten(2))


class Network(nn.Module):
    """A body given as a function of (parts, x), between an embedding and a read-out at token 0."""

    def __init__(self, body):
        super().__init__()
        torch.manual_seed(0)
        self.body = body
        self.emb, self.lin, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.a1, self.a2, self.a3 = Attend(), Attend(), Attend()
        self.n1, self.m1 = nn.LayerNorm(8), nn.Sequential(nn.Linear(8, 8), nn.GELU())
        self.cls = nn.Parameter(torch.randn(1, 2, 8))
        for parameter in self.parameters():
            parameter.data.mul_(2)

    def forward(self, x):
        x = self.body(self, self.emb(x))
        return self.head((x + self.a3(x))[:, 0])


def folded(net, x):
    attend, batch, tokens = net.a1, *x.shape[:2]

    def fold(t):
        return t.view(batch, tokens, 2, 4).permute(0, 2, 1, 3).reshape(batch * 2, tokens, 4)

    q, k, v = (fold(f(x)) for f in (attend.q, attend.k, attend.v))
    out = torch.bmm((torch.bmm(q, k.transpose(1, 2)) * 2).softmax(-1), v)
    out = out.view(batch, 2, tokens, 4).transpose(1, 2).reshape(batch, tokens, 8)
    return x + attend.out(out)


def written_beside(net, x):
    x = x.clone()
    x[:, 1:] = x[:, 1:] + net.a1(x[:, 1:])
    return x


def causal(net, x, close):
    attend = net.a1
    scores = close(attend.q(x) @ attend.k(x).transpose(1, 2))
    return x + attend.out(scores.softmax(-1) @ attend.v(x))


UPPER = torch.full((6, 6), -torch.inf).triu(1)
SEGMENTS = torch.tensor([0, 0, 1, 1, 2, 2])

PAIRS = {
    "part of a sequence attends": (
        lambda net, x: torch.cat([x[:, :1], x[:, 1:] + net.a1(x[:, 1:])], 1),
        written_beside,
    ),
    "feed-forward branch first": (
        lambda net, x: x + net.m1(net.n1(x)) + net.a1(net.n1(x)),
        lambda net, x: x + net.a1(net.n1(x)) + net.m1(net.n1(x)),
    ),
    "heads folded into the batch": (folded, lambda net, x: x + net.a1(x)),
    "two attentions one after the other": (
        lambda net, x: x + net.a1(net.n1(x)) + net.a2(net.n1(x)),
        lambda net, x: x + (net.a1(net.n1(x)) + net.a2(net.n1(x))),
    ),
    "segments summed by index_add": (
        lambda net, x: x.new_zeros(len(x), 3, 8).index_add(1, SEGMENTS, x),
        lambda net, x: x.view(len(x), 3, 2, 8).sum(2),
    ),
    "segments summed by scatter_add": (
        lambda net, x: x.new_zeros(len(x), 3, 8).scatter_add(
            1, SEGMENTS[None, :, None].expand(len(x), 6, 8), x
        ),
        lambda net, x: x.view(len(x), 3, 2, 8).sum(2),
    ),
    "segments summed by index_put": (
        lambda net, x: x.new_zeros(len(x), 3, 8).index_put(
            (torch.arange(len(x))[:, None], SEGMENTS[None]), x, accumulate=True
        ),
        lambda net, x: x.view(len(x), 3, 2, 8).sum(2),
    ),
    "a causal mask by tril": (
        lambda net, x: causal(net, x.flip(1), lambda scores: scores.tril() + UPPER).flip(1),
        lambda net, x: causal(
            net, x.flip(1), lambda scores: scores.masked_fill(UPPER < 0, -torch.inf)
        ).flip(1),
    ),
    "a permutation written by index_add": (
        lambda net, x: torch.zeros_like(x).index_add(1, torch.arange(6).flip(0), x),
        lambda net, x: x.flip(1),
    ),
}  # fmt: skip


# WRA also reads the values on both sides of a join: in the first pair the feed-forward branch has
# joined the residual side, in the second the plain form overwrites them in place (and is refused).
NOT_WRA = ("feed-forward branch first", "part of a sequence attends")


@pytest.mark.parametrize(
    ("name", "method"),
    [
        (name, method)
        for name in PAIRS
        for method in ("genatt", "rollout", "wra")
        if not (method == "wra" and name in NOT_WRA)
    ],
)
def test_two_ways_of_writing(name, method):
    torch.manual_seed(1)
    x = torch.randn(3, 6, 8)
    maps = []
    for body in PAIRS[name]:
        network = Network(body).double()
        result = relmap.explain(network, x=x.double(), target=[0, 1, 2], method=method)
        maps.append(result.scores["x"])
    assert maps[0].shape == maps[1].shape
    assert torch.allclose(maps[0], maps[1], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("method", ["genatt", "rollout", "wra"])
def test_a_learned_prefix_of_keys_leaves_the_tokens_theirs(method):
    torch.manual_seed(1)
    x = torch.randn(2, 6, 8)
    plain = Network(lambda net, x: x + net.a1(x))
    prefixed = Network(
        lambda net, x: x + net.a1(x, torch.cat([net.cls.expand(len(x), -1, -1), x], 1))
    )
    shape = relmap.explain(plain, x=x, target=0, method=method).scores["x"].shape
    scores = relmap.explain(prefixed, x=x, target=0, method=method).scores["x"]
    assert scores.shape == shape
    assert scores[:, 0].min() > 0.2  # the residual path of the read-out token


def test_residuals_that_are_no_ancestors_of_the_query():
    torch.manual_seed(1)
    x = torch.randn(2, 6, 8)
    for body in (
        lambda net, x: net.lin(x) + net.a1(x),
        lambda net, x: net.n1(x) + net.a1(x),
        lambda net, x: x * 0.25 * net.lin(x).sigmoid() + net.a1(x),
    ):
        network = Network(body)
        graph = relmap.record(network, x=x)
        joins = [state for state in graph.states if state.kind == "join"]
        assert [len(join.links) for join in joins] == [1, 1]


def test_scores_of_merged_tokens_are_refused():
    weight = torch.randn(3, 6)
    network = Network(lambda net, x: (lambda y: y + net.a1(y))(weight @ x))
    with pytest.raises(relmap.TraceError, match="a matrix over the tokens mixes them"):
        relmap.explain(network, x=torch.randn(2, 6, 8), target=0)


def test_windows_that_share_a_global_token_are_no_heads():
    def body(net, x):
        shared = x[:, -1:]
        windows = x[:, :-1].reshape(len(x) * 2, 3, 8)
        windows = torch.cat([windows, shared.repeat_interleave(2, 0)], 1)
        scores = net.lin(windows) @ windows.transpose(1, 2)
        windows = windows + functional.softmax(scores, -1) @ windows
        return windows.reshape(len(x), 8, 8)

    graph = relmap.record(Network(body), x=torch.randn(1, 7, 8))
    assert graph.attentions[0].groups == 2
    assert graph.attentions[0].heads == 1
