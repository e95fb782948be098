"""A method reads what it declared, and is told by name what it forgot; it is never given zeros."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from torch import nn

import relmap
from relmap.methods import METHODS, Need
from relmap.relevance.attention_maps import gradient_weighted, head_mean
from relmap.relevance.maps import carry_maps, read_rows
from relmap.relevance.rows import PropagationRule, push_rows


@contextmanager
def registered(function, **declared):
    """A method that is there as long as the block lasts."""
    METHODS.names()  # its own files and plug-ins come first
    METHODS.register("forgetful", **declared)(function)
    try:
        yield
    finally:
        del METHODS._entries["forgetful"], METHODS._names["forgetful"]


def explained(backward=None):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    network = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    source = torch.randn(2, 5, 8)
    return relmap.explain(
        network, src=source, target=lambda output: output[:, 0, 3], method="forgetful",
        backward=backward,
    )  # fmt: skip


def one(sums, share):
    return torch.ones_like(sums), torch.ones_like(sums)


def join(passed):
    return next(state for state in passed.graph.states if state.kind == "join")


def source(passed):
    return passed.graph.states[passed.graph.sources[0].state]


def reads_attention_gradient(passed):
    return push_rows(passed, PropagationRule(gradient_weighted, one))


def carries_attention_gradient(passed):
    return read_rows(carry_maps(passed, PropagationRule(gradient_weighted, one)))


def reads_a_gradient_at_an_attention(passed):
    passed.gradient(passed.graph.attentions[0].output)
    return {}


def reads_a_branch(passed):
    passed.gradient(join(passed).branch)
    return {}


def reads_a_residual(passed):
    passed.gradient(join(passed).residual)
    return {}


def reads_a_source(passed):
    passed.gradient(source(passed).stream)
    return {}


def reads_a_value(passed):
    passed.value(join(passed).residual)
    return {}


def multiplies(passed):
    passed.input_x_gradient(join(passed).residual)
    return {}


def reads_biases(passed):
    assert len(passed.biases) > 0
    return {}


def replays(passed):
    passed.replay.target({})
    return {}


def reads_token_relevance(passed):
    passed.relevance(source(passed).stream)
    return {}


def reads_arguments(passed):
    assert "src" in passed.arguments
    return {}


def reads_attention_relevance(passed):
    passed.relevance(passed.graph.attentions[0].output)
    return {}


CASES = [
    (reads_attention_gradient, Need.ATTENTION_GRADIENT, None),
    (carries_attention_gradient, Need.ATTENTION_GRADIENT, None),
    (reads_a_gradient_at_an_attention, Need.ATTENTION_GRADIENT, None),
    (reads_a_branch, Need.JOIN_GRADIENT, None),
    (reads_a_residual, Need.JOIN_GRADIENT, None),
    (reads_a_residual, Need.STREAM_GRADIENT, None),
    (reads_a_source, Need.STREAM_GRADIENT, None),
    (reads_a_value, Need.STREAM_GRADIENT, None),
    (multiplies, Need.STREAM_GRADIENT, None),
    (reads_biases, Need.BIAS_GRADIENT, None),
    (replays, Need.REPLAY, None),
    (reads_token_relevance, Need.TOKEN_RELEVANCE, "lrp"),
    (reads_arguments, Need.TOKEN_RELEVANCE, "lrp"),
    (reads_attention_relevance, Need.ATTENTION_RELEVANCE, "lrp"),
    (reads_attention_relevance, Need.ATTENTION, "lrp"),
]


@pytest.mark.parametrize(("method", "need", "backward"), CASES)
def test_what_is_not_declared_is_an_error_that_says_what_to_declare(method, need, backward):
    others = tuple(one for one in (Need.ATTENTION_GRADIENT, Need.OUTPUT) if one is not need)
    with (
        registered(method, needs=others, backward=backward or "gradient"),
        pytest.raises(relmap.InputError, match=r"'forgetful'.*did not declare") as refusal,
    ):
        explained(backward)
    assert repr(str(need)) in str(refusal.value)


@pytest.mark.parametrize(("method", "need", "backward"), CASES)
def test_what_is_declared_is_there(method, need, backward):
    with registered(method, needs=(need,), backward=backward or "gradient"):
        assert explained(backward).scores["src"].shape == (2, 5)


def test_a_gradient_that_is_zero_by_itself_is_no_error():
    # The last layer's stream has no second reader: the target does not depend on later branches.
    def reads_everything(passed):
        for state in passed.graph.states:
            passed.gradient(state.residual)
            passed.gradient(state.branch)
        return {}

    with registered(reads_everything, needs=("join-gradient",)):
        explained()


def test_attention_maps_and_the_readout_are_there_for_everyone():
    def reads_attention(passed):
        return push_rows(passed, PropagationRule(head_mean, one, gradient=False))

    with registered(reads_attention):
        assert explained().scores["src"].gt(0).all()


def test_a_place_where_no_need_keeps_a_gradient_is_named_as_such():
    def reads_the_end(passed):
        passed.gradient(join(passed).end)
        return {}

    with (
        registered(reads_the_end, needs=tuple(Need)[:1]),
        pytest.raises(relmap.InputError, match="none is kept for any of the needs"),
    ):
        explained()
