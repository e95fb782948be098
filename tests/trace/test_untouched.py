"""An explanation leaves the network, its inputs and torch as they were, whatever happens."""

from __future__ import annotations

import contextlib
import importlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from architectures import Built, build
from reference.contract import explained, kinds, kinds_and_methods, methods_on, shared, usual
from torch import Tensor, nn

import relmap
from relmap.errors import InputError
from relmap.methods import METHODS
from relmap.request.compatibility import default_backward


@kinds_and_methods
def test_inference_mode_is_refused(kind, method):
    built = shared(kind)
    with torch.inference_mode(), pytest.raises(InputError, match="inference_mode"):
        explained(built, method)


@methods_on("ViT")
def test_inputs_made_in_inference_mode_are_taken_or_refused(method):
    built = shared("ViT")
    with torch.inference_mode():
        pixels = built.inputs["pixel_values"].clone()
    wanted = usual("ViT", method)
    try:
        found = explained(built, method, pixel_values=pixels)
    except InputError:
        return
    assert torch.equal(found.scores["pixel_values"], wanted.scores["pixel_values"])


def test_a_network_made_in_inference_mode_is_refused():
    with torch.inference_mode():
        built = build("ViT")
    pixels = torch.randn(2, 3, 12, 12)
    with pytest.raises(InputError, match="inference mode"):
        relmap.explain(built.network, pixel_values=pixels)


class Stopped(Exception):
    """Raised somewhere in the middle."""


def _state_of(network: nn.Module, inputs: dict[str, Any]) -> dict[str, Any]:
    """Everything about a network, its inputs and torch that an explanation has to leave alone."""
    hooks = [name for name in vars(network) if name.endswith("_hooks")]
    tensors = [*network.parameters(), *network.buffers()]
    given = [value for value in inputs.values() if isinstance(value, Tensor)]
    return {
        "training": [module.training for module in network.modules()],
        "hooks": [len(getattr(module, name)) for module in network.modules() for name in hooks],
        "attributes": [sorted(vars(module)) for module in network.modules()],
        "requires_grad": [tensor.requires_grad for tensor in (*tensors, *given)],
        "grads": [tensor.grad for tensor in (*tensors, *given) if tensor.is_leaf],
        "values": [tensor.detach().clone().flatten().tolist() for tensor in (*tensors, *given)],
        "marks": [sorted(vars(tensor)) for tensor in (*tensors, *given)],
        "leaves": [tensor.is_leaf for tensor in (*tensors, *given)],
        "attention": _implementations(network),
        "grad mode": torch.is_grad_enabled(),
        "function modes": torch._C._len_torch_function_stack(),
        "fast path": torch.backends.mha.get_fastpath_enabled(),
        "stance": torch._dynamo.eval_frame._stance.stance,
        "random numbers": torch.get_rng_state().tolist(),
        "dtype": torch.get_default_dtype(),
    }


def _implementations(network: nn.Module) -> list[Any]:
    configs = [module.config for module in network.modules() if hasattr(module, "config")]
    return [getattr(config, "_attn_implementation", None) for config in configs]


@contextlib.contextmanager
def untouched(network: nn.Module, inputs: dict[str, Any]) -> Iterator[None]:
    """Nothing in the block changes the network more than a plain forward would."""
    with torch.no_grad(), torch.random.fork_rng():
        training = [module for module in network.modules() if module.training]
        with contextlib.suppress(Stopped):
            network.eval()(**inputs)  # transformers installs hooks of its own at the first forward
        for module in training:
            module.training = True
    before = _state_of(network, inputs)
    yield
    after = _state_of(network, inputs)
    draws = "Vilt" in type(network).__name__  # the order of its patches, in every forward
    for what, value in before.items():
        assert (draws and what == "random numbers") or after[what] == value, f"{what} changed"


@kinds_and_methods
def test_the_same_comes_out_again_without_gradients_and_nothing_is_left_behind(kind, method):
    built, wanted = shared(kind), usual(kind, method)
    with untouched(built.network, built.inputs), torch.no_grad():
        found = explained(built, method)
        assert not torch.is_grad_enabled()
    assert found.scores.keys() == wanted.scores.keys()
    for name, scores in wanted.scores.items():
        assert torch.equal(scores, found.scores[name])


@methods_on("BERT")
def test_a_network_in_training_is_explained_in_eval_mode_and_goes_on_training(method):
    built = build("BERT")
    for module in built.network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.5
    assert any(isinstance(module, nn.Dropout) for module in built.network.modules())
    wanted = explained(built, method)
    built.network.train()
    built.network.bert.encoder.layer[0].eval()
    next(built.network.parameters()).requires_grad_(False)
    with untouched(built.network, built.inputs), torch.no_grad():
        found = explained(built, method)
    assert torch.equal(wanted.scores["input_ids"], found.scores["input_ids"])


