"""Mixers: what tokens contribute through a part of a network that is no softmax attention."""

import pytest
import torch
from architectures import build
from reference.mixers import KINDS, TOKENS, WIDTH, Attending, Hybrid, hybrid
from torch import nn
from torch.autograd.functional import jacobian

import relmap
from relmap.relevance.gradients import copy_output, follow_each
from relmap.relevance.mixer_rows import contributions
from relmap.trace import recording

NEEDS = ("attention", "attention-gradient", "contribution")


def contribution_matrix(network, ids):
    """C of the mixer of a hybrid for class 1, as the library has it."""
    with recording(network, {"input_ids": ids}) as recorded:
        copied = copy_output(recorded.output)
        (passed,) = follow_each(recorded, copied, [copied.output[:, 1]], NEEDS)
        (call,) = [one for one in passed.graph.attentions if one.is_mixer]
        return contributions(passed, call, torch.arange(TOKENS))


def entered_and_gradient(network, ids):
    """What enters the mixer of a hybrid, and the gradient of what it returns."""
    kept = {}

    def keep(module, args, output):
        output.retain_grad()
        kept.update(entered=args[0], output=output)

    handle = network.mixer.register_forward_hook(keep)
    network(ids)[:, 1].sum().backward()
    handle.remove()
    return kept["entered"].detach(), kept["output"].grad


@pytest.mark.parametrize("kind", KINDS)
def test_contributions_are_those_of_an_explicit_jacobian(kind):
    network, ids = hybrid(kind)
    entered, gradient = entered_and_gradient(network, ids)
    whole = torch.zeros(len(ids), TOKENS, TOKENS, dtype=torch.float64)
    for example, (x, g) in enumerate(zip(entered, gradient, strict=True)):
        derivative = jacobian(lambda one: network.mixer(one[None])[0], x)
        whole[example] = torch.einsum("id,idje,je->ij", g, derivative, x)
    torch.testing.assert_close(contribution_matrix(network, ids), whole)


@pytest.mark.parametrize("kind", KINDS)
def test_contributions_are_finite_differences(kind):
    network, ids = hybrid(kind)
    entered, gradient = entered_and_gradient(network, ids)
    found, step = contribution_matrix(network, ids), 1e-6
    for token in range(TOKENS):
        way = torch.zeros_like(entered)
        way[:, token] = entered[:, token]
        with torch.no_grad():
            change = network.mixer(entered + step * way) - network.mixer(entered - step * way)
        expected = (change / (2 * step) * gradient).sum(-1)
        torch.testing.assert_close(found[:, :, token], expected, atol=1e-7, rtol=1e-5)


def literal_genatt(network, ids):
    """GenAtt on a hybrid, written out with whole maps: R <- (I + E) R, the last row read."""
    entered, gradient = entered_and_gradient(network, ids)
    found = []
    for x, g, words in zip(entered, gradient, ids, strict=True):
        derivative = jacobian(lambda one: network.mixer(one[None])[0], x)
        mixed = torch.einsum("id,idje,je->ij", g, derivative, x).clamp_min(0)
        stream = network.words(words[None])
        stream = stream + network.mixer(network.first(stream))
        normed = network.second(stream)
        weights = network.attention.map(normed).requires_grad_()
        value = network.attention.read(normed).chunk(3, -1)[2]
        score = network.head((stream + weights @ value)[:, -1])[0, 1]
        (slope,) = torch.autograd.grad(score, weights)
        attended = (weights * slope).clamp_min(0)[0].detach()
        identity = torch.eye(TOKENS, dtype=torch.float64)
        found.append(((identity + attended) @ (identity + mixed))[-1])
    return torch.stack(found)


