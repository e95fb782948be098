"""The interaction map as it is computed equals the map as it is written."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from architectures import build
from reference import cases, genatt, mappers, wra
from reference.cases import Case
from reference.clipmappers import clipmapper
from reference.interaction import across, interaction_sum
from torch import Tensor

import relmap

CARRIED = {
    "wra": wra.relevance_map,
    "genatt": genatt.relevance_map,
    "rollout": genatt.rollout,
}
OPTIONS = [{}, {"blocks": "diagonal"}, {"relevance": "after"}, {"layers": "cross"}]
NETWORKS = {
    "joint": lambda: cases.by_hand(mappers.JointMapper, True, True),
    "joint, normalised after": lambda: cases.by_hand(mappers.JointMapper, False, False),
    "exchange": lambda: cases.by_hand(mappers.ExchangeMapper, True, False),
    "exchange, normalised after": lambda: cases.by_hand(mappers.ExchangeMapper, False, True),
    "LXMERT": lambda: cases.lxmert("eager"),
    "VisualBert": lambda: cases.visual_bert("eager"),
    "BLIP": lambda: cases.blip("eager"),
    "T5": lambda: cases.t5("sdpa"),
    "CLIPmapper-A": lambda: clipmapper("a", captioning=False),
    "CLIPmapper-B": lambda: clipmapper("b", captioning=False),
    "CLIPmapper-A, captions": lambda: clipmapper("a", captioning=True),
    "CLIPmapper-B, captions": lambda: clipmapper("b", captioning=True),
}
FEW = ("joint", "exchange", "CLIPmapper-A", "CLIPmapper-B")


def check(case: Case, method: str = "wra", **how: Any) -> None:
    found = relmap.interaction(case.fast, target=case.target, method=method, **how, **case.inputs)
    asks, reads = found.layout
    places = {source: case.columns(name) for name, source in case.names.items()}
    rows, columns = places[asks], places[reads]
    for index in range(len(found)):
        whole = interaction_sum(
            case.records(index),
            case.size,
            CARRIED[method],
            own=(rows, columns) if how.get("blocks") == "diagonal" else (),
            after=how.get("relevance") == "after",
            counted=lambda one: how.get("layers") != "cross" or across(one, rows, columns),
        )
        forth, back = whole[rows][:, columns], whole[columns][:, rows]
        same(found.one_way[asks, reads][index], forth)
        same(found.one_way[reads, asks][index], back)
        same(found.maps[index], forth * back.T)
        assert found.maps.min() >= 0
        assert max(forth.norm(), back.norm()) > 1e-6, "nothing was compared"


def same(found: Tensor, wanted: Tensor) -> None:
    assert (found - wanted).norm() <= 1e-9 * wanted.norm().clamp_min(1e-12)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_map_is_the_one_that_is_written(name):
    check(NETWORKS[name]())


@pytest.mark.parametrize("how", OPTIONS[1:], ids=str)
@pytest.mark.parametrize("name", FEW)
def test_so_it_is_for_what_the_paper_leaves_open(name, how):
    check(NETWORKS[name](), **how)


@pytest.mark.parametrize(
    ("name", "method"),
    [(name, "genatt") for name in FEW] + [("joint", "rollout"), ("CLIPmapper-A", "rollout")],
)
def test_so_it_is_with_relevance_of_other_methods(name, method):
    check(NETWORKS[name](), method)


def explained(case: Case, **how: Any) -> relmap.Interaction:
    return relmap.interaction(case.fast, target=case.target, **how, **case.inputs)


@pytest.mark.parametrize("mapper", ["a", "b"])
def test_encoders_add_nothing(mapper):
    case = clipmapper(mapper, captioning=False)
    images, texts = case.columns("image"), case.columns("text")
    towers = [one for one in case.records(0) if not across(one, images, texts)][:2]
    assert len(towers) == 2
    alone = interaction_sum(towers, case.size, wra.relevance_map)
    assert not alone[images][:, texts].any()
    assert not alone[texts][:, images].any()
    everything, joint = explained(case), explained(case, layers="cross")
    if mapper == "a":  # its self-attentions are all joint
        assert torch.equal(everything.maps, joint.maps)
    else:  # after an exchange a self-attention is between composites
        assert (everything.maps > joint.maps).any()


def test_the_last_layer_alone():
    case = clipmapper("a", captioning=False)
    images, texts = case.columns("image"), case.columns("text")
    last = case.records(0)[-1].step
    whole = interaction_sum(
        case.records(0), case.size, wra.relevance_map, counted=lambda one: one.step == last
    )
    found = explained(case, layers="last")
    same(found.one_way["pixel_values", "input_ids"][0], whole[images][:, texts])


def test_an_image_that_never_reads_has_no_diagonal_map():
    case = clipmapper("b", captioning=True)
    found = explained(case, blocks="diagonal")
    assert not found.one_way["pixel_values", "input_ids"].any()
    assert found.one_way["input_ids", "pixel_values"].any()
    assert not found.maps.any()
    assert found.directed("input_ids").maps.any()


@pytest.mark.parametrize("name", ["LXMERT", "VisualBert", "LLaVA", "BLIP-retrieval", "T5"])
def test_a_batch_is_its_examples(name):
    built = build(name)
    network = built.network.double()
    inputs = {
        key: value.double() if value.is_floating_point() else value
        for key, value in built.inputs.items()
    }
    whole = relmap.interaction(network, target=built.target, **inputs)
    _, columns = whole.layout
    for index, example in enumerate(whole):
        mask = inputs.get("attention_mask")
        real = None if mask is None or name == "LLaVA" else int(mask[index].sum())
        single = {key: value[index : index + 1] for key, value in inputs.items()}
        alone = relmap.interaction(network, target=built.target, **single)
        torch.testing.assert_close(example.maps, alone.maps, rtol=1e-9, atol=1e-18)
        padding = example.layout[columns].padding[0]
        assert not example.maps[0][:, padding].any()
        if real is not None and columns == "input_ids":
            assert int((~padding).sum()) == real


def test_the_rows_are_the_picture():
    case = clipmapper("a", captioning=False)
    found = explained(case)
    assert list(found.layout) == ["pixel_values", "input_ids"]
    assert found.maps.shape == (2, 5, 5)
    turned = explained(case, between=("text", "image"))
    assert list(turned.layout) == ["input_ids", "pixel_values"]
    assert torch.equal(turned.maps, found.maps.transpose(1, 2))
    assert torch.equal(
        found.directed("pixel_values").maps, found.one_way["pixel_values", "input_ids"]
    )
    words = found.by_token(1)
    assert words.image.scores.shape == (5, 2, 2)
    assert torch.equal(words.scores["pixel_values"], found.maps[1].T)
    row, column, value = found.top(1)[0]
    assert (row.startswith("row"), column.isdecimal()) == (True, True)
    assert value == float(found.maps[0, 1:].max())
    assert found.meta["options"]["blocks"] == "full"


def test_two_of_three_sources_are_named():
    case = cases.by_hand(mappers.ReadingMapper, True, True)
    with pytest.raises(relmap.InputError, match="3 sources"):
        explained(case)
    found = explained(case, between=("question", "words"))
    assert found.maps.shape == (2, mappers.QUESTION, mappers.WORDS)
    with pytest.raises(relmap.InputError, match="no one source 'picture'"):
        explained(case, between=("picture", "words"))
    with pytest.raises(relmap.InputError, match="does not name two"):
        explained(case, between="words")


def test_what_cannot_be_is_refused():
    case = cases.by_hand(mappers.JointMapper, True, True)
    with pytest.raises(relmap.InputError, match="choose one of genatt, rollout, tokentm, wra"):
        explained(case, method="attgrad")
    with pytest.raises(relmap.InputError, match="blocks='half' is not one of"):
        explained(case, blocks="half")
    bert, clip = build("BERT"), build("CLIP")
    with pytest.raises(relmap.InputError, match="reads 'input_ids' alone"):
        relmap.interaction(bert.network, **bert.inputs)
    with pytest.raises(relmap.InputError, match="never meet"):
        relmap.interaction(clip.network, target=clip.target, **clip.inputs)
    with pytest.raises(relmap.InputError, match="start_layer=7 does not exist"):
        explained(case, start_layer=7)


def test_the_network_is_left_as_it_was():
    case = clipmapper("b", captioning=False)
    case.fast.train()
    before = {name: value.requires_grad for name, value in case.fast.named_parameters()}
    explained(case)
    assert case.fast.training
    assert {name: value.requires_grad for name, value in case.fast.named_parameters()} == before


def test_it_is_saved_and_read(tmp_path):
    found = explained(clipmapper("a", captioning=False))
    found.save(tmp_path / "map.safetensors")
    again = relmap.Interaction.load(tmp_path / "map.safetensors")
    assert torch.equal(again.maps, found.maps)
    assert again.one_way.keys() == found.one_way.keys()
    assert all(torch.equal(again.one_way[pair], found.one_way[pair]) for pair in found.one_way)
    assert (again.target, again.prediction, again.meta) == (
        found.target,
        found.prediction,
        found.meta,
    )
    assert again.layout["pixel_values"].grid == (2, 2)
    with pytest.raises(relmap.InputError, match="must end in one of"):
        found.save(tmp_path / "map.txt")
    with pytest.raises(relmap.InputError, match="damaged"):
        relmap.Attribution.load(tmp_path / "map.safetensors")
    with pytest.raises(IndexError):
        found[2]


def test_it_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    from PIL import Image

    picture = explained(clipmapper("a", captioning=False))
    picture.save(tmp_path / "words.png")
    texts = explained(NETWORKS["T5"]())
    texts.save(tmp_path / "table.png")
    for name in ("words", "table"):
        with Image.open(tmp_path / f"{name}.png") as drawn:
            assert drawn.width == 1440
    shown = [one.get_text() for one in picture.draw().texts]
    assert {"picture", "all words", "relevance  0"} <= set(shown)
    assert sum(text.isdecimal() for text in shown) >= 10, "a heading for each of ten words"
