"""WRA as it is computed equals WRA as it is written, on every kind of network it speaks of."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from architectures import build
from reference import cases, mappers
from reference.cases import Case
from reference.passes import followed
from reference.records import Record, take_records
from reference.wra import extended_attention, relevance_map, residual_part
from torch import Tensor

import relmap
from relmap.methods.wra import wra

OPTIONS = [
    {},
    {"weights": "equal"},
    {"granularity": "token"},
    {"clamp": "sum"},
    {"gradient": "branch"},
    {"granularity": "token", "clamp": "sum", "gradient": "branch"},
]


MAPPERS = [
    pytest.param(kind, norm_first, id=f"{kind.__name__}-{'pre' if norm_first else 'post'}")
    for kind in (mappers.JointMapper, mappers.ExchangeMapper, mappers.ReadingMapper)
    for norm_first in (True, False)
]
HUGGING = [
    pytest.param(cases.vit, "sdpa", id="ViT-sdpa"),
    pytest.param(cases.vit, "eager", id="ViT-eager"),
    pytest.param(cases.bert, "sdpa", id="BERT-sdpa"),
    pytest.param(cases.bert, "eager", id="BERT-eager"),
    pytest.param(cases.visual_bert, "eager", id="VisualBert"),
    pytest.param(cases.lxmert, "eager", id="LXMERT"),
    pytest.param(cases.blip, "eager", id="BLIP"),
    pytest.param(cases.frozen_image, "eager", id="BLIP-frozen"),
    pytest.param(cases.t5, "sdpa", id="T5-sdpa"),
    pytest.param(cases.t5, "eager", id="T5-eager"),
    pytest.param(cases.bart, "sdpa", id="BART-sdpa"),
    pytest.param(cases.bart, "eager", id="BART-eager"),
]


def _literal(case: Case, index: int, **options: str) -> tuple[Tensor, Tensor]:
    """The row that is read, and what of it the residual stream alone gives."""
    records, row = case.records(index), case.row(index)
    whole = relevance_map(records, case.size, **options)
    ones = torch.ones(case.size, dtype=torch.float64)
    torch.testing.assert_close(whole.sum(-1), ones, rtol=0, atol=1e-12)
    kept = torch.zeros(case.size, dtype=torch.float64)
    kept[row] = residual_part(records, case.size, **options)[row]
    return whole[row], kept


def _check(case: Case, **options: str) -> None:
    """A batch at once equals its examples one by one, and not only in what stays where it was."""
    most = 0.0
    for case.column in (1, 2, 0):
        found = relmap.explain(
            case.fast, target=case.target, method="wra", **options, **case.inputs
        )
        for index in range(len(found)):
            wanted, kept = _literal(case, index, **options)
            row = case.side_by_side(found.scores, index)
            assert row.sum() == pytest.approx(1, abs=1e-9)
            moved = wanted - kept
            most = max(most, float(moved.norm()))
            # Where attention counts for nothing, nothing may move; elsewhere compare what moved.
            error = (row - kept - moved).norm() / (moved.norm() if moved.norm() > 1e-3 else 1)
            assert error < case.tolerance, f"example {index}: relative error {error:.2e}"
        if most > 1e-2:
            return
    raise AssertionError("nothing but the residual stream was compared")


def _with_options(params: list[Any], few: tuple[str, ...]) -> list[Any]:
    """Every network with the defaults; some of them with all options."""
    return [
        pytest.param(
            *param.values, options, id=f"{param.id}-{'-'.join(options.values()) or 'plain'}"
        )
        for param in params
        for options in (OPTIONS if param.id in few else OPTIONS[:1])
    ]


@pytest.mark.parametrize(
    ("make", "implementation", "options"),
    _with_options(HUGGING, ("ViT-sdpa", "BERT-sdpa", "VisualBert", "LXMERT", "T5-sdpa")),
)
def test_networks_of_transformers_agree_with_the_equations(make, implementation, options):
    _check(make(implementation), **options)


@pytest.mark.parametrize(
    ("kind", "norm_first", "options"),
    _with_options(MAPPERS, ("JointMapper-pre", "ExchangeMapper-pre", "ExchangeMapper-post")),
)
def test_hand_written_mappers_agree_with_the_equations(kind, norm_first, options):
    _check(cases.by_hand(kind, norm_first, fused=True), **options)


@pytest.mark.parametrize(("kind", "norm_first"), MAPPERS)
def test_eager_mappers_agree_with_the_equations(kind, norm_first):
    _check(cases.by_hand(kind, norm_first, fused=False))


def test_the_references_see_different_things_under_different_options():
    case = cases.by_hand(mappers.ExchangeMapper, True, False)
    rows = [_literal(case, 0, **options)[0] for options in OPTIONS]
    for index, row in enumerate(rows):
        for other in rows[:index]:
            assert (row - other).norm() > 1e-4


def test_padding_changes_nothing():
    case = cases.bert("sdpa")
    found = relmap.explain(case.fast, target=case.target, method="wra", **case.inputs)
    short = {name: value[1:, :5] for name, value in case.inputs.items()}
    alone = take_records(case.eager, short, case.target, case.sublayers, {"text": 5})
    wanted = relevance_map(alone, 5)[0]
    torch.testing.assert_close(found.scores["input_ids"][1, :5], wanted, rtol=1e-9, atol=1e-12)
    assert found.scores["input_ids"][1, 5:].eq(0).all()


@pytest.mark.parametrize("start_layer", [1, -1])
def test_start_layer_leaves_the_first_layers_out(start_layer):
    case = cases.vit("sdpa")
    found = relmap.explain(
        case.fast, target=case.target, method="wra", start_layer=start_layer, **case.inputs
    )
    wanted = relevance_map(case.records(0)[1:], 10)[0]
    torch.testing.assert_close(found.scores["pixel_values"][0], wanted, rtol=1e-9, atol=1e-12)


def test_a_query_without_positive_relevance_keeps_its_row():
    one = torch.eye(2, dtype=torch.float64)
    record = Record(
        rows=torch.tensor([0, 1]),
        columns=torch.tensor([1, 2]),
        attention=torch.full((1, 2, 2), 0.5, dtype=torch.float64),
        attention_gradient=torch.tensor([[[1.0, 3.0], [-1.0, 0.0]]], dtype=torch.float64),
        before=one,
        before_gradient=one,
        after=one,
        after_gradient=one,
        step=0,
    )
    assert extended_attention(record, 3).tolist() == [[0, 0.25, 0.75], [0, 1, 0], [0, 0, 1]]
    assert relevance_map([record], 3).tolist() == [[0.5, 0.125, 0.375], [0, 1, 0], [0, 0, 1]]
    assert residual_part([record], 3).tolist() == [0.5, 1, 1]


ROW_STOCHASTIC = [
    "ViT",
    "BERT",
    "GPT-2",
    "Llama",
    "CLIP",
    "SigLIP",
    "LXMERT",
    "VisualBert",
    "ViLT",
    "DETR",
    "T5",
    "BART",
    "LLaVA",
    "Swin",
    "Perceiver",
    "BLIP-retrieval",
    "nn.TransformerEncoder",
    "nn.Transformer",
]


@pytest.mark.parametrize("name", ROW_STOCHASTIC)
def test_rows_sum_to_one_over_all_leaves(name):
    built = build(name)
    network, inputs = built.network, built.inputs
    target = built.target or _some_scores
    with followed(network, inputs, target) as passed:
        relevance = wra(passed)
        states = passed.graph.states
        leaves = [state.index for state in states if not (state.links or state.attentions)]
        read = sum(row.sum() for row in passed.readout.values())
        found = sum(relevance[leaf].sum() for leaf in leaves if leaf in relevance)
        assert found == pytest.approx(float(read), rel=1e-5)
        assert all((relevance[leaf] >= 0).all() for leaf in leaves if leaf in relevance)


def _some_scores(output: Any) -> Tensor:
    if "logits_per_image" in output:
        return output["logits_per_image"].diagonal()
    scores = output.get("logits", output.get("question_answering_score", output.get("itm_score")))
    return scores[:, -1, 1] if scores.ndim == 3 else scores[:, 1]


def test_wrong_options_are_named():
    case = cases.by_hand(mappers.JointMapper, True, True)
    for option in ("weights", "granularity", "clamp", "gradient"):
        with pytest.raises(relmap.errors.InputError, match="'nonsense'"):
            relmap.explain(
                case.fast, target=case.target, method="wra", **{option: "nonsense"}, **case.inputs
            )


def test_relevance_is_what_reached_the_sources():
    case = cases.by_hand(mappers.JointMapper, True, True)
    found = relmap.explain(case.fast, target=case.target, method="wra", **case.inputs)
    with followed(case.fast, case.inputs, case.target) as passed:
        relevance = wra(passed)
        for source in passed.graph.sources:
            wanted = relevance[source.state][source.tokens]
            torch.testing.assert_close(found.scores[source.name], wanted)
