"""A tiny residual network, one function of which is spelled in many ways.

The truth is GenAtt on whole maps, R <- R + mean over heads of (A * dA)+ R, with the maps and their
gradients by plain autograd on the plain spelling, outside of the recorder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import relmap

WIDTH, HEADS, TOKENS = 8, 2, 5
Body = Callable[[Any, Tensor], Tensor]


class Attention(nn.Module):
    """Two heads in explicit products; `kept` collects the maps for whoever wants their gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.kept: list[Tensor] | None = None

    def heads(self, x: Tensor) -> list[Tensor]:
        """Queries, keys and values as (example, head, token, feature)."""
        return [f(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for f in (self.q, self.k, self.v)]

    def forward(self, x: Tensor, softmax: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Attend, with any spelling of the softmax."""
        q, k, v = self.heads(x)
        scores = q @ k.mT / (WIDTH // HEADS) ** 0.5
        maps = scores.softmax(-1) if softmax is None else softmax(scores)
        if self.kept is not None:
            maps.retain_grad()
            self.kept.append(maps)
        return self.out((maps @ v).transpose(1, 2).flatten(2))


class Spelled(nn.Module):
    """Two layers x <- body(parts, x) behind an embedding, read at the second token."""

    def __init__(self, body: Body) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.body = body
        self.embed, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 4)
        self.attend, self.norm, self.linear = Attention(), nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 8)
        self.scale = nn.Parameter(torch.randn(WIDTH))
        self.window = nn.Parameter(torch.randn(WIDTH, WIDTH, 3))
        self.register_buffer("closed", torch.arange(WIDTH) % 3 == 0)
        for parameter in self.parameters():
            parameter.data.mul_(1.5)
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        """Class scores."""
        x = self.embed(x)
        for _ in range(2):
            x = self.body(self, x)
        return self.head(x[:, 1])


def before_attention(function: Body) -> Body:
    """The body whose attention reads what a function makes of the stream."""
    return lambda net, x: x + net.attend(function(net, x))


def on_the_way(function: Callable[[Any, Tensor, Tensor], Tensor]) -> Body:
    """The body that hands the stream and the attention's output to a function."""
    return lambda net, x: function(net, x, net.attend(x))


def fresh(x: Tensor, *shape: int) -> Tensor:
    """Memory to write on."""
    return torch.full(shape or x.shape, 7.0).to(x)


def rows(*functions: Any) -> list[Any]:
    """Spellings of what the attention reads."""
    return [before_attention(function) for function in functions]


def ways(*functions: Any) -> list[Any]:
    """Spellings of what is made of the stream and the attention's output."""
    return [on_the_way(function) for function in functions]


def table(cases: Mapping[str, Sequence[Body]]) -> list[tuple[str, int]]:
    """Every spelling of every case, for `pytest.mark.parametrize`; the first is the plain one."""
    return [(name, place) for name, bodies in cases.items() for place in range(len(bodies))]


def example() -> Tensor:
    """Two examples of five tokens."""
    return torch.randn(2, TOKENS, WIDTH, generator=torch.Generator().manual_seed(5)).double()


def genatt_by_hand(network: Spelled, x: Tensor, target: int) -> Tensor:
    """The row of GenAtt's R that the second token reads."""
    network.attend.kept = []
    network(x.clone().requires_grad_())[:, target].sum().backward()
    maps, network.attend.kept = network.attend.kept, None
    relevance = torch.eye(TOKENS).to(x).expand(len(x), -1, -1)
    for attention in maps:
        share = (attention * attention.grad).clamp_min(0).mean(1).detach()
        relevance = relevance + share @ relevance
    return relevance[:, 1]


def outline(network: nn.Module, x: Tensor) -> list[Any]:
    """A token graph, but for what tensors hold."""
    states = relmap.record(network, x=x).states
    return [
        (
            state.kind,
            state.tokens,
            [(link.parent, _listed(link.child_tokens), _listed(link.parent_tokens))
             for link in state.links],
            len(state.attentions),
        )
        for state in states
    ]  # fmt: skip


def _listed(tokens: Tensor | None) -> list[int] | None:
    return None if tokens is None else tokens.tolist()


def check_spelling(bodies: Sequence[Body], place: int) -> None:
    """One spelling computes what the plain one does, and gives its graph and the literal map."""
    plain, spelled, x = Spelled(bodies[0]), Spelled(bodies[place]), example()
    wanted = genatt_by_hand(plain, x, 2)
    others = wanted.sum(-1) - wanted[:, 1]
    assert (others > 1e-3).all(), "the identity alone would prove nothing"
    with torch.no_grad():
        assert torch.allclose(spelled(x), plain(x), rtol=1e-12), "it is not the same network"
    result = relmap.explain(spelled, x=x, target=2, method="genatt", backward="gradient")
    assert torch.allclose(result.scores["x"], wanted, rtol=1e-9, atol=1e-12)
    assert outline(spelled, x) == outline(plain, x)


def check_backward(bodies: Sequence[Body], backward: str) -> None:
    """A backward gives every spelling the map that it gives the plain one."""
    x = example()[:1]
    plain, *others = (
        relmap.explain(Spelled(body), x=x, target=2, method="genatt", backward=backward)
        for body in bodies
    )
    for place, spelled in enumerate(others, start=1):
        assert torch.allclose(spelled.scores["x"], plain.scores["x"], rtol=1e-9, atol=1e-12), place
