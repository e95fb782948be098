"""WRA as it is computed equals WRA as it is written, on every kind of network it speaks of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from architectures import build
from architectures.weights import enlarge
from reference import mappers, networks
from reference.passes import followed
from reference.records import Record, SubLayer, take_records
from reference.wra import extended_attention, relevance_map, residual_part
from torch import Tensor, nn

import relmap
from relmap.methods.wra import wra
from relmap.propagate import push_rows

OPTIONS = [
    {},
    {"weights": "equal"},
    {"granularity": "token"},
    {"clamp": "sum"},
    {"gradient": "branch"},
    {"granularity": "token", "clamp": "sum", "gradient": "branch"},
]


@dataclass
class Case:
    """A network, fast and eager, and what is known of it by hand."""

    fast: nn.Module
    eager: nn.Module
    inputs: dict[str, Any]
    sublayers: list[SubLayer]
    names: dict[str, str]  # sequence -> source
    sizes: dict[str, int]
    read: tuple[str, Callable[[dict[str, Any]], int]]  # the sequence and token that is read
    scores: Callable[[Any], Tensor] = lambda output: output.logits
    column: int = 1
    tolerance: float = 1e-9

    def target(self, output: Any) -> Tensor:
        return self.scores(output)[:, self.column]

    def example(self, index: int) -> dict[str, Any]:
        return {
            name: value[index : index + 1] if isinstance(value, Tensor) else value
            for name, value in self.inputs.items()
        }

    def literal(self, index: int, **options: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The row that is read, and what of it the residual stream alone gives, by source."""
        inputs = self.example(index)
        records = take_records(self.eager, inputs, self.target, self.sublayers, self.sizes)
        size, row = sum(self.sizes.values()), self.row(inputs)
        whole = relevance_map(records, size, **options)
        torch.testing.assert_close(
            whole.sum(-1), torch.ones(size, dtype=torch.float64), rtol=0, atol=1e-12
        )
        residual = torch.zeros(size, dtype=torch.float64)
        residual[row] = residual_part(records, size, **options)[row]
        return self.by_source(whole[row]), self.by_source(residual)

    def row(self, inputs: dict[str, Any]) -> int:
        name, position = self.read
        before = list(self.sizes).index(name)
        return sum(list(self.sizes.values())[:before]) + position(inputs)

    def by_source(self, row: Tensor) -> dict[str, Tensor]:
        parts = row.split(list(self.sizes.values()))
        return {self.names[name]: part for name, part in zip(self.sizes, parts, strict=True)}


def _hugging(
    name: str, implementation: str, sublayers: list[SubLayer], **known: Any
) -> Case:  # fmt: skip
    """A network of the zoo, in float64: as it is explained, and eager."""
    fast, eager = build(name, implementation), build(name, "eager")
    inputs = {
        key: value.double() if torch.is_tensor(value) and value.is_floating_point() else value
        for key, value in fast.inputs.items()
    }
    return Case(fast.network.double(), eager.network.double(), inputs, sublayers, **known)


def _by_hand(kind: type[nn.Module], norm_first: bool, fused: bool) -> Case:
    torch.manual_seed(3)
    eager = kind(norm_first=norm_first)
    enlarge(eager)
    fast = kind(norm_first=norm_first, fused=fused)
    fast.load_state_dict(eager.state_dict())
    return Case(
        fast.double().eval(),
        eager.double().eval(),
        mappers.sample(),
        eager.sublayers(),
        names={"image": "features", "text": "words"},
        sizes=mappers.SIZES,
        read=("image", _first),
        scores=lambda output: output,
    )


def _first(inputs: dict[str, Any]) -> int:
    return 0


def _vit(implementation: str) -> Case:
    return _hugging(
        "ViT",
        implementation,
        networks.vit(),
        names={"image": "pixel_values"},
        sizes={"image": 10},
        read=("image", _first),
        # Its eager attention normalises in float32, which the reference does not.
        tolerance=1e-6 if implementation == "eager" else 1e-9,
    )


def _bert(implementation: str) -> Case:
    return _hugging("BERT", implementation, networks.bert(), names={"text": "input_ids"},
                    sizes={"text": 7}, read=("text", _first))  # fmt: skip


def _visual_bert(implementation: str) -> Case:
    return _hugging(
        "VisualBert",
        implementation,
        networks.bert(2, "visual_bert.encoder.layer", networks.BOTH),
        names={"text": "input_ids", "image": "visual_embeds"},
        sizes={"text": 7, "image": 5},
        read=("text", lambda inputs: int(inputs["attention_mask"].sum()) - 2),
    )


def _lxmert(implementation: str) -> Case:
    return _hugging(
        "LXMERT",
        implementation,
        networks.lxmert(),
        names={"text": "input_ids", "image": "visual_feats"},
        sizes={"text": 7, "image": 5},
        read=("text", _first),
        scores=lambda output: output.question_answering_score,
    )


def _encoder_decoder(name: str) -> Callable[[str], Case]:
    sublayers = networks.t5() if name == "T5" else networks.bart()

    def made(implementation: str) -> Case:
        return _hugging(
            name,
            implementation,
            sublayers,
            names={"encoder": "input_ids", "decoder": "decoder_input_ids"},
            sizes={"encoder": 7, "decoder": 4},
            read=("decoder", lambda inputs: 3),
            scores=lambda output: output.logits[:, -1],
        )

    return made


