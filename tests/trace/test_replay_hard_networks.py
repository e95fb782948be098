"""Networks that are hard to run again: exactly what they do, or a refusal.

They write on their memory, keep something, choose their way, draw numbers, checkpoint their blocks,
or are given a cache.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from architectures import build
from reference.counting import products
from tiny.replays import joins_of, replayed
from torch import Tensor, nn

import relmap
from relmap.errors import InputError

pytestmark = pytest.mark.usefixtures("no_fast_path")


class Block(nn.Module):
    """A pre-norm block; `write` says how the residual is added."""

    def __init__(self, write: str) -> None:
        super().__init__()
        self.write = write
        self.norm, self.attention = nn.LayerNorm(8), nn.MultiheadAttention(8, 2, batch_first=True)
        self.inner = nn.Sequential(
            nn.LayerNorm(8), nn.Linear(8, 8), nn.ReLU(inplace=True), nn.Linear(8, 8)
        )

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(x)
        branch = self.attention(normed, normed, normed, need_weights=False)[0]
        if self.write == "in place":
            branch += x
            x = self.inner(branch)
            x += branch
        elif self.write == "by parts":
            x = x.clone()
            x[:, :2] += branch[:, :2]
            x = x + self.inner(x)
        else:
            x = x + branch
            x = x + self.inner(x)
        return x


class Stack(nn.Module):
    """Three blocks on an embedding."""

    def __init__(self, write: str) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.embed, self.head = nn.Embedding(9, 8), nn.Linear(8, 3)
        self.blocks = nn.ModuleList([Block(write) for _ in range(3)])

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x)
        return self.head(x[:, 0])


@pytest.mark.parametrize("write", ["in place", "by parts", "apart"])
def test_memory_that_is_written_on_is_made_anew(write):
    network, ids = Stack(write).double().eval(), torch.arange(8).reshape(2, 4)
    delta = torch.randn(2, 4, 8, dtype=torch.float64)

    def shift(module: nn.Module, args: tuple[Tensor], output: Tensor) -> Tensor:
        return output + delta

    for index in range(3):
        wanted = _with_hook(network, f"blocks.{index}.norm", shift, ids)[:, 1]
        with replayed(network, {"ids": ids}, lambda output: output[:, 1]) as passed:
            before = passed.replay.target({})
            place = passed.graph.attentions[index].value_input
            assert place is not None
            given = passed.replay.value(place) + delta.transpose(0, 1)  # sequence first inside
            found = passed.replay.target({place: given})
            torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
            assert (found - before).abs().max() > 1e-6
            torch.testing.assert_close(passed.replay.target({}), before, rtol=0, atol=0)


def _with_hook(network: nn.Module, path: str, hook: Any, ids: Tensor) -> Tensor:
    handle = network.get_submodule(path).register_forward_hook(hook)
    try:
        with torch.no_grad():
            return network(ids)
    finally:
        handle.remove()


class Keeping(Stack):
    """Keeps the positions of its first pass."""

    positions: Tensor | None = None

    def forward(self, ids: Tensor) -> Tensor:
        if self.positions is None:
            self.positions = torch.arange(4, dtype=torch.float64).cumsum(0)[:, None].sin()
        x = self.embed(ids) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.head(x[:, 0])


def test_a_network_that_keeps_something_is_run_again():
    network, ids = Keeping("apart").double().eval(), torch.arange(8).reshape(2, 4)
    with replayed(network, {"ids": ids}, lambda output: output[:, 1]) as passed:
        residual = joins_of(passed)[1].residual
        assert residual is not None
        value = passed.replay.value(residual)
        same = passed.replay.target({residual: value})
        torch.testing.assert_close(same, passed.replay.target({}), rtol=0, atol=0)
        found = products(lambda: passed.replay.target({residual: value}))
        assert found == 2 * 7 + 1, "q, k, v, attention, output and two layers; then the head"


class Choosing(Stack):
    """Takes another way for larger values."""

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x)
            if bool(x.abs().max() > 50):
                x = x.tanh() * 2
        return self.head(x[:, 0])


def test_another_way_is_taken_or_refused():
    network, ids = Choosing("apart").double().eval(), torch.arange(8).reshape(2, 4)
    with replayed(network, {"ids": ids}, lambda output: output[:, 1]) as passed:
        joins = joins_of(passed)
        first, last = joins[0].residual, joins[2].residual
        assert first is not None
        assert last is not None
        given = {first: passed.replay.value(first) * 100}
        hook = lambda module, args, output: output * 100  # noqa: E731
        wanted = _with_hook(network, "embed", hook, ids)[:, 1]
        torch.testing.assert_close(passed.replay.target(given), wanted, rtol=1e-12, atol=1e-12)
        with pytest.raises(relmap.TraceError, match="another way"):
            passed.replay.values(given, [last])


def test_drawn_numbers_are_those_of_the_recorded_pass():
    built = build("ViLT", None)
    with replayed(built.network, built.inputs, built.target) as passed:
        state = torch.get_rng_state()
        once = passed.replay.target({})
        residual = joins_of(passed)[0].residual
        assert residual is not None
        again = passed.replay.target({residual: passed.replay.value(residual)})
        assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(once, again)


def test_checkpoints_do_not_run_a_replay_once_more():
    built = build("hand-made:checkpoint")
    gradients = []
    for built.network.replay in (False, True):  # whether its blocks are checkpointed
        with replayed(built.network, built.inputs, built.target) as passed:
            residual = joins_of(passed)[1].residual
            assert residual is not None
            with torch.enable_grad():
                given = passed.replay.value(residual).clone().requires_grad_()
                found = passed.replay.target({residual: given})
                gradients += torch.autograd.grad(found.sum(), given)
    torch.testing.assert_close(*gradients)


def test_a_cache_with_tokens_among_the_arguments_is_refused():
    built = build("GPT-2", "sdpa")
    network, ids = built.network, built.inputs["input_ids"][:1]
    with torch.no_grad():
        cache = network(ids[:, :3], use_cache=True).past_key_values
    inputs = {"input_ids": ids[:, 3:], "past_key_values": cache, "use_cache": True}
    with (
        pytest.raises(InputError, match="pass the whole text instead of past_key_values"),
        replayed(network, inputs, lambda output: output.logits[:, -1].amax(1)),
    ):
        pass
