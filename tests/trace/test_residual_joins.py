"""An attention's output that is changed on its way to the residual stream ends in one join.

The truth is GenAtt on whole maps, R <- R + mean over heads of (A * dA)+ R, with the maps and their
gradients taken from plain autograd, outside of the recorder.
"""

import pytest
import torch
from torch import nn

import relmap
import relmap.trace

WIDTH, HEADS, TOKENS = 8, 2, 5


class Attention(nn.Module):
    """Two heads in explicit products; `kept` collects the maps for whoever wants their gradient."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.kept = None

    def forward(self, x):
        q, k, v = (
            f(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for f in (self.q, self.k, self.v)
        )
        maps = (q @ k.mT).softmax(-1)
        if self.kept is not None:
            maps.retain_grad()
            self.kept.append(maps)
        return self.out((maps @ v).transpose(1, 2).flatten(2))


class Stream(nn.Module):
    """Three layers x <- body(parts, x) behind an embedding, read at the second token."""

    def __init__(self, body):
        super().__init__()
        torch.manual_seed(3)
        self.body = body
        self.embed, self.gate, self.head = (nn.Linear(WIDTH, n) for n in (WIDTH, WIDTH, 4))
        self.attend, self.norm = Attention(), nn.LayerNorm(WIDTH)
        self.feed = nn.Sequential(nn.Linear(WIDTH, 12), nn.Tanh(), nn.Linear(12, WIDTH))
        self.scale = nn.Parameter(torch.randn(WIDTH))
        self.drop = nn.Dropout(0.3)
        for parameter in self.parameters():
            parameter.data.mul_(1.8)
        self.double().eval()

    def forward(self, x):
        x = self.embed(x)
        for _ in range(3):
            x = self.body(self, x)
        return self.head(x[:, 1])


def genatt_by_hand(network, x, target):
    """The row of GenAtt's R that the second token reads."""
    network.attend.kept = []
    network(x.clone().requires_grad_())[:, target].sum().backward()
    maps, network.attend.kept = network.attend.kept, None
    relevance = torch.eye(TOKENS).to(x).expand(len(x), -1, -1)
    for one in maps:
        relevance = relevance + (one * one.grad).clamp_min(0).mean(1).detach() @ relevance
    return relevance[:, 1]


def rms(x):
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)


def layer_norm(x):
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()


def watched(net, x):
    branch = net.attend(x)
    net.seen = (
        branch.mean(),
        branch.detach().std(1),
        branch @ branch.mT,
        branch.sum().detach().item(),
    )
    return x + branch


def beside_itself(net, x):
    branch = net.attend(x)
    net.seen = torch.cat([branch, x], 1)
    return x + branch


def bounded(net, x):
    branch = net.attend(x)
    most = branch.abs().amax((1, 2), keepdim=True) / 2
    return x + branch.clamp(-most, most)


def centred(net, x):
    branch = net.attend(x)
    return x + (branch - branch.mean(1, keepdim=True))


def squeezed(net, x):
    branch = net.attend(x)
    return x + branch * net.gate(branch.mean(1, keepdim=True)).sigmoid()


BRANCHES = {
    "a root mean square norm by hand": lambda net, x: x + rms(net.attend(x)) * net.scale,
    "a layer norm by hand": lambda net, x: x + layer_norm(net.attend(x)) * net.scale,
    "norms on both sides": lambda net, x: x + rms(net.attend(rms(x))),
    "a gate of its own": lambda net, x: (lambda a: x + a * net.gate(a).sigmoid())(net.attend(x)),
    "a gate of the stream": lambda net, x: x + net.attend(x) * net.gate(x).sigmoid(),
    "a gate of all tokens": lambda net, x: x + net.attend(x) * net.gate(x.mean(1, True)).tanh(),
    "dropped out, scaled and normed": lambda net, x: x + rms(net.drop(net.attend(x)) * net.scale),
    "read by a log": watched,
    "put beside the stream for nobody": beside_itself,
    "bounded by its own maximum": bounded,
    "centred over the tokens": centred,
    "squeezed and excited by itself": squeezed,
    "beside a feed-forward branch that is dropped out": lambda net, x: (
        x + net.drop(net.attend(x)) + net.drop(net.feed(x))
    ),
    "beside a feed-forward branch with a scale of its own": lambda net, x: (
        x + net.scale * net.attend(x) + net.scale * net.feed(x)
    ),
    "added to a stream that holds its feed-forward branch": lambda net, x: (
        x + net.feed(x) + net.attend(x)
    ),
    "mixed with the stream by a gate": lambda net, x: (
        lambda gate: gate * net.attend(x) + (1 - gate) * x
    )(net.gate(x).sigmoid()),
    "added to a feed-forward branch, normed together": lambda net, x: (
        x + rms(net.attend(x) + net.feed(x))
    ),
}


def side_by_side(net, x):
    weight = torch.randn(WIDTH, 2 * WIDTH, generator=torch.Generator().manual_seed(5)).to(x)
    return nn.functional.linear(torch.cat([net.attend(x), x], -1), weight)