@pytest.mark.parametrize("kind", KINDS)
def test_genatt_of_a_hybrid_is_the_literal_one(kind):
    network, ids = hybrid(kind)
    result = relmap.explain(network, input_ids=ids, target=1, method="genatt")
    torch.testing.assert_close(result.scores["input_ids"], literal_genatt(network, ids))
    assert result.meta["trace"] == "mixers"
    assert result.meta["mixers"] == ["mixer.cell" if kind == "cell" else "mixer"]
    assert result.meta["attentions"] == result.meta["explained_attentions"] == 1


@pytest.mark.parametrize("method", ["genatt", "wra", "attgrad"])
def test_an_attention_with_frozen_scores_is_the_same_as_a_mixer(method):
    torch.manual_seed(0)
    open_one = Hybrid(Attending()).double().eval()
    hidden = Hybrid(Attending(hidden=True)).double().eval()
    hidden.load_state_dict(open_one.state_dict())
    ids = torch.randint(20, (3, TOKENS))
    asked = {"input_ids": ids, "target": 1, "method": method}
    asked |= {"layer": 0} if method == "attgrad" else {}
    expected, found = relmap.explain(open_one, **asked), relmap.explain(hidden, **asked)
    assert (expected.meta["trace"], found.meta["trace"]) == ("exact", "mixers")
    torch.testing.assert_close(found.scores["input_ids"], expected.scores["input_ids"])


def test_rows_of_wra_keep_their_sum():
    network, ids = hybrid("recurrence")
    result = relmap.explain(network, input_ids=ids, target=1, method="wra")
    total = result.scores["input_ids"].sum(-1)
    torch.testing.assert_close(total, torch.ones_like(total))


@pytest.mark.parametrize("method", ["rollout", "raw-attention", "attention-flow", "legrad", "tam"])
def test_methods_that_read_maps_alone_refuse(method):
    network, ids = hybrid("recurrence")
    with pytest.raises(relmap.TraceError, match="mixer mixes tokens by something else"):
        relmap.explain(network, input_ids=ids, target=1, method=method)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_what_its_examples_are(kind):
    network, ids = hybrid(kind)
    asked = {"target": 1, "method": "genatt"}
    whole = relmap.explain(network, input_ids=ids, **asked).scores["input_ids"]
    for example in range(len(ids)):
        alone = relmap.explain(network, input_ids=ids[example : example + 1], **asked)
        torch.testing.assert_close(alone.scores["input_ids"][0], whole[example])


class Inline(nn.Module):
    """A causal mean written into the forward of the whole network: no part has it to itself."""

    def __init__(self):
        super().__init__()
        self.words, self.attention = nn.Embedding(20, WIDTH), Attending()
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, input_ids):
        x = self.words(input_ids)
        x = x + torch.ones(TOKENS, TOKENS).tril() @ x
        return self.head((x + self.attention(x))[:, -1])


def test_a_matrix_over_tokens_outside_of_any_part_is_refused():
    with pytest.raises(relmap.TraceError, match="a matrix over the tokens mixes them"):
        relmap.explain(Inline(), input_ids=torch.randint(20, (2, TOKENS)), target=1)


def test_a_weighted_mean_at_the_end_is_read_through():
    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.attention = nn.Embedding(20, WIDTH), Attending()
            self.head = nn.Linear(WIDTH, 3)

        def forward(self, input_ids):
            x = self.words(input_ids)
            x = x + self.attention(x)
            weights = torch.linspace(0, 1, TOKENS).softmax(0)
            return self.head(weights @ x)

    result = relmap.explain(Pooled(), input_ids=torch.randint(20, (2, TOKENS)), target=1)
    assert result.meta["trace"] == "exact"


@pytest.mark.parametrize("name", ["Mamba", "Jamba", "RWKV", "FNet", "Qwen3-Next", "xLSTM"])
@pytest.mark.filterwarnings("default")
def test_models_of_transformers(name):
    built = build(name)
    result = relmap.explain(built.network, target=built.target, **built.inputs)
    assert result.meta["trace"] == "mixers"
    (scores,) = result.scores.values()
    assert torch.isfinite(scores).all()
    assert scores.any()
