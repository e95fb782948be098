"""What the tiny architectures say of themselves is true: counted here without any recorder."""

import pytest
import torch
from architectures import ARCHITECTURES, SKIPPED, build
from torch.overrides import TorchFunctionMode

KERNELS = {"scaled_dot_product_attention", "multi_head_attention_forward"}
SAMPLE = (
    "nn.Transformer",
    "hand-made:einsum",
    "ViT",
    "Swin",
    "BERT",
    "T5",
    "GPT-2",
    "Llama",
    "CLIP",
    "SigLIP",
    "LXMERT",
    "BridgeTower",
    "LLaVA",
    "Qwen2.5-VL",
    "DETR",
    "Whisper",
    "ConvNeXt",
)


class Counter(TorchFunctionMode):
    """Counts fused attentions, and softmaxes of batches of rows with more than one score."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name = getattr(function, "__name__", "")
        rows = name == "softmax" and args[0].dim() >= 3 and args[0].shape[-1] > 1
        self.calls += rows or name in KERNELS
        return function(*args, **(kwargs or {}))


def test_the_collection_is_large_and_covers_every_family():
    assert len(ARCHITECTURES) >= 250
    assert sum(entry.refused is None for entry in ARCHITECTURES.values()) >= 220
    assert {"torch", "transformers"} <= {entry.family for entry in ARCHITECTURES.values()}


def test_what_is_skipped_has_a_reason():
    assert all(SKIPPED.values())
    assert not SKIPPED.keys() & ARCHITECTURES.keys()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_declarations_do_not_contradict_each_other(name):
    entry = ARCHITECTURES[name]
    assert entry.refused or entry.mixers or entry.attentions > entry.unread
    assert not (entry.refused and (entry.approximate or entry.local or entry.unread))


@pytest.mark.parametrize("name", SAMPLE)
def test_declared_attentions_are_executed(name):
    entry = ARCHITECTURES[name]
    for implementation in entry.implementations:
        built = build(name, implementation)
        with torch.no_grad(), Counter() as counter:
            built.network(**built.inputs)
        assert counter.calls == entry.attentions


def test_the_same_seed_gives_the_same_network_and_inputs():
    first, second, other = build("BERT"), build("BERT"), build("BERT", seed=1)
    state, again = first.network.state_dict(), second.network.state_dict()
    assert all(torch.equal(state[name], again[name]) for name in state)
    assert torch.equal(first.inputs["input_ids"], second.inputs["input_ids"])
    assert not torch.equal(first.inputs["input_ids"], other.inputs["input_ids"])