def test_gradients_that_were_there_stay():
    built = build("ViT")
    weight = built.network.classifier.weight
    weight.grad = torch.ones_like(weight)
    pixels = built.inputs["pixel_values"].clone().requires_grad_()
    explained(built, "genatt", pixel_values=pixels)
    assert weight.grad.eq(1).all()
    assert pixels.grad is None
    assert pixels.requires_grad


def _stop(*anything: Any) -> None:
    raise Stopped


@kinds
def test_an_error_in_the_middle_of_the_forward_leaves_nothing_behind(kind):
    built = build(kind)
    deep = [
        module for module in built.network.modules() if isinstance(module, nn.LayerNorm | nn.Linear)
    ]
    ran: list[nn.Module] = []
    noting = [one.register_forward_hook(lambda module, *rest: ran.append(module)) for one in deep]
    with torch.no_grad():
        built.network(**built.inputs)
    for one in noting:
        one.remove()
    handle = ran[len(ran) // 2].register_forward_hook(_stop)
    with untouched(built.network, built.inputs), pytest.raises(Stopped):
        explained(built, "genatt")
    handle.remove()
    explained(built, "genatt")


@kinds
def test_an_error_in_the_target_leaves_nothing_behind(kind):
    built = build(kind)
    with untouched(built.network, built.inputs), pytest.raises(Stopped):
        explained(built, "genatt", target=_stop)
    explained(built, "genatt")


def test_an_error_in_a_method_leaves_nothing_behind(monkeypatch):
    built = build("ViT")
    monkeypatch.setattr(importlib.import_module("relmap.methods.genatt"), "push_rows", _stop)
    with untouched(built.network, built.inputs), pytest.raises(Stopped):
        explained(built, "genatt")


@methods_on("BERT")
def test_threads_take_turns(method):
    built = shared("BERT")
    lengths = (7, 5, 6)
    inputs = [{name: value[:, :n] for name, value in built.inputs.items()} for n in lengths]
    alone = [relmap.explain(built.network, method=method, **given) for given in inputs]
    together: dict[int, relmap.Attribution] = {}
    start = threading.Barrier(len(inputs))

    def work(index: int) -> None:
        start.wait()
        for _ in range(2):
            together[index] = relmap.explain(built.network, method=method, **inputs[index])

    with untouched(built.network, built.inputs):
        threads = [threading.Thread(target=work, args=(index,)) for index in range(len(inputs))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for index, wanted in enumerate(alone):
        assert torch.equal(wanted.scores["input_ids"], together[index].scores["input_ids"])


@methods_on("BERT")
def test_a_plain_forward_meanwhile_is_not_recorded(method):
    """Another thread that only runs the network sees its own numbers."""
    built = build("BERT")
    with torch.no_grad():
        wanted = built.network(**built.inputs).logits
    found: list[Tensor] = []

    def work() -> None:
        for _ in range(5):
            with torch.no_grad():
                found.append(built.network(**built.inputs).logits)

    thread = threading.Thread(target=work)
    thread.start()
    for _ in range(3):
        explained(built, method)
    thread.join()
    for logits in found:
        torch.testing.assert_close(logits, wanted)


@methods_on("ViT")
def test_half_precision_gives_single_precision_scores_close_to_the_truth(method):
    if default_backward(METHODS.get(method)) in ("deep-taylor", "lrp"):
        pytest.skip("relevance divides by sums near zero: it needs float32, as its docstring says")
    built = build("ViT")
    wanted = explained(built, method)
    half = Built(built.network.bfloat16(), built.inputs, built.target)
    target = [int(text.split("(")[-1].rstrip(")")) for text in wanted.target] if wanted else None
    found = explained(half, method, target=target)
    scores, truth = found.scores["pixel_values"], wanted.scores["pixel_values"]
    assert scores.dtype == torch.float32
    assert float((scores - truth).norm() / truth.norm()) < 0.25


def test_a_recorded_graph_keeps_nothing_of_autograd():
    layer = nn.TransformerEncoderLayer(8, 2, batch_first=True)
    network = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    graph = relmap.record(network, src=torch.randn(1, 5, 8))
    assert len(graph.attentions) == 2
    activations = [call.output for call in graph.attentions]
    for state in graph.states:
        activations += [state.stream, state.residual, state.branch]
    known = [activation for activation in activations if activation is not None]
    assert len(known) > 6
    assert all(activation.edge is None for activation in known)
