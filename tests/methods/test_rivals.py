"""Methods that run parts of a tower again, against their formulas written out by hand.

Their costs and refusals stand here beside those of the methods that change the input.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from architectures import build
from reference import towers
from reference.clip_surgery import surgery
from reference.counting import products
from reference.grad_eclip import grad_eclip
from reference.legrad import legrad
from reference.maskclip import maskclip
from reference.towers import Tower
from tiny.towers import clip, vit
from torch import Tensor, nn
from transformers import ViTConfig, ViTForImageClassification

import relmap
from relmap.errors import InputError

implementations = pytest.mark.parametrize("implementation", ["eager", "sdpa"])


@pytest.fixture(autouse=True)
def softmax_in_double(monkeypatch: pytest.MonkeyPatch) -> None:
    """The eager networks normalise in float32, whatever they are."""
    original = nn.functional.softmax

    def softmax(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if tensor.dtype == torch.float64:
            kwargs.pop("dtype", None)
        return original(tensor, *args, **kwargs)

    monkeypatch.setattr(nn.functional, "softmax", softmax)


def _towers(network: Any, inputs: dict[str, Tensor], index: int) -> dict[str, Tower]:
    if "input_ids" not in inputs:
        return {"pixel_values": towers.vit(network, inputs, index, 1)}
    return {
        "pixel_values": towers.clip_image(network, inputs, index),
        "input_ids": towers.clip_text(network, inputs, index),
    }


def _compare(found: relmap.Attribution, source: str, index: int, wanted: Tensor) -> None:
    assert wanted.abs().max() > 1e-6, "nothing was compared"
    torch.testing.assert_close(found.scores[source][index], wanted.detach(), rtol=1e-6, atol=1e-9)


CASES = {"CLIP": (clip, None), "ViT": (vit, 1)}
cases = pytest.mark.parametrize(("made", "target"), CASES.values(), ids=CASES.keys())


@cases
@implementations
@pytest.mark.parametrize("layers", [0, 1])
def test_legrad_is_the_gradient_of_each_layers_own_score(made, target, implementation, layers):
    network, inputs = made(implementation)
    found = relmap.explain(network, target=target, method="legrad", layers=layers, **inputs)
    for index in range(len(found)):
        for source, tower in _towers(network, inputs, index).items():
            wanted = legrad(tower, layers or len(tower.blocks))
            _compare(found, source, index, wanted)


@cases
@implementations
@pytest.mark.parametrize("residual", [True, False])
def test_maskclip_is_what_the_head_says_of_each_value(made, target, implementation, residual):
    network, inputs = made(implementation)
    found = relmap.explain(network, target=target, method="maskclip", residual=residual, **inputs)
    for index in range(len(found)):
        for source, tower in _towers(network, inputs, index).items():
            _compare(found, source, index, maskclip(tower, residual))


@cases
@implementations
@pytest.mark.parametrize("single_head", [True, False])
@pytest.mark.parametrize("similarity", [True, False])
def test_grad_eclip_is_the_last_block_once_more(
    made, target, implementation, single_head, similarity
):
    network, inputs = made(implementation)
    options = {"single_head": single_head, "similarity": similarity}
    most = 0.0
    for column in (target,) if target is None else (0, 1, 2):
        found = relmap.explain(network, target=column, method="grad-eclip", **options, **inputs)
        for index in range(len(found)):
            if column is None:
                both = _towers(network, inputs, index)
            else:
                both = {"pixel_values": towers.vit(network, inputs, index, column)}
            for source, tower in both.items():
                learned = int(source == "pixel_values")
                wanted = grad_eclip(tower, **options, learned=learned)
                most = max(most, float(wanted.max()))
                torch.testing.assert_close(
                    found.scores[source][index], wanted, rtol=1e-6, atol=1e-9
                )
    assert most > 1e-3, "nothing was compared"


def _same_image(texts: int) -> tuple[Any, dict[str, Tensor]]:
    network, inputs = clip(batch=texts)
    return network, inputs | {"pixel_values": inputs["pixel_values"][:1]}


@pytest.mark.parametrize("architecture", [True, False])
@pytest.mark.parametrize("features", ["mean", "last", None])
@pytest.mark.parametrize("blocks", [6, 1])
def test_clip_surgery_is_both_surgeries(architecture, features, blocks):
    network, inputs = _same_image(3)
    repeated = inputs | {"pixel_values": inputs["pixel_values"].repeat(3, 1, 1, 1)}
    scale = float(network.logit_scale.detach().exp())
    found = relmap.explain(
        network, method="clip-surgery", architecture=architecture, features=features is not None,
        redundancy=features or "mean", layers=blocks, **inputs,
    )  # fmt: skip
    images = [towers.clip_image(network, repeated, index) for index in range(3)]
    wanted = surgery(images, architecture, features, blocks, scale)
    for index in range(3 - (features == "last")):
        _compare(found, "pixel_values", index, wanted[index])
        text = towers.clip_text(network, repeated, index)
        alone = torch.stack([text.head(token) for token in text.states()[-1]])
        _compare(found, "input_ids", index, torch.where(text.real, alone, 0))


def test_clip_surgery_compares_texts_of_the_same_image_alone():
    network, inputs = clip(batch=4)
    inputs["pixel_values"][2] = inputs["pixel_values"][0]
    found = relmap.explain(network, method="clip-surgery", **inputs)
    pair = {name: value[[0, 2]] for name, value in inputs.items()}
    together = relmap.explain(network, method="clip-surgery", **pair)
    torch.testing.assert_close(
        found.scores["pixel_values"][[0, 2]], together.scores["pixel_values"]
    )
    single = {name: value[1:2] for name, value in inputs.items()}
    one = relmap.explain(network, method="clip-surgery", **single)
    torch.testing.assert_close(found.scores["pixel_values"][1:2], one.scores["pixel_values"])


def test_clip_surgery_of_a_classifier_compares_classes():
    network, inputs = vit()
    image = inputs["pixel_values"][:1].repeat(3, 1, 1, 1)
    found = relmap.explain(
        network, method="clip-surgery", pixel_values=image, target=[0, 1, 2], redundancy="last"
    )
    each = [towers.vit(network, {"pixel_values": image}, 0, target) for target in range(3)]
    wanted = surgery(each, True, "last", 6, 1.0)
    _compare(found, "pixel_values", 0, wanted[0])
    assert found.scores["pixel_values"][2].eq(0).all()


@pytest.mark.parametrize("method", ["legrad", "maskclip", "grad-eclip", "clip-surgery"])
def test_pooled_tokens_are_read_by_the_pool(method):
    built = build("SigLIP", "sdpa")
    network, inputs = built.network.double(), built.inputs
    inputs = inputs | {"pixel_values": inputs["pixel_values"].double()}
    found = relmap.explain(network, method=method, **inputs).image.scores
    assert found.isfinite().all()
    assert (found != 0).any()
    if method != "maskclip":
        return
    # The pooling attention reads one patch's value alone.
    tower, head = network.vision_model, network.vision_model.head
    with torch.no_grad():
        text = network(**inputs).text_embeds
        tokens = tower(inputs["pixel_values"]).last_hidden_state
        weight = head.attention.in_proj_weight.chunk(3)[2]
        values = tokens @ weight.T + head.attention.in_proj_bias.chunk(3)[2]
        for index in range(2):
            for patch in range(tokens.shape[1]):
                hidden = head.attention.out_proj(values[index, patch])
                pooled = hidden + head.mlp(head.layernorm(hidden))
                cosine = nn.functional.normalize(pooled, dim=-1) @ text[index]
                wanted = cosine * network.logit_scale.exp() + network.logit_bias
                torch.testing.assert_close(found[index].flatten()[patch], wanted[0])


def test_legrad_of_a_pool_is_the_gradient_of_the_pool():
    built = build("SigLIP", "sdpa")
    network = built.network.double()
    inputs = built.inputs | {"pixel_values": built.inputs["pixel_values"].double()}
    found = relmap.explain(network, method="legrad", **inputs).image.scores.flatten(1)
    tower, head = network.vision_model, network.vision_model.head
    heads, states = head.attention.num_heads, []
    handles = [
        layer.register_forward_hook(lambda module, args, output: states.append(output))
        for layer in tower.encoder.layers
    ]
    with torch.no_grad():
        text = network(**inputs).text_embeds
    for handle in handles:
        handle.remove()
    wanted = torch.zeros_like(found)
    for state in (one[0] if isinstance(one, tuple) else one for one in states):
        for index in range(2):
            tokens = tower.post_layernorm(state[index])
            weights = head.attention.in_proj_weight.chunk(3)
            biases = head.attention.in_proj_bias.chunk(3)
            read = (head.probe[0], tokens, tokens)
            q, k, v = (
                (one @ w.T + b).unflatten(-1, (heads, -1)).transpose(0, 1)
                for one, w, b in zip(read, weights, biases, strict=True)
            )
            maps = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1).detach()
            maps.requires_grad_()
            hidden = head.attention.out_proj((maps @ v).transpose(0, 1).flatten(1))
            pooled = (hidden + head.mlp(head.layernorm(hidden)))[0]
            cosine = nn.functional.normalize(pooled, dim=-1) @ text[index]
            (gradient,) = torch.autograd.grad(cosine * network.logit_scale.exp(), maps)
            wanted[index] += gradient.clamp_min(0).mean(dim=(0, 1))
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-9)


def test_points_are_the_most_and_the_least_relevant_patches():
    network, inputs = _same_image(2)
    found = relmap.explain(network, method="clip-surgery", **inputs)
    marked = relmap.points(found, count=2)
    assert marked.coordinates.shape == (2, 4, 2)
    assert marked.labels.tolist() == [[1, 1, 0, 0]] * 2
    for index in range(2):
        scores = found.image.scores[index]
        x, y = (marked.coordinates[index] / 4).long().unbind(-1)  # patches of 4 pixels
        read = scores[y, x]
        assert torch.equal(read[:2], scores.flatten().topk(2).values)
        assert torch.equal(-read[2:], (-scores).flatten().topk(2).values)
    wide = relmap.points(found, count=1, size=(120, 24))
    small = relmap.points(found, count=1)
    torch.testing.assert_close(wide.coordinates, small.coordinates * torch.tensor([10.0, 2.0]))
    with pytest.raises(InputError, match="9 patches"):
        relmap.points(found, count=5)


# What a method may compute on a ViT of 12 layers (7 products each, and 2 more) beside the recorded
# pass and its gradient: bounds that a method breaks as soon as it runs all of the network again.
COSTS = [
    ("legrad", {}, 12 * 10),  # a layer's output projection, feed-forward and head, both ways; dA
    ("legrad", {"layers": 2}, 2 * 10),
    ("grad-eclip", {}, 30),
    ("maskclip", {}, 10 + 10),  # the last block, and the head for each of 10 tokens
    ("clip-surgery", {}, 6 * 3 + 10),
    ("integrated-gradients", {"steps": 3}, 3 * 2 * 90 + 60),
    ("occlusion", {}, 10 * 86),
]


@pytest.mark.parametrize(("method", "options", "most"), COSTS)
def test_a_method_costs_what_it_says(method, options, most):
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=12, num_attention_heads=2, intermediate_size=32,
        image_size=12, patch_size=4, num_labels=3,
    )  # fmt: skip
    network, pixels = ViTForImageClassification(config).eval(), torch.randn(1, 3, 12, 12)

    def run(name: str, **chosen: Any) -> None:
        relmap.explain(network, method=name, pixel_values=pixels, **chosen)

    recorded = products(lambda: run("random"))
    assert products(lambda: run(method, **options)) - recorded <= most


REFUSALS = [
    ("BERT", "clip-surgery", {}, "image tower"),
    ("LLaVA", "clip-surgery", {}, "image tower"),
    ("DETR", "maskclip", {}, "learned queries"),
    ("ViT", "clip-surgery", {"layers": 0}, "at least 1"),
    ("ViT", "integrated-gradients", {"steps": 0}, "at least 1"),
    ("ViT", "occlusion", {"window": 0}, "at least 1"),
    ("ViT", "legrad", {"layers": -1}, "0 for all"),
]


@pytest.mark.parametrize(("name", "method", "options", "words"), REFUSALS)
def test_what_cannot_work_is_refused(name, method, options, words):
    built = build(name)
    with pytest.raises(InputError, match=words):
        relmap.explain(built.network, target=built.target, method=method, **options, **built.inputs)
