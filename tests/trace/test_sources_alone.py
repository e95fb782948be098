"""Networks that cannot be followed: methods that read nothing but the tokens that enter."""

import pytest
import torch
from architectures import build
from torch import nn

import relmap


class Recurrent(nn.Module):
    """Words through a recurrence: nothing in it is an attention."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(20, 6)
        self.memory = nn.GRU(6, 8, batch_first=True)
        self.head = nn.Linear(8, 3)

    def read(self, embedded):
        return self.head(self.memory(embedded)[0][:, -1])

    def forward(self, input_ids):
        return self.read(self.words(input_ids))


class Convolutional(nn.Module):
    """A picture through two convolutions and a mean: no patch of it is ever a token."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 4, 3, stride=2)
        self.head = nn.Linear(4, 3)

    def forward(self, pixel_values):
        seen = self.second(self.first(pixel_values).relu()).relu()
        return self.head(seen.mean((2, 3)))


@pytest.fixture
def recurrent():
    torch.manual_seed(0)
    return Recurrent().double().eval(), torch.randint(20, (3, 5))


@pytest.fixture
def convolutional():
    torch.manual_seed(0)
    return Convolutional().double().eval(), torch.randn(2, 3, 8, 9, dtype=torch.float64)


def test_input_x_gradient_of_words_is_that_of_autograd(recurrent):
    network, ids = recurrent
    result = relmap.explain(network, input_ids=ids, target=1, method="input-x-gradient")
    embedded = network.words(ids).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(network.read(embedded)[:, 1].sum(), embedded)
    torch.testing.assert_close(result.scores["input_ids"], (embedded * gradient).sum(-1).detach())
    assert result.meta["trace"] == "sources only"
    assert result.meta["attentions"] == 0


def test_occlusion_takes_one_word_after_the_other(recurrent):
    network, ids = recurrent
    result = relmap.explain(network, input_ids=ids, target=1, method="occlusion")
    embedded = network.words(ids).detach()
    whole = network.read(embedded)[:, 1]
    for place in range(5):
        without = embedded.clone()
        without[:, place] = 0
        loss = (whole - network.read(without)[:, 1]).detach()
        torch.testing.assert_close(result.scores["input_ids"][:, place], loss)


def test_integrated_gradients_sum_to_the_change_of_the_target(recurrent):
    network, ids = recurrent
    asked = {"target": 1, "method": "integrated-gradients", "steps": 200}
    result = relmap.explain(network, input_ids=ids, **asked)
    embedded = network.words(ids).detach()
    change = network.read(embedded)[:, 1] - network.read(torch.zeros_like(embedded))[:, 1]
    found = result.scores["input_ids"].sum(-1)
    torch.testing.assert_close(found, change.detach(), atol=1e-5, rtol=1e-4)


def test_pixels_are_the_tokens_of_a_convolutional_network(convolutional):
    network, picture = convolutional
    result = relmap.explain(network, pixel_values=picture, target=2, method="input-x-gradient")
    given = picture.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(network(given)[:, 2].sum(), given)
    expected = (given * gradient).sum(1).detach()
    torch.testing.assert_close(result.image.scores, expected)
    assert result.layout["pixel_values"].grid == (8, 9)


def test_full_lrp_goes_through_a_convolutional_network(convolutional):
    network, picture = convolutional
    result = relmap.explain(network, pixel_values=picture, target=2, method="full-lrp")
    assert result.scores["pixel_values"].shape == (2, 72)
    assert result.scores["pixel_values"].any()


def test_the_columns_of_a_table_are_tokens():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    given = torch.randn(3, 6, dtype=torch.float64)
    result = relmap.explain(network, input=given, target=1, method="input-x-gradient")
    leaf = given.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(network(leaf)[:, 1].sum(), leaf)
    torch.testing.assert_close(result.scores["input"], (leaf * gradient).detach())


def test_fullgrad_plus_has_its_source_part(recurrent):
    network, ids = recurrent
    asked = {"input_ids": ids, "target": 1}
    part = relmap.explain(network, method="fullgrad-plus", layers="input", biases=False, **asked)
    plain = relmap.explain(network, method="input-x-gradient", **asked)
    torch.testing.assert_close(part.scores["input_ids"], plain.scores["input_ids"])
    with pytest.raises(relmap.TraceError, match="biases=False"):
        relmap.explain(network, method="fullgrad-plus", **asked)


def test_random_needs_tokens_alone(recurrent):
    network, ids = recurrent
    assert relmap.explain(network, input_ids=ids, method="random").scores["input_ids"].any()


@pytest.mark.parametrize("method", ["rollout", "raw-attention", "tam", "legrad", "attention-flow"])
def test_methods_that_read_the_graph_refuse(recurrent, method):
    network, ids = recurrent
    with pytest.raises(relmap.TraceError, match="attention"):
        relmap.explain(network, input_ids=ids, target=1, method=method)


@pytest.mark.parametrize("name", ["Mamba", "RWKV", "Jamba", "FNet", "xLSTM", "Autoformer"])
def test_words_of_models_without_attention(name):
    built = build(name)
    result = relmap.explain(
        built.network, target=built.target, method="input-x-gradient", **built.inputs
    )
    for scores in result.scores.values():
        assert torch.isfinite(scores).all()
    assert any(scores.any() for scores in result.scores.values())


def test_methods_that_read_contributions_take_the_recurrence_for_a_mixer(recurrent):
    network, ids = recurrent
    result = relmap.explain(network, input_ids=ids, target=1, method="genatt")
    assert result.meta["mixers"] == ["memory"]


def test_a_target_that_reads_nothing_is_refused(recurrent):
    network, ids = recurrent
    with pytest.raises(relmap.TraceError, match="does not depend"):
        relmap.explain(
            network, input_ids=ids, target=lambda y: y[:, 0] * 0, method="input-x-gradient"
        )


def test_the_grade_of_a_whole_trace():
    network = nn.TransformerEncoderLayer(8, 2, batch_first=True)
    result = relmap.explain(network, src=torch.randn(2, 5, 8), target=lambda y: y[:, 0, 3])
    assert result.meta["trace"] == "exact"
