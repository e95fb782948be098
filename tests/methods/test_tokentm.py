"""TokenTM as it is computed equals TokenTM as it is written, both readings, every ablation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from architectures import build
from reference import cases, mappers
from reference import tokentm as reference
from reference.cases import Case
from reference.passes import some_scores
from torch import Tensor, nn
from torch.nn import functional

import relmap
from relmap.errors import InputError
from relmap.methods import METHODS
from relmap.methods.tokentm import tokentm, tokentm_maps
from relmap.relevance.maps import read_rows
from relmap.relevance.token_changes import head_outputs
from relmap.relevance.token_rows import to_rows
from relmap.relevance.traced_pass import RecordedPass
from relmap.request.request import following, read_request

ABLATIONS: list[dict[str, Any]] = [
    {"length": False},
    {"necc": False},
    {"length": False, "necc": False},
    {"initialization": False},
    {"mhsa": False},
    {"ffn": False},
]
OPTIONS: list[dict[str, Any]] = [
    {},
    *ABLATIONS,
    {"reading": "libragrad"},
    *({"reading": "libragrad", **one} for one in ABLATIONS),
]
READINGS = [{}, {"reading": "libragrad"}]


def _mapper(kind: type[nn.Module], norm_first: bool, fused: bool) -> Callable[[], Case]:
    return lambda: cases.by_hand(kind, norm_first, fused)


NETWORKS: dict[str, tuple[Callable[[], Case], Any]] = {
    "ViT-sdpa": (lambda: cases.vit("sdpa"), reference.vit),
    "ViT-eager": (lambda: cases.vit("eager"), reference.vit),
    "BERT-sdpa": (lambda: cases.bert("sdpa"), reference.bert),
    "BERT-eager": (lambda: cases.bert("eager"), reference.bert),
    **{
        f"{kind.__name__}-{'pre' if norm_first else 'post'}-{'fused' if fused else 'eager'}": (
            _mapper(kind, norm_first, fused), reference.mapper
        )
        for kind in (mappers.JointMapper, mappers.ExchangeMapper, mappers.ReadingMapper)
        for norm_first, fused in ((True, True), (False, False))
    },
}  # fmt: skip
THOROUGH = ("ViT-sdpa", "BERT-sdpa", "ExchangeMapper-pre-fused")


def _ids(options: dict[str, Any]) -> str:
    parts = [key if value is False else str(value) for key, value in options.items()]
    return "-without-".join(["", *parts]).strip("-") or "published"


@pytest.mark.parametrize(
    ("name", "options"),
    [
        pytest.param(name, options, id=f"{name}-{_ids(options)}")
        for name in NETWORKS
        for options in (OPTIONS if name in THOROUGH else READINGS)
    ],
)
def test_scores_agree_with_the_equations(name, options):
    make, read = NETWORKS[name]
    case = make()
    found = relmap.explain(
        case.fast, target=case.target, method="tokentm", **options, **case.inputs
    )
    for index in range(len(found)):
        inputs = case.example(index)
        kept = None
        if "attention_mask" in inputs:  # padding is no token of the example
            kept = int(inputs["attention_mask"].sum())
            inputs = {key: value[:, :kept] for key, value in inputs.items()}
        updates = read(reference.see(case.eager, inputs, case.target))
        wanted = reference.token_map(updates, **options)[case.row(index)]
        row = case.side_by_side(found.scores, index)
        assert row[len(wanted) :].eq(0).all()
        moved = wanted.clone()
        moved[case.row(index)] = 0
        assert moved.norm() > 1e-3, "nothing but the residual stream was compared"
        error = (row[: len(wanted)] - wanted).norm() / moved.norm()
        assert error < case.tolerance, f"example {index}: relative error {error:.2e}"


def test_options_change_what_they_say():
    case = cases.vit("sdpa")
    updates = reference.vit(reference.see(case.eager, case.example(0), case.target))
    rows = [reference.token_map(updates, **options)[0] for options in OPTIONS]
    for index, row in enumerate(rows):
        for other in rows[:index]:
            assert (row / row.norm() - other / other.norm()).norm() > 1e-9


@pytest.mark.parametrize("start_layer", [1, -1])
def test_start_layer_leaves_the_first_layers_out(start_layer):
    case = cases.vit("sdpa")
    found = relmap.explain(
        case.fast, target=case.target, method="tokentm", start_layer=start_layer, **case.inputs
    )
    updates = reference.vit(reference.see(case.eager, case.example(0), case.target))
    late = reference.Sequence_(updates.updates[2:], updates.lengths)
    torch.testing.assert_close(
        found.scores["pixel_values"][0], reference.token_map(late)[0], rtol=1e-9, atol=1e-12
    )


@contextmanager
def following_back(
    network: nn.Module, inputs: dict[str, Any], target: Any
) -> Iterator[RecordedPass]:
    """A recorded pass as the method is given it."""
    asked = read_request(network, "tokentm", inputs)
    with following(asked, [target], asked.entry.needs) as passes:
        passed = next(passes).passed
        with torch.no_grad():
            yield passed


BOTH_WAYS = [
    "ViT",
    "BERT",
    "GPT-2",
    "Llama",
    "CLIP",
    "SigLIP",
    "T5",
    "Swin",
    "DETR",
    "LXMERT",
    "VisualBert",
    "LLaVA",
    "Perceiver",
    "GPT-NeoX",
    "Gemma2",
    "nn.TransformerEncoder",
]


@pytest.mark.parametrize("options", READINGS, ids=_ids)
@pytest.mark.parametrize("name", BOTH_WAYS)
def test_rows_pushed_down_equal_the_matrix_form(name, options):
    built = build(name)
    inputs = {
        key: value.double() if torch.is_tensor(value) and value.is_floating_point() else value
        for key, value in built.inputs.items()
    }
    target = None if name == "DETR" else built.target or some_scores
    with following_back(built.network.double(), inputs, target) as passed:
        pushed = tokentm(passed, **options)
        carried = read_rows(tokentm_maps(passed, **options))
        assert any(bool(row.any()) for row in carried.values())
        for leaf, wanted in carried.items():
            found = pushed.get(leaf, torch.zeros_like(wanted)).to(wanted)
            error = float((found - wanted).norm() / wanted.norm().clamp_min(1))
            assert error < 1e-9, f"leaf {leaf}: {error:.1e}"


# --- what the recorder knows of feed-forward branches -----------------------------------------


@pytest.mark.parametrize(
    ("name", "block", "branch"),
    [
        ("GPT-J", "transformer.h.{}", "mlp"),
        ("GPT-NeoX", "gpt_neox.layers.{}", "mlp"),
        ("Cohere", "model.layers.{}", "mlp"),
    ],
)
def test_a_branch_beside_the_attention_reads_what_the_attention_reads(name, block, branch):
    built = build(name)
    seen: list[tuple[Tensor, Tensor]] = []
    entering: list[Tensor] = []
    for layer in range(2):
        module = built.network.get_submodule(block.format(layer))
        module.register_forward_pre_hook(
            lambda _, args, kwargs: entering.append([*args, *kwargs.values()][0].detach()),
            with_kwargs=True,
        )
        module.get_submodule(branch).register_forward_hook(
            lambda _, args, output: seen.append((entering[-1], output.detach()))
        )
    with following_back(built.network, built.inputs, some_scores) as passed:
        joins = [state for state in passed.graph.states if state.kind == "join"]
        wanted = seen[: len(joins)]
        for state, pair in zip(joins, wanted, strict=True):
            ((stream, added),) = state.additions
            torch.testing.assert_close(passed.replay.value(stream), pair[0])
            torch.testing.assert_close(passed.replay.value(added), pair[1])


class _Block(nn.Module):
    """A block with everything that may stand behind an attention."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.width, self.heads = kind, 6, 2
        self.project, self.out = nn.Linear(6, 18), nn.Linear(6, 6)
        self.gate, self.inner = nn.Linear(6, 6), nn.Linear(6, 6)
        self.norm, self.other = nn.LayerNorm(6), nn.Linear(6, 6)
        self.learned = nn.Parameter(torch.randn(1, 2, 5, 3))
        self.read: Tensor | None = None

    def forward(self, tokens: Tensor) -> Tensor:
        normed = self.norm(tokens)
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.project(normed).chunk(3, -1)
        )
        if self.kind == "learned":
            v = self.learned.expand(len(tokens), -1, -1, -1)
        if self.kind == "mixed":
            v = v * self.other(tokens).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        mixed = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        if self.kind == "gated":
            mixed = mixed * torch.sigmoid(self.gate(normed))
        branch = self.out(mixed)
        if self.kind == "in place":
            branch += tokens
            branch += torch.tanh(self.inner(branch))
            return branch
        tokens = tokens + branch
        if self.kind == "written out":
            # Additions inside the branch, between tensors as wide as the stream.
            hidden = self.inner(tokens)
            hidden = hidden + 0.1 * hidden**3
            return tokens + self.other(hidden)
        return tokens + torch.tanh(self.inner(tokens))


