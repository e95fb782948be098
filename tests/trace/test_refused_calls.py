"""What cannot be explained is refused by one clear error, and nothing else happens."""

from __future__ import annotations

import contextlib
import copy
import warnings

import pytest
import torch
from architectures import Built, build
from reference.contract import (
    CLASSIFIERS,
    METHOD_NAMES,
    explained,
    methods,
    methods_on,
    shared,
    usual,
)
from torch import Tensor, nn

import relmap
from relmap.errors import InputError, RelmapError, TraceError
from relmap.methods import METHODS


def test_an_unknown_method_is_refused_with_a_suggestion():
    built = build("ViT")
    with pytest.raises(InputError, match="Did you mean 'genatt'"):
        explained(built, "genat")
    with pytest.raises(InputError, match=r"attention-gradcam.*wra"):
        explained(built, "nothing like it")


@pytest.mark.parametrize("kind", CLASSIFIERS)
@pytest.mark.parametrize("target", [3, -4, 1000, [0, 3], [0], [0, 1, 2], [], "no such label", 1.5])
def test_targets_that_do_not_exist_are_refused(kind, target):
    built = shared(kind)
    with pytest.raises(InputError):
        explained(built, "genatt", target=target)


def test_a_target_function_has_to_give_a_number_for_each_example():
    built = build("ViT")
    for wrong in (
        lambda output: output.logits,
        lambda output: output.logits.sum(),
        lambda output: output.logits[:1, 0],
        lambda output: 3,
        lambda output: output.logits.argmax(-1),
    ):
        with pytest.raises(RelmapError):
            explained(built, "genatt", target=wrong)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_inputs_that_are_not_finite_are_refused(value):
    built = build("ViT")
    pixels = built.inputs["pixel_values"].clone()
    pixels[1, 0, 3, 3] = value
    with pytest.raises(InputError, match="pixel_values"):
        explained(built, "genatt", pixel_values=pixels)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@methods_on("ViT")
def test_weights_that_are_not_finite_are_refused(method, value):
    built = build("ViT")
    with torch.no_grad():
        built.network.vit.layers[1].mlp.fc1.weight[0, 0] = value
    with pytest.raises(RelmapError, match=r"(?i)nan|infinit|finite"):
        explained(built, method)


def test_outputs_that_are_not_finite_are_refused():
    built = build("ViT")
    with pytest.raises(RelmapError, match=r"(?i)nan|infinit|finite"):
        explained(built, "genatt", target=lambda output: output.logits[:, 0] * float("nan"))


def test_a_network_without_attention_is_refused():
    network = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    with pytest.raises(TraceError, match="no attention"):
        relmap.explain(network, target=0, input=torch.randn(2, 4))


def test_a_scripted_network_is_refused():
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, tokens: Tensor) -> Tensor:
            scores = torch.softmax(tokens @ tokens.transpose(1, 2), dim=-1)
            return self.layer(scores @ tokens)[:, 0]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(Plain())
        traced = torch.jit.trace(Plain(), torch.randn(2, 3, 4))
    for network in (scripted, traced, nn.Sequential(scripted)):
        with pytest.raises(TraceError, match="script"):
            relmap.explain(network, target=0, tokens=torch.randn(2, 3, 4))


@pytest.mark.parametrize("layer", [2, -3, 99])
@pytest.mark.parametrize("method", [m for m in METHOD_NAMES if "layer" in METHODS.options(m)])
def test_a_layer_that_does_not_exist_is_refused(method, layer):
    built = shared("ViT")
    with pytest.raises(InputError, match=rf"layer={layer}"):
        explained(built, method, layer=layer)


@pytest.mark.parametrize("start_layer", [2, -3, 99])
@pytest.mark.parametrize("method", [m for m in METHOD_NAMES if "start_layer" in METHODS.options(m)])
def test_a_start_layer_that_does_not_exist_is_refused(method, start_layer):
    built = shared("ViT")
    with pytest.raises(InputError, match=rf"start_layer={start_layer}"):
        explained(built, method, start_layer=start_layer)


@pytest.mark.parametrize(
    ("method", "option"),
    [
        (method, option)
        for method in METHOD_NAMES
        for option in ("layer", "start_layer", "seed")
        if option in METHODS.options(method)
    ],
)
def test_options_of_the_wrong_type_are_refused(method, option):
    built = build("ViT")
    for value in ("one", 0.5, None):
        with pytest.raises(InputError, match=option):
            explained(built, method, **{option: value})


@methods
def test_an_unknown_option_is_refused_naming_both_lists(method):
    built = shared("ViT")
    with pytest.raises(InputError) as error:
        explained(built, method, nonsense=1)
    message = str(error.value)
    assert "'nonsense'" in message
    assert "pixel_values" in message
    for option in METHODS.options(method):
        assert option in message


def test_no_inputs_at_all_are_refused():
    built = build("ViT")
    with pytest.raises(InputError, match="pixel_values"):
        relmap.explain(built.network)


def test_an_unknown_backward_is_refused():
    built = build("ViT")
    with pytest.raises(InputError, match="gradient"):
        explained(built, "genatt", backward="no such thing")
    assert explained(built, "genatt", backward="gradient").meta["backward"] == "gradient"


def test_a_target_that_no_attention_reaches_is_refused():
    class Aside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
            read, _ = self.attention(tokens, tokens, tokens)
            return (tokens + read)[:, 0], tokens.sum((1, 2), keepdim=True)[:, 0] * torch.ones(3)

    with pytest.raises(TraceError):
        relmap.explain(Aside(), target=lambda output: output[1][:, 0], tokens=torch.randn(2, 3, 8))


def test_a_target_that_reads_no_output_is_refused():
    built = build("ViT")
    with pytest.raises(RelmapError):
        explained(built, "genatt", target=lambda output: torch.zeros(2, requires_grad=True))


@methods_on("ViT")
def test_a_compiled_network_is_explained_alike_or_refused(method):
    built = shared("ViT")
    wanted = usual("ViT", method)
    compiled = torch.compile(built.network, backend="eager")
    try:
        found = explained(Built(compiled, built.inputs, built.target), method)
    except RelmapError:
        return
    torch.testing.assert_close(found.scores["pixel_values"], wanted.scores["pixel_values"])


def test_a_network_compiled_in_parts_is_explained_alike_or_refused():
    built = build("ViT")
    wanted = explained(built, "genatt")
    parts = copy.deepcopy(built.network)
    for layer in parts.vit.layers:
        layer.compile(backend="eager")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parts(**built.inputs)
    try:
        found = explained(Built(parts, built.inputs, built.target), "genatt")
    except RelmapError:
        return
    torch.testing.assert_close(found.scores["pixel_values"], wanted.scores["pixel_values"])


@pytest.mark.parametrize("dtype", [torch.long, torch.int32])
def test_inputs_of_another_type_are_converted_or_refused(dtype):
    built = build("ViT")
    with contextlib.suppress(RelmapError):
        explained(built, "genatt", pixel_values=torch.ones(2, 3, 12, 12, dtype=dtype))
