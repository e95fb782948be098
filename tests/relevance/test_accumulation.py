"""Rows pushed down equal whole maps carried up, and both equal the papers' formulas."""

from __future__ import annotations

import importlib
from dataclasses import replace
from typing import Any

import pytest
import torch
from architectures import build
from reference import cases, mappers
from reference.genatt import relevance_map, rollout, rollout_across
from reference.passes import followed, some_scores
from torch import Tensor

import relmap
from relmap.relevance import attention_maps as algebra
from relmap.relevance.attention_maps import gradient_weighted, head_mean
from relmap.relevance.maps import carry_maps, read_rows
from relmap.relevance.rows import PropagationRule, push_rows, stream_layers

SWITCHES = [
    {},
    {"normalize": False},
    {"self_in_rule_10": False},
    {"aggregate": False, "normalize": False},
]


# --- rows against whole maps ------------------------------------------------------------------


def _linear_rules(passed: Any) -> dict[str, PropagationRule]:
    """The rules of the linear methods, as the methods themselves make them."""
    rules = {
        "genatt": PropagationRule(
            gradient_weighted, lambda sums, share: (sums * 0 + 1, sums * 0 + 1)
        ),
        "rollout": PropagationRule(
            head_mean, lambda sums, share: (1 / (1 + sums), 1 / (1 + sums)), gradient=False
        ),
    }
    if stream_layers(passed.graph):
        rules["genatt, last layers"] = replace(rules["genatt"], start_layer=-1)
    module = importlib.import_module("relmap.methods.wra")
    for name, options in {
        "wra": {},
        "wra by token": {"granularity": "token", "clamp": "sum"},
    }.items():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                module, "push_rows", lambda _, rule, name=name: rules.update({name: rule}) or {}
            )
            module.wra(passed, **options)
    return rules


BOTH_WAYS = [
    "ViT",
    "BERT",
    "GPT-2",
    "Llama",
    "CLIP",
    "SigLIP",
    "T5",
    "BART",
    "Swin",
    "Swinv2",
    "Perceiver",
    "Longformer",
    "DETR",
    "LXMERT",
    "LLaVA",
    "Idefics3",
    "BLIP-retrieval",
    "LeViT",
    "Hiera",
    "PVT",
    "BigBird",
    "DiffLlama",
    "nn.TransformerEncoder",
    "nn.TransformerDecoder",
    "nn.MultiheadAttention",
]


@pytest.mark.parametrize("name", BOTH_WAYS)
def test_rows_pushed_down_equal_maps_carried_up(name):
    # The kernel multiplies DiffLlama's maps twice, which makes mixers of its attentions.
    built = build(name, "eager" if name == "DiffLlama" else None)
    network = built.network.double()
    inputs = {
        key: value.double() if torch.is_tensor(value) and value.is_floating_point() else value
        for key, value in built.inputs.items()
    }
    with followed(network, inputs, built.target or some_scores) as passed:
        for method, rule in _linear_rules(passed).items():
            pushed = push_rows(passed, rule)
            carried = read_rows(carry_maps(passed, rule))
            assert carried
            for leaf, wanted in carried.items():
                found = pushed.get(leaf, torch.zeros_like(wanted)).to(wanted)
                error = float((found - wanted).norm() / wanted.norm().clamp_min(1))
                assert error < 1e-10, f"{method}, leaf {leaf}: {error:.1e}"


# --- GenAtt against its equations -------------------------------------------------------------

GENATT = [
    pytest.param(cases.vit, "sdpa", id="ViT"),
    pytest.param(cases.bert, "sdpa", id="BERT"),
    pytest.param(cases.visual_bert, "eager", id="VisualBert"),
    pytest.param(cases.lxmert, "eager", id="LXMERT"),
    pytest.param(cases.blip, "eager", id="BLIP"),
    pytest.param(cases.frozen_image, "eager", id="BLIP-frozen"),
    pytest.param(cases.t5, "sdpa", id="T5-sdpa"),
    pytest.param(cases.t5, "eager", id="T5-eager"),
    pytest.param(cases.bart, "sdpa", id="BART"),
]
MAPPERS = [
    pytest.param(kind, norm_first, id=f"{kind.__name__}-{'pre' if norm_first else 'post'}")
    for kind in (mappers.JointMapper, mappers.ExchangeMapper, mappers.ReadingMapper)
    for norm_first in (True, False)
]


