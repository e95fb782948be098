"""The methods of the registry and a tiny model of every kind, for tests of what all keep to."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from architectures import Built, build
from torch import Tensor

import relmap
from relmap.methods import METHODS

METHOD_NAMES = METHODS.names()
KINDS = {
    "image classifier": "ViT",
    "text classifier": "BERT",
    "similarity": "CLIP",
    "question answering": "LXMERT",
    "question answering in one stream": "ViLT",
    "detector": "DETR",
    "encoder-decoder": "T5",
    "language model": "Llama",
    "seeing language model": "LLaVA",
    "torch's own": "nn.TransformerEncoder",
}
CLASSIFIERS = ("ViT", "BERT", "LXMERT", "ViLT")

# Methods that ask for more than attention, and the kinds of network that they refuse.
REFUSED = {
    "clip-surgery": set(KINDS.values()) - {"ViT", "CLIP"},
    "maskclip": {"DETR"},
    "tam": set(KINDS.values()) - {"LLaVA"},
}
PAIRS = [
    (kind, method)
    for kind in KINDS.values()
    for method in METHOD_NAMES
    if kind not in REFUSED.get(method, ())
]

methods = pytest.mark.parametrize("method", METHOD_NAMES)
kinds = pytest.mark.parametrize("kind", KINDS.values())
kinds_and_methods = pytest.mark.parametrize(("kind", "method"), PAIRS)


def methods_on(*needed: str) -> pytest.MarkDecorator:
    """The methods that explain all these kinds of network."""
    able = [name for name in METHOD_NAMES if not REFUSED.get(name, set()) & set(needed)]
    return pytest.mark.parametrize("method", able)


def explained(built: Built, method: str, **changes: Any) -> relmap.Attribution:
    """The built network explained with its own inputs and target, unless told otherwise."""
    torch.manual_seed(0)  # ViLT draws the order of its patches
    given = {"target": built.target, "method": method, **built.inputs, **changes}
    return relmap.explain(built.network, **given)


@functools.cache
def shared(kind: str) -> Built:
    """One network for all tests that only explain it, which must not change it."""
    return build(kind)


@functools.cache
def double(kind: str) -> Built:
    """The same network in float64, with its inputs."""
    built = build(kind)
    inputs = {
        name: value.double() if isinstance(value, Tensor) and value.is_floating_point() else value
        for name, value in built.inputs.items()
    }
    return Built(built.network.double(), inputs, built.target)


@functools.cache
def usual(kind: str, method: str) -> relmap.Attribution:
    """The shared network explained in the ordinary way."""
    return explained(shared(kind), method)


def one_example(built: Built, index: int) -> dict[str, Any]:
    return {
        name: value[index : index + 1] if isinstance(value, Tensor) else value
        for name, value in built.inputs.items()
    }
