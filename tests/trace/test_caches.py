"""Networks given what others made of them: caches of earlier tokens, exported graphs."""

import pytest
import torch
from architectures import build
from torch import nn
from transformers import DynamicCache

import relmap


@pytest.fixture
def decoder():
    built = build("Llama", "eager")
    return built.network, built.inputs["input_ids"]


def test_a_cache_with_tokens_is_answered_by_the_whole_text(decoder):
    network, ids = decoder
    with torch.no_grad():
        cache = network(ids[:, :-1], use_cache=True).past_key_values
    with pytest.raises(relmap.InputError, match="pass the whole text instead of past_key_values"):
        relmap.explain(network, input_ids=ids[:, -1:], past_key_values=cache, method="genatt")


def test_an_empty_cache_is_left_empty(decoder):
    network, ids = decoder
    cache = DynamicCache()
    asked = {"input_ids": ids, "method": "genatt"}
    found = relmap.explain(network, past_key_values=cache, **asked)
    torch.testing.assert_close(
        found.scores["input_ids"], relmap.explain(network, **asked).scores["input_ids"]
    )
    assert cache.get_seq_length() == 0


def test_a_hybrid_network_runs_twice_with_an_empty_cache():
    built = build("Bamba", "eager")
    ids = built.inputs["input_ids"]
    result = relmap.explain(built.network, input_ids=ids, use_cache=True, method="genatt")
    plain = relmap.explain(built.network, input_ids=ids, method="genatt")
    torch.testing.assert_close(result.scores["input_ids"], plain.scores["input_ids"])


@pytest.mark.filterwarnings("default")  # torch.export warns about its own annotations
def test_an_exported_network_is_answered_by_its_module():
    torch.manual_seed(0)
    network = nn.TransformerEncoderLayer(8, 2, batch_first=True).eval()
    asked = {"src": torch.randn(2, 5, 8), "target": lambda y: y[:, 0, 3]}
    exported = torch.export.export(network, (), {"src": asked["src"]}).module()
    with pytest.raises(relmap.TraceError, match="pass the module that it was exported from"):
        relmap.explain(exported, method="genatt", **asked)
    found = relmap.explain(exported, method="input-x-gradient", **asked)
    plain = relmap.explain(network, method="input-x-gradient", **asked)
    torch.testing.assert_close(found.scores["src"], plain.scores["src"])