class _Network(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.enter = nn.Linear(4, 6)
        self.blocks = nn.ModuleList([_Block("plain"), _Block(kind)])
        self.head = nn.Linear(6, 3)
        self.double()

    def forward(self, features: Tensor) -> Tensor:
        tokens = self.enter(features)
        for block in self.blocks:
            tokens = block(tokens)
        return self.head(tokens[:, 0])


def _features(batch: int = 2) -> dict[str, Tensor]:
    return {"features": torch.randn(batch, 5, 4, dtype=torch.float64)}


@pytest.mark.parametrize("kind", ["in place", "written out"])
def test_every_block_has_one_feed_forward_branch(kind):
    network, inputs = _Network(kind), _features()
    with following_back(network, inputs, 0) as passed:
        joins = [state for state in passed.graph.states if state.kind == "join"]
        block = network.blocks[1]
        ((stream, added),) = joins[1].additions
        x, y = (passed.replay.value(one) for one in (stream, added))
        residual, branch = (
            to_rows(one, passed.replay.value(one), 10)
            for one in (joins[1].residual, joins[1].branch)
        )
        torch.testing.assert_close(x.reshape(10, 6), residual + branch)
        hidden = block.inner(x)
        wanted = torch.tanh(hidden) if kind == "in place" else block.other(hidden + 0.1 * hidden**3)
        torch.testing.assert_close(y, wanted)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("kind", ["plain", "gated", "in place"])
def test_heads_are_projected_as_the_network_projects_them(kind, batch):
    network, inputs = _Network(kind), _features(batch)
    with following_back(network, inputs, 0) as passed:
        call = passed.graph.attentions[1]
        state = next(one for one in passed.graph.states if call.index in one.attentions)
        block, residual = network.blocks[1], passed.replay.value(state.residual)
        table = to_rows(state.residual, residual, state.tokens)
        found = list(head_outputs(passed.replay, passed.graph, state, call, table))
        gate = torch.sigmoid(block.gate(block.norm(residual))) if kind == "gated" else None
        for head, one in enumerate(found):
            part = slice(3 * head, 3 * head + 3)
            value = residual @ block.project.weight[12:][part].T
            value = value if gate is None else value * gate[..., part]
            wanted = (value @ block.out.weight[:, part].T).reshape(-1, 6)
            torch.testing.assert_close(one, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("kind", "why"), [("learned", "learned"), ("mixed", "mixed from several")])
def test_values_that_are_not_projected_from_tokens_are_refused(kind, why):
    with pytest.raises(InputError, match=f"{why}.*genatt"):
        relmap.explain(_Network(kind), target=0, method="tokentm", **_features())
    assert relmap.explain(_Network(kind), target=0, method="tokentm", mhsa=False, **_features())


def test_streams_of_different_width_have_no_angle():
    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.attention = nn.MultiheadAttention(6, 2, kdim=4, vdim=4, batch_first=True)
            self.head = nn.Linear(6, 3)
            self.double()

        def forward(self, question: Tensor, image: Tensor) -> Tensor:
            return self.head((question + self.attention(question, image, image)[0])[:, 0])

    inputs = {
        "question": torch.randn(2, 3, 6, dtype=torch.float64),
        "image": torch.randn(2, 5, 4, dtype=torch.float64),
    }
    with pytest.raises(InputError, match="4 and 6 numbers wide"):
        relmap.explain(Reader(), target=0, method="tokentm", **inputs)
    found = relmap.explain(Reader(), target=0, method="tokentm", necc=False, **inputs)
    assert found.scores["image"].any()


def test_backwards_of_the_gradient_family_change_the_gradient_alone():
    built = build("ViT")
    plain, libra = (
        relmap.explain(built.network, method="tokentm", backward=name, **built.inputs)
        for name in ("gradient", "libra")
    )
    assert not torch.allclose(plain.image.scores, libra.image.scores)
    with pytest.raises(InputError, match="does not work with the backward 'lrp'"):
        relmap.explain(built.network, method="tokentm", backward="lrp", **built.inputs)


def test_it_is_registered_with_its_whole_maps():
    entry = METHODS.get("token-tm")
    assert entry.name == "tokentm"
    assert entry.maps is tokentm_maps
