"""Methods that change what goes into the network, against their formulas written out by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from architectures import build
from reference.integrated_gradients import integrated_gradients
from reference.occlusion import occlusion
from tiny.towers import clip, vit
from torch import Tensor, nn

import relmap


def _bert() -> tuple[Any, dict[str, Any], Any]:
    built = build("BERT", "sdpa")
    return built.network.double(), built.inputs, lambda output: output.logits[:, 1]


@pytest.mark.parametrize("baseline", ["zero", "mean"])
def test_integrated_gradients_are_the_mean_gradient_on_the_way(baseline):
    network, inputs, target = _bert()
    inputs = inputs | {"attention_mask": torch.ones_like(inputs["attention_mask"])}
    path = ["bert.embeddings.word_embeddings"]
    found = relmap.explain(
        network, method="integrated-gradients", target=target, steps=7, baseline=baseline, **inputs
    )
    (wanted,) = integrated_gradients(network, inputs, target, path, 7, baseline == "mean")
    torch.testing.assert_close(found.scores["input_ids"], wanted, rtol=1e-6, atol=1e-9)


def test_integrated_gradients_of_two_inputs_go_the_way_together():
    network, inputs = clip()
    found = relmap.explain(network, method="integrated-gradients", steps=5, **inputs)
    modules = ["vision_model.embeddings.patch_embedding", "text_model.embeddings.token_embedding"]

    def target(output: Any) -> Tensor:
        return output.logits_per_image.diagonal()

    words = integrated_gradients(network, inputs, target, modules[1:], 5, False)
    assert words[0].shape == found.scores["input_ids"].shape
    alone = relmap.explain(network, method="integrated-gradients", steps=200, **inputs)
    total = sum(scores.sum(1) for scores in alone.scores.values())
    with torch.no_grad():
        handles = [
            network.get_submodule(path).register_forward_hook(lambda m, a, o: torch.zeros_like(o))
            for path in modules
        ]
        token = network.vision_model.embeddings.class_embedding.data
        kept = token.clone()
        token.zero_()
        nothing = target(network(**inputs))
        token.copy_(kept)
        for handle in handles:
            handle.remove()
        whole = target(network(**inputs))
    torch.testing.assert_close(total, whole - nothing, rtol=1e-2, atol=1e-2)


def test_integrated_gradients_are_complete():
    network, inputs, target = _bert()
    with torch.no_grad():
        whole = target(network(**inputs))
        handle = network.bert.embeddings.word_embeddings.register_forward_hook(
            lambda module, args, output: torch.zeros_like(output)
        )
        nothing = target(network(**inputs))
        handle.remove()
    errors = []
    for steps in (5, 20, 80):
        found = relmap.explain(
            network, method="integrated-gradients", target=target, steps=steps, **inputs
        )
        errors.append(float((found.scores["input_ids"].sum(1) - (whole - nothing)).abs().max()))
    assert errors[2] < errors[1] < errors[0]
    assert errors[2] < 2e-3 * float((whole - nothing).abs().max())


@pytest.mark.parametrize("baseline", ["zero", "mean"])
@pytest.mark.parametrize("window", [1, 3])
def test_occlusion_is_what_is_lost(baseline, window):
    network, inputs, target = _bert()
    inputs = inputs | {"attention_mask": torch.ones_like(inputs["attention_mask"])}
    count = inputs["input_ids"].shape[1]
    windows = [list(range(start, start + window)) for start in range(count - window + 1)]
    found = relmap.explain(
        network, method="occlusion", target=target, baseline=baseline, window=window, **inputs
    )
    path = "bert.embeddings.word_embeddings"
    wanted = occlusion(network, inputs, target, path, windows, baseline == "mean")
    torch.testing.assert_close(found.scores["input_ids"], wanted, rtol=1e-6, atol=1e-9)


def test_a_window_of_patches_is_a_square():
    network, inputs = vit()
    found = relmap.explain(network, method="occlusion", target=1, window=2, **inputs)
    windows = [[0]] + [
        [1 + 3 * (row + i) + column + j for i in (0, 1) for j in (0, 1)]
        for row in (0, 1)
        for column in (0, 1)
    ]
    # Tokens are taken away before positions are added.
    embedded = network.vit.embeddings.patch_embeddings
    cls = network.vit.embeddings.cls_token.data

    class Beside(nn.Module):
        def forward(self, tokens: Tensor) -> Tensor:
            return tokens

    losses: list[list[Tensor]] = [[] for _ in range(10)]
    with torch.no_grad():
        whole = network(**inputs).logits[:, 1]
        for places in windows:
            kept = cls.clone()

            def hook(module: nn.Module, args: Any, output: Tensor, places=places) -> Tensor:
                changed = output.clone()
                for place in places:
                    if place > 0:
                        changed[:, place - 1] = 0
                return changed

            handle = embedded.register_forward_hook(hook)
            if 0 in places:
                cls.zero_()
            loss = whole - network(**inputs).logits[:, 1]
            cls.copy_(kept)
            handle.remove()
            for place in places:
                losses[place].append(loss)
    wanted = torch.stack([torch.stack(one).mean(0) for one in losses], dim=1)
    torch.testing.assert_close(found.scores["pixel_values"], wanted, rtol=1e-6, atol=1e-9)