MAPPERS = [
    pytest.param(kind, norm_first, id=f"{kind.__name__}-{'pre' if norm_first else 'post'}")
    for kind in (mappers.JointMapper, mappers.ExchangeMapper)
    for norm_first in (True, False)
]
HUGGING = [
    pytest.param(_vit, "sdpa", id="ViT-sdpa"),
    pytest.param(_vit, "eager", id="ViT-eager"),
    pytest.param(_bert, "sdpa", id="BERT-sdpa"),
    pytest.param(_bert, "eager", id="BERT-eager"),
    pytest.param(_visual_bert, "eager", id="VisualBert"),
    pytest.param(_lxmert, "eager", id="LXMERT"),
    pytest.param(_encoder_decoder("T5"), "sdpa", id="T5-sdpa"),
    pytest.param(_encoder_decoder("T5"), "eager", id="T5-eager"),
    pytest.param(_encoder_decoder("BART"), "sdpa", id="BART-sdpa"),
    pytest.param(_encoder_decoder("BART"), "eager", id="BART-eager"),
]


def _check(case: Case, **options: str) -> None:
    """A batch at once equals its examples one by one, and not only in what stays where it was."""
    most = 0.0
    for case.column in range(3):
        found = relmap.explain(
            case.fast, target=case.target, method="wra", **options, **case.inputs
        )
        assert set(found.scores) == set(case.names.values())
        for index in range(len(found)):
            wanted, residual = case.literal(index, **options)
            rows = torch.cat([found.scores[name][index] for name in case.names.values()])
            assert rows.dtype == torch.float64
            assert rows.sum() == pytest.approx(1, abs=1e-9)
            kept = torch.cat([residual[name] for name in case.names.values()])
            moved = torch.cat([wanted[name] for name in case.names.values()]) - kept
            most = max(most, float(moved.norm()))
            # Where attention counts for nothing, nothing may move; elsewhere compare what moved.
            error = (rows - kept - moved).norm() / (moved.norm() if moved.norm() > 1e-3 else 1)
            assert error < case.tolerance, f"example {index}: relative error {error:.2e}"
    assert most > 1e-2, "nothing but the residual stream was compared"


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(options.values()) or "plain")
@pytest.mark.parametrize(("make", "implementation"), HUGGING)
def test_networks_of_transformers_agree_with_the_equations(make, implementation, options):
    _check(make(implementation), **options)


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(options.values()) or "plain")
@pytest.mark.parametrize("fused", [False, True], ids=["eager", "fused"])
@pytest.mark.parametrize(("kind", "norm_first"), MAPPERS)
def test_hand_written_mappers_agree_with_the_equations(kind, norm_first, fused, options):
    _check(_by_hand(kind, norm_first, fused), **options)


def test_the_references_see_different_things_under_different_options():
    case = _by_hand(mappers.ExchangeMapper, True, False)
    rows = [torch.cat(list(case.literal(0, **options)[0].values())) for options in OPTIONS]
    for index, row in enumerate(rows):
        for other in rows[:index]:
            assert (row - other).norm() > 1e-4


def test_padding_changes_nothing():
    case = _bert("sdpa")
    found = relmap.explain(case.fast, target=case.target, method="wra", **case.inputs)
    short = {name: value[1:, :5] for name, value in case.inputs.items()}
    alone = take_records(case.eager, short, case.target, case.sublayers, {"text": 5})
    wanted = relevance_map(alone, 5)[0]
    torch.testing.assert_close(found.scores["input_ids"][1, :5], wanted, rtol=1e-9, atol=1e-12)
    assert found.scores["input_ids"][1, 5:].eq(0).all()


@pytest.mark.parametrize("start_layer", [1, -1])
def test_start_layer_leaves_the_first_layers_out(start_layer):
    case = _vit("sdpa")
    found = relmap.explain(
        case.fast, target=case.target, method="wra", start_layer=start_layer, **case.inputs
    )
    records = take_records(case.eager, case.example(0), case.target, case.sublayers, case.sizes)
    wanted = relevance_map(records[1:], 10)[0]
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


ROW_STOCHASTIC = (
    "ViT BERT GPT-2 Llama CLIP SigLIP LXMERT VisualBert ViLT DETR T5 BART LLaVA Swin Perceiver "
    "BLIP-retrieval nn.TransformerEncoder nn.Transformer"
).split()


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
    case = _by_hand(mappers.JointMapper, True, True)
    for option in ("weights", "granularity", "clamp", "gradient"):
        with pytest.raises(relmap.errors.InputError, match="'nonsense'"):
            relmap.explain(
                case.fast, target=case.target, method="wra", **{option: "nonsense"}, **case.inputs
            )


def test_relevance_is_what_reached_the_sources():
    case = _by_hand(mappers.JointMapper, True, True)
    found = relmap.explain(case.fast, target=case.target, method="wra", **case.inputs)
    with followed(case.fast, case.inputs, case.target) as passed:
        relevance = wra(passed)
        for source in passed.graph.sources:
            wanted = relevance[source.state][source.tokens]
            torch.testing.assert_close(found.scores[source.name], wanted)
        assert push_rows.__module__ == "relmap.propagate"