def _check_genatt(case: cases.Case, **switches: bool) -> None:
    found = relmap.explain(
        case.fast, target=case.target, method="genatt", **switches, **case.inputs
    )
    for index in range(len(found)):
        whole = relevance_map(case.records(index), case.size, **switches)
        wanted = whole[case.row(index)]
        row = case.side_by_side(found.scores, index)
        beyond = wanted.clone()
        if switches.get("aggregate", True):
            beyond[case.row(index)] -= 1
            row = row - (wanted - beyond)
            assert beyond.norm() > 1e-3, "nothing but the identity was compared"
        error = (row - beyond).norm() / beyond.norm().clamp_min(1e-3)
        assert error < case.tolerance, f"example {index}: relative error {error:.2e}"


def _ids(switches: dict[str, bool]) -> str:
    return "-".join(f"no-{name}" for name in switches) or "published"


def _with_switches(params: list[Any], few: tuple[str, ...]) -> list[Any]:
    """Every network as published; some of them with all switches."""
    return [
        pytest.param(*param.values, switches, id=f"{param.id}-{_ids(switches)}")
        for param in params
        for switches in (SWITCHES if param.id in few else SWITCHES[:1])
    ]


@pytest.mark.parametrize(
    ("make", "implementation", "switches"),
    _with_switches(GENATT, ("ViT", "LXMERT", "BLIP-frozen", "T5-sdpa")),
)
def test_genatt_agrees_with_its_equations(make, implementation, switches):
    _check_genatt(make(implementation), **switches)


@pytest.mark.parametrize(
    ("kind", "norm_first", "switches"),
    _with_switches(MAPPERS, ("ExchangeMapper-pre", "ReadingMapper-pre")),
)
def test_genatt_on_hand_written_mappers(kind, norm_first, switches):
    _check_genatt(cases.by_hand(kind, norm_first, fused=norm_first), **switches)


# --- rollout ----------------------------------------------------------------------------------


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("make", [cases.vit, cases.bert])
def test_rollout_is_a_product_of_maps(make, normalize):
    case = make("sdpa")
    found = relmap.explain(case.fast, method="rollout", normalize=normalize, **case.inputs)
    for index in range(len(found)):
        wanted = rollout(case.records(index), case.size, normalize=normalize)[case.row(index)]
        row = case.side_by_side(found.scores, index)
        torch.testing.assert_close(row, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("fused", [False, True], ids=["eager", "fused"])
def test_rollout_of_joint_towers_starts_from_two_blocks(fused):
    case = cases.by_hand(mappers.JointMapper, True, fused)
    found = relmap.explain(case.fast, target=case.target, method="rollout", **case.inputs)
    wanted = rollout(case.records(0), case.size)[0]
    row = case.side_by_side(found.scores, 0)
    torch.testing.assert_close(row, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("make", [cases.lxmert, cases.t5, cases.bart, cases.frozen_image])
def test_rollout_across_modalities_takes_the_last_cross_attention(make):
    case = make("eager")
    found = relmap.explain(case.fast, target=case.target, method="rollout", **case.inputs)
    asks = case.read[0]
    reads = next(name for name in case.sizes if name != asks)
    records, rows = case.records(0), case.columns(asks)
    across = rollout_across(records, rows, case.columns(reads))
    inside = rollout([record for record in records if _within(record, rows)], case.size)
    place = case.row(0) - int(rows[0])
    torch.testing.assert_close(
        found.scores[case.names[reads]][0], across[place], rtol=1e-9, atol=1e-12
    )
    torch.testing.assert_close(
        found.scores[case.names[asks]][0], inside[case.row(0)][rows], rtol=1e-9, atol=1e-12
    )


def _within(record: Any, tokens: Tensor) -> bool:
    return torch.equal(record.rows, tokens) and torch.equal(record.columns, tokens)


# --- tiles ------------------------------------------------------------------------------------


@pytest.mark.parametrize("elements", [1, 37])
@pytest.mark.parametrize("name", ["BERT", "T5", "Swin", "Perceiver"])
def test_tiles_of_any_size_give_the_same(monkeypatch, name, elements):
    built = build(name)
    for method in ("genatt", "wra", "attention-gradcam"):
        whole = relmap.explain(built.network, target=built.target, method=method, **built.inputs)
        with monkeypatch.context() as patch:
            patch.setattr(algebra, "TILE_ELEMENTS", elements)
            tiled = relmap.explain(
                built.network, target=built.target, method=method, **built.inputs
            )
        for source, scores in whole.scores.items():
            torch.testing.assert_close(tiled.scores[source], scores)
