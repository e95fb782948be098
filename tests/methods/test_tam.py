"""TAM equals its formula on seeing language models, and refuses all others."""

from __future__ import annotations

import pytest
import torch
from architectures import build
from architectures.samples import IMAGE_ID
from reference.tam import rank_gaussian, token_map

import relmap
from relmap.errors import InputError
from relmap.targets import generated_tokens, token_log_probability

# Grid of the visual tokens, and how many patches each of them is made of.
GRIDS = {"LLaVA": (3, 1), "PaliGemma": (3, 1), "Qwen2-VL": (2, 4), "SmolVLM": (2, 4)}


def _wide(kind):
    built = build(kind)
    inputs = {
        name: value.double() if torch.is_tensor(value) and value.is_floating_point() else value
        for name, value in built.inputs.items()
    }
    return built.network.double(), inputs


@pytest.mark.parametrize("kind", GRIDS)
@pytest.mark.parametrize(("interference", "denoise"), [(True, True), (True, False), (False, False)])
def test_maps_agree_with_the_formula(kind, interference, denoise):
    network, inputs = _wide(kind)
    side, patches = GRIDS[kind]
    with torch.no_grad():
        logits = network(**inputs).logits
    words = logits[:, -1].argsort(-1, descending=True)[:, 1].tolist()
    found = relmap.explain(
        network, target=token_log_probability(words), method="tam",
        interference=interference, denoise=denoise, **inputs,
    )  # fmt: skip
    image = found.image
    for index in range(2):
        ids = inputs["input_ids"][index].tolist()
        seen = [place for place, token in enumerate(ids) if token == IMAGE_ID]
        wanted, said = token_map(logits[index].tolist(), ids, seen, words[index], interference)
        if denoise:
            wanted = rank_gaussian(wanted, side, side)
        text = found.scores["input_ids"][index]
        others = [place for place in range(len(ids)) if place not in seen]
        torch.testing.assert_close(
            text[others], torch.tensor(said, dtype=torch.float64), rtol=1e-6, atol=1e-6
        )
        assert text[seen].eq(0).all()
        square = torch.tensor(wanted, dtype=torch.float64).reshape(side, side)
        fold = int(patches**0.5)
        scores = image.scores[index].reshape(side * fold, side * fold)
        shared = square.repeat_interleave(fold, 0).repeat_interleave(fold, 1) / patches
        torch.testing.assert_close(scores, shared, rtol=1e-6, atol=1e-6)


def test_a_generated_token_sees_only_what_is_before_it():
    network, inputs = _wide("LLaVA")
    ids = inputs["input_ids"]
    found = relmap.explain(network, target=generated_tokens(3, index=1), method="tam", **inputs)
    short = {**inputs, "input_ids": ids[:, :-2], "attention_mask": inputs["attention_mask"][:, :-2]}
    alone = relmap.explain(
        network, target=token_log_probability(ids[:, -2].tolist()), method="tam", **short
    )
    torch.testing.assert_close(found.image.scores, alone.image.scores)
    assert found.scores["input_ids"][:, -2:].eq(0).all()


def test_several_tokens_at_once_are_refused():
    network, inputs = _wide("LLaVA")
    with pytest.raises(InputError, match="the target reads the scores of 3"):
        relmap.explain(network, target=generated_tokens(3), method="tam", **inputs)


@pytest.mark.filterwarnings("ignore:.hidden_state. is deprecated:FutureWarning")  # Mllama
@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("ViT", "reads the scores of a language model"),
        ("CLIP", "reads the scores of a language model"),
        ("T5", "reads the scores of a language model"),
        ("Llama", "image tokens among the words"),
        ("Mllama", "image tokens among the words"),
        ("LLaVA-NeXT", "denoise=False"),
    ],
)
def test_other_models_are_refused(kind, reason):
    built = build(kind)
    with pytest.raises(InputError, match=reason):
        relmap.explain(built.network, target=built.target, method="tam", **built.inputs)