def parallel_projection(net, x):
    weight = torch.randn(WIDTH, 2 * WIDTH, generator=torch.Generator().manual_seed(6)).to(x)
    return x + nn.functional.linear(torch.cat([net.feed(x), net.attend(x)], -1), weight, net.scale)


def by_baddbmm(net, x):
    weight = net.gate.weight.expand(len(x), -1, -1)
    return torch.baddbmm(x, net.attend(x), weight, beta=0.5, alpha=2)


SPELLINGS = {
    "lerp": lambda net, x: torch.lerp(x, net.attend(x), 0.4),
    "lerp from the branch, a weight for each feature": lambda net, x: net.attend(x).lerp(
        x, net.scale.sigmoid()
    ),
    "lerp by a gate": lambda net, x: torch.lerp(x, net.attend(x), net.gate(x).sigmoid()),
    "addcmul": lambda net, x: torch.addcmul(x, net.attend(x), net.scale, value=0.8),
    "addcdiv": lambda net, x: torch.addcdiv(x, net.attend(x), 1 + net.scale.exp()),
    "addcmul by a gate": lambda net, x: x.addcmul(net.gate(x).tanh(), net.attend(x)),
    "baddbmm": by_baddbmm,
    "a sum of a stack": lambda net, x: torch.stack([net.attend(x), x], 2).sum(2),
    "a mean of a stack": lambda net, x: torch.stack((x, net.attend(x)), -1).mean(-1),
    "a sum of a stack of three": lambda net, x: torch.stack([x, net.feed(x), net.attend(x)]).sum(0),
    "numbers over a stack": lambda net, x: torch.einsum(
        "kbtc,k->btc", torch.stack([x, net.attend(x)]), torch.tensor([1.5, -1.0]).to(x)
    ),
    "features side by side, then a linear map": side_by_side,
    "branches side by side, then a linear map": parallel_projection,
    "the sum of a list": lambda net, x: sum([x, net.attend(x)]),
}
BRANCHES |= SPELLINGS


@pytest.mark.parametrize("name", BRANCHES)
def test_one_join_with_its_residual(name):
    network = Stream(BRANCHES[name])
    x = torch.randn(2, TOKENS, WIDTH).double()
    wanted = genatt_by_hand(network, x, 2)
    result = relmap.explain(network, x=x, target=2, method="genatt", backward="gradient")
    assert (wanted[:, 0] > 1e-3).all(), "the identity alone would prove nothing"
    assert torch.allclose(result.scores["x"], wanted, rtol=1e-9, atol=1e-12)
    states = relmap.record(network, x=x).states
    assert [state.kind for state in states] == ["source", "join", "join", "join"]
    assert all(len(state.links) == 1 for state in states[1:])


@pytest.mark.parametrize(
    "name", ["bounded by its own maximum", "centred over the tokens", "a gate of all tokens"]
)
def test_numbers_taken_over_several_tokens_are_named(name):
    result = relmap.explain(
        Stream(BRANCHES[name]), x=torch.randn(1, TOKENS, WIDTH).double(), target=0, method="genatt"
    )
    assert "several tokens" in " ".join(result.meta["approximate"])


def test_an_output_that_became_the_stream_is_the_residual_of_the_next():
    def without_residual(net, x):
        first = net.attend(x)
        return first + net.attend(net.norm(first))

    states = relmap.record(
        Stream(without_residual), x=torch.randn(2, TOKENS, WIDTH).double()
    ).states
    assert [len(state.links) for state in states] == [0, 0, 1, 0, 1, 0, 1]


def test_scaled_streams_are_no_feed_forward_branch():
    def skipped(net, x):
        return (x + net.attend(net.norm(x))) + 0.5 * x

    states = relmap.record(Stream(skipped), x=torch.randn(2, TOKENS, WIDTH).double()).states
    assert [state.kind for state in states] == ["source", *["join", "sum"] * 3]


@pytest.mark.parametrize(
    ("spelled", "plain"),
    [
        (lambda net, x: torch.stack([x, net.attend(x)]).sum(0), lambda net, x: x + net.attend(x)),
        (SPELLINGS["lerp"], lambda net, x: x * 0.6 + 0.4 * net.attend(x)),
        (SPELLINGS["addcmul"], lambda net, x: x + net.scale * 0.8 * net.attend(x)),
        (SPELLINGS["baddbmm"], lambda net, x: 0.5 * x + 2 * net.attend(x) @ net.gate.weight),
    ],
)
def test_what_is_added_counts_alike_in_every_spelling(spelled, plain):
    """Input x Gradient of both addends, as WRA reads it at a join."""
    x = torch.randn(2, TOKENS, WIDTH).double()
    shares = []
    for body in (spelled, plain):
        network = Stream(body)
        with relmap.trace.recording(network, {"x": x}) as recorded:
            joins = [one for one in recorded.recorder.states if one.kind == "join" and one.links]
            assert len(joins) == 3
            last = joins[-1]
            assert last.residual.value is not None
            edge = last.branch.edge
            (gradient,) = torch.autograd.grad(recorded.output[:, 0].sum(), [edge])
            shares.append((gradient * last.branch.value).sum(-1))
    assert torch.allclose(shares[0], shares[1], rtol=1e-9)
