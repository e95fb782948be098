"""FullGrad and FullGrad+: every input and every bias is found, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from architectures import build
from reference import cases
from reference.fullgrad_plus import relevance
from torch import Tensor, nn
from torch.nn import functional

import relmap

WIDTH, HEADS = 8, 2
PLACES = {
    "ViT": (cases.vit, [f"vit.layers.{i}" for i in range(2)], "vit.embeddings"),
    "BERT": (cases.bert, [f"bert.encoder.layer.{i}" for i in range(2)], "bert.embeddings"),
}


@pytest.mark.parametrize("kind", PLACES)
@pytest.mark.parametrize("layers", ["all", "input"])
@pytest.mark.parametrize("biases", [True, False])
def test_inputs_and_biases_agree_with_hooks(kind, layers, biases):
    make, blocks, before = PLACES[kind]
    case = make("sdpa")
    options = {"layers": layers, "biases": biases}
    found = relmap.explain(
        case.fast, target=case.target, method="fullgrad-plus", **options, **case.inputs
    )
    for index in range(2):
        products, added = relevance(case.eager, case.example(index), case.target, blocks, before)
        wanted = sum(products) if layers == "all" else products[0]
        wanted = wanted + added if biases else wanted
        scores = case.side_by_side(found.scores, index)
        torch.testing.assert_close(scores, wanted, rtol=1e-6, atol=1e-6)


class _Layer(nn.Module):
    """A layer whose factors are cut off from the gradient: it is linear but for its biases."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.inner, self.outer = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)
        self.scales, self.shifts = (nn.Parameter(torch.randn(2, WIDTH)) for _ in range(2))
        self.again = nn.Parameter(torch.randn(1, 5, WIDTH))

    def norm(self, tokens: Tensor, which: int) -> Tensor:
        centred = tokens - tokens.mean(-1, keepdim=True)
        spread = (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt().detach()
        return centred / spread * self.scales[which] + self.shifts[which]

    def forward(self, tokens: Tensor) -> Tensor:
        placed = self.norm(tokens, 0) + self.again
        q, k, v = (
            part.unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for part in self.qkv(placed).chunk(3, dim=-1)
        )
        mixed = (q @ k.transpose(-1, -2)).softmax(-1).detach() @ v
        tokens = tokens + self.out(mixed.transpose(1, 2).flatten(2))
        inner = self.inner(self.norm(tokens, 1))
        return tokens + self.outer(inner * (functional.gelu(inner) / inner).detach())


class _Detached(nn.Module):
    """A stem, a class token, detached layers, a batch normalisation, and a pooled head."""

    def __init__(self, pooled: bool) -> None:
        super().__init__()
        self.pooled = pooled
        self.stem, self.place = nn.Conv2d(3, WIDTH, 2, 2), nn.Parameter(torch.randn(1, 5, WIDTH))
        self.token = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.layers = nn.ModuleList([_Layer(), _Layer()])
        self.norm, self.head = nn.BatchNorm1d(WIDTH), nn.Linear(WIDTH, 3)
        for vector in (self.norm.running_mean, self.norm.running_var, self.norm.bias):
            nn.init.uniform_(vector, 0.5, 2)

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.stem(pixels).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(patches), -1, -1), patches], 1) + self.place
        for layer in self.layers:
            tokens = layer(tokens)
        tokens = self.norm(tokens.transpose(1, 2)).transpose(1, 2)
        return self.head(tokens.mean(1) if self.pooled else tokens[:, 0]) - 0.5 * self.head.bias


@pytest.mark.parametrize("pooled", [True, False])
def test_fullgrad_of_a_network_that_is_linear_but_for_biases_sums_to_the_target(pooled):
    torch.manual_seed(0)
    network = _Detached(pooled).double().eval()
    pixels = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    found = relmap.explain(network, pixels=pixels, target=1, method="fullgrad-plus", layers="input")
    torch.testing.assert_close(found.scores["pixels"].sum(1), network(pixels)[:, 1])
    alone = relmap.explain(
        network, pixels=pixels, target=1, method="fullgrad-plus", layers="input", biases=False
    )
    plain = relmap.explain(network, pixels=pixels, target=1, method="input-x-gradient")
    torch.testing.assert_close(alone.scores["pixels"], plain.scores["pixels"])


COMPLETE = ["ViT", "BERT", "Swin", "CLIP", "LXMERT", "GPT-2", "BART", "nn.TransformerEncoder"]


@pytest.mark.parametrize("kind", COMPLETE)
def test_fullgrad_under_libra_sums_to_the_target(kind):
    built = build(kind)
    network = built.network.double()
    inputs: dict[str, Any] = {
        name: value.double() if torch.is_tensor(value) and value.is_floating_point() else value
        for name, value in built.inputs.items()
    }
    read: list[Tensor] = []

    def target(output: Any) -> Tensor:
        read.append(_score(output))
        return read[-1]

    found = relmap.explain(
        network, target=target, method="fullgrad-plus", layers="input", backward="libra", **inputs
    )
    total = sum(scores.sum(dim=1) for scores in found.scores.values())
    torch.testing.assert_close(total, read[-1].detach(), rtol=1e-6, atol=1e-9)


def _score(output: Any) -> Tensor:
    if isinstance(output, Tensor):
        return output[:, 0, 0]
    for name in ("logits_per_image", "question_answering_score", "logits"):
        if name in output:
            scores = output[name]
            return scores.diagonal() if name == "logits_per_image" else scores.flatten(1)[:, -1]
    raise AssertionError(type(output))
