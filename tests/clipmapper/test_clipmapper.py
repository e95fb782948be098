"""CLIPmapper: its size, its files, its inputs, its training, and WRA on its answers."""

from __future__ import annotations

import json
import math

import pytest
import torch
import transformers
from reference.clipmappers import clipmapper
from reference.records import take_records
from reference.wra import relevance_map
from tiny.clipmapper import CLIP, LENGTH, TEXT, VISION, WORDS, config, make, sample
from torch import nn

import relmap
from clipmapper.model import (
    CLIPmapperConfig,
    CLIPmapperForCaptioning,
    CLIPmapperForQuestionAnswering,
    CLIPmapperModel,
)

mappers = pytest.mark.parametrize("mapper", ["a", "b"])
both = pytest.mark.parametrize("kind", [CLIPmapperForQuestionAnswering, CLIPmapperForCaptioning])


# --- configuration ----------------------------------------------------------------------------


def test_the_defaults_are_the_papers():
    plain = CLIPmapperConfig()
    assert (plain.vision.patch_size, plain.num_hidden_layers, plain.num_labels) == (32, 8, 3129)
    assert CLIPmapperConfig(mapper="b").num_hidden_layers == 3
    assert plain.id2label[3128] == "LABEL_3128"
    assert plain.grid == 7


def test_a_config_survives_its_file(tmp_path):
    labels = {"id2label": {0: "no", 1: "yes"}, "num_labels": 2}
    before = config("b", clip_checkpoint="../clip", readout="mean", **labels)
    before.save_pretrained(tmp_path)
    after = transformers.AutoConfig.from_pretrained(tmp_path)
    assert isinstance(after, CLIPmapperConfig)
    after.name_or_path = before.name_or_path
    assert after.to_dict() == before.to_dict()
    assert after.text.vocab_size == WORDS


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"mapper": "c"}, "not one of a, b"),
        ({"readout": "cls"}, "not one of class, mean, text-end"),
        ({"hidden_size": 18}, "cannot be shared out"),
        ({"num_hidden_layers": 0}, "num_hidden_layers=0"),
        ({"intermediate_size": 2.5}, "intermediate_size=2.5"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"hidden_act": "sigh"}, "no activation"),
        ({"initializer_range": 0.0}, "above 0"),
        ({"num_labels": 0}, "num_labels=0"),
    ],
)
def test_what_cannot_be_used_is_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        config(**wrong)


def test_the_tokens_of_captions_are_clips_own():
    assert (config().bos_token_id, config().eos_token_id, config().pad_token_id) == (27, 28, 28)
    first_release = {**CLIP, "text_config": {**TEXT, "bos_token_id": 0, "eos_token_id": 2}}
    mended = CLIPmapperConfig(clip_config=first_release)
    assert (mended.bos_token_id, mended.eos_token_id) == (WORDS - 2, WORDS - 1)


def test_one_config_serves_both_tasks():
    shared = config(num_labels=3129)
    captions, answers = CLIPmapperForCaptioning(shared), CLIPmapperForQuestionAnswering(shared)
    assert (captions.config.captioning, captions.config.num_labels) == (True, 2)
    assert (answers.config.captioning, answers.config.num_labels) == (False, 3129)


# --- size -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mapper", "kind", "share"),
    [
        ("a", CLIPmapperForQuestionAnswering, 96),
        ("b", CLIPmapperForQuestionAnswering, 96),
        ("a", CLIPmapperForCaptioning, 96),
        ("b", CLIPmapperForCaptioning, 84),
    ],
)
@pytest.mark.parametrize("width", [16, 40])
def test_weights_are_counted_as_the_paper_implies(mapper, kind, share, width):
    mapped = kind(config(mapper, hidden_size=width)).model.mapper
    matrices = [weight for weight in mapped.parameters() if weight.ndim == 2]
    assert sum(weight.numel() for weight in matrices) == share * width**2


def test_branches_share_no_weights():
    layer = CLIPmapperModel(config("b")).mapper.layers[0]
    ours = {id(weight) for weight in layer.image.parameters()}
    assert not ours & {id(weight) for weight in layer.text.parameters()}


# --- files ------------------------------------------------------------------------------------


def same(one: nn.Module, other: nn.Module) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


@mappers
@both
def test_a_model_survives_its_file(tmp_path, mapper, kind):
    model = make(kind, mapper)
    model.save_pretrained(tmp_path)
    again, found = kind.from_pretrained(tmp_path, output_loading_info=True)
    assert not found["missing_keys"]
    assert not found["unexpected_keys"]
    assert same(model, again)
    assert not again.training
    assert not any(weight.requires_grad for weight in again.model.clip.parameters())
    inputs = sample(padded=True)
    assert torch.equal(model(**inputs).logits, again(**inputs).logits)


@both
@pytest.mark.parametrize("relative", [True, False])
def test_clip_can_stay_in_a_folder_of_its_own(tmp_path, monkeypatch, kind, relative):
    clip = tmp_path / "models" / "clip"
    model = make(kind, clip_checkpoint="../clip" if relative else str(clip))
    model.model.clip.save_pretrained(clip)
    folder = tmp_path / "models" / "answers"
    model.save_pretrained(folder)
    with open(folder / "model.safetensors", "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    assert not [name for name in header if ".clip." in name]
    monkeypatch.chdir(folder)
    again, found = kind.from_pretrained(folder, output_loading_info=True)
    assert not found["missing_keys"]
    assert same(model, again)
    assert not any(weight.requires_grad for weight in again.model.clip.parameters())
    # saved elsewhere, it still finds its CLIP
    again.save_pretrained(tmp_path / "far" / "away" / "copy")
    assert again.config.clip_checkpoint == model.config.clip_checkpoint
    assert same(model, kind.from_pretrained(tmp_path / "far" / "away" / "copy"))


def test_a_missing_or_other_clip_is_named(tmp_path):
    model = make(CLIPmapperForQuestionAnswering, clip_checkpoint="../clip")
    model.save_pretrained(tmp_path / "answers")
    with pytest.raises(ValueError, match=r"'\.\./clip': there is no folder"):
        CLIPmapperForQuestionAnswering.from_pretrained(tmp_path / "answers")
    wider = {**CLIP, "vision_config": {**VISION, "hidden_size": 14}}
    transformers.CLIPModel(transformers.CLIPConfig(**wider)).save_pretrained(tmp_path / "clip")
    with pytest.raises(ValueError, match="another CLIP than clip_config"):
        CLIPmapperForQuestionAnswering.from_pretrained(tmp_path / "answers")
    fresh = CLIPmapperForQuestionAnswering(CLIPmapperConfig(clip_config=wider, hidden_size=16))
    fresh.load_clip(tmp_path / "clip")
    assert same(fresh.model.clip, transformers.CLIPModel.from_pretrained(tmp_path / "clip"))


@pytest.mark.parametrize(
    ("auto", "kind"),
    [
        (transformers.AutoModelForVisualQuestionAnswering, CLIPmapperForQuestionAnswering),
        (transformers.AutoModelForImageTextToText, CLIPmapperForCaptioning),
    ],
)
@mappers
def test_the_auto_classes_know_it(tmp_path, auto, kind, mapper):
    model = make(kind, mapper)
    model.save_pretrained(tmp_path)
    assert same(auto.from_pretrained(tmp_path), model)
    bare = transformers.AutoModel.from_pretrained(tmp_path)
    assert type(bare) is CLIPmapperModel
    assert same(bare, model.model)


# --- inputs -----------------------------------------------------------------------------------


@mappers
@both
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_padding_changes_nothing(mapper, kind, implementation):
    for readout in ("class", "mean", "text-end"):
        model = make(kind, mapper, attn_implementation=implementation, readout=readout)
        inputs = sample(padded=True)
        long = model(**inputs).logits
        words = {"input_ids": inputs["input_ids"][1:, : LENGTH - 2]}
        short = model(pixel_values=inputs["pixel_values"][1:], **words).logits
        found = long[1:, : LENGTH - 2] if kind is CLIPmapperForCaptioning else long[1:]
        torch.testing.assert_close(found, short, rtol=0, atol=1e-5)


@mappers
@both
def test_both_ways_to_compute_attention_agree(mapper, kind):
    model, inputs = make(kind, mapper), sample(padded=True)
    fused = model(**inputs).logits
    model.set_attn_implementation("eager")
    torch.testing.assert_close(model(**inputs).logits, fused, rtol=1e-4, atol=1e-5)


@mappers
@both
def test_cached_states_stand_for_their_inputs(mapper, kind):
    model, inputs = make(kind, mapper).train(), sample(padded=True)
    image = model.model.encode_images(inputs["pixel_values"])
    text = model.model.encode_text(inputs["input_ids"], inputs["attention_mask"])
    assert not image.requires_grad
    assert not text.requires_grad
    cached = {"image_states": image.double(), "text_states": text.double()}
    found = model(**cached, attention_mask=inputs["attention_mask"]).logits
    torch.testing.assert_close(found, model(**inputs).logits)


def test_every_patch_is_given_its_place():
    model = make(CLIPmapperForQuestionAnswering, modality_embeddings=False).model
    zero = torch.zeros(1, 10, 12)
    tokens, _ = model._enter(zero, torch.zeros(1, 2, 10))
    tokens = tokens[0] - model.image_projection.bias
    assert tokens[0].abs().max() < 1e-6, "the class token is nowhere"
    x, y = model.place.weight.T
    torch.testing.assert_close(tokens[3], 2 / 3 * x - 2 / 3 * y)  # first row, last column
    torch.testing.assert_close(tokens[5], torch.zeros_like(x), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"pixel_values": None}, "Give pixel_values"),
        ({"input_ids": None}, "Give input_ids"),
        ({"input_ids": torch.zeros(3, 10, dtype=torch.long)}, "10 tokens, but .* for 9"),
        ({"image_states": torch.zeros(3, 4, 12)}, "4 tokens; this CLIP makes 10"),
        ({"image_states": torch.zeros(1, 10, 12)}, "1 images for 3 texts"),
        ({"attention_mask": torch.ones(3, 5), "text_states": torch.zeros(3, 6, 10)}, "attention_m"),
    ],
)
def test_inputs_that_do_not_fit_are_named(change, said):
    with pytest.raises(ValueError, match=said):
        make(CLIPmapperForQuestionAnswering)(**{**sample(), **change})


# --- training ---------------------------------------------------------------------------------


def test_the_loss_of_answers_is_the_formula():
    model, inputs = make(CLIPmapperForQuestionAnswering), sample(2)
    soft = torch.tensor([[0, 0.3, 1, 0, 0], [0.6, 0, 0, 0, 0.9]])
    found = model(**inputs, labels=soft)
    terms = [
        -y * math.log(1 / (1 + math.exp(-z))) - (1 - y) * math.log(1 - 1 / (1 + math.exp(-z)))
        for y, z in zip(soft.flatten().tolist(), found.logits.flatten().tolist(), strict=True)
    ]
    assert found.loss.item() == pytest.approx(sum(terms) / 2, rel=1e-4)
    numbers = model(**inputs, labels=torch.tensor([2, 4])).loss
    assert torch.equal(numbers, model(**inputs, labels=torch.eye(5)[[2, 4]]).loss)


@mappers
@both
def test_the_mapper_learns_and_clip_does_not(mapper, kind):
    model = make(kind, mapper, readout="mean").train()
    model.model.clip.requires_grad_(False)
    assert not any(part.training for part in model.model.clip.modules())
    assert model.model.mapper.training
    inputs = sample(padded=True)
    inputs["pixel_values"].requires_grad_()
    captions = kind is CLIPmapperForCaptioning
    model(**inputs, labels=inputs["input_ids"] if captions else torch.rand(3, 5)).loss.backward()
    assert inputs["pixel_values"].grad.abs().amax((1, 2, 3)).min() > 0, "it flows through CLIP"
    for name, weight in model.named_parameters():
        # what the last layer does to the image alone reaches no word
        idle = captions and mapper == "b" and "layers.2.image.feed_forward" in name
        assert (weight.grad is None) == (".clip." in name or idle), name


# --- explanations -----------------------------------------------------------------------------


@mappers
@pytest.mark.parametrize("options", [{}, {"weights": "equal"}, {"granularity": "token"}])
def test_wra_on_questions_is_the_equations(mapper, options):
    case, lengths = clipmapper(mapper, captioning=False), (5, 3)
    case.inputs["attention_mask"] = torch.tensor([[1] * 5, [1] * 3 + [0] * 2])
    found = relmap.explain(case.fast, target=case.target, method="wra", **options, **case.inputs)
    for index, length in enumerate(lengths):
        words = case.inputs["input_ids"][index : index + 1, :length]
        alone = {**case.example(index), "input_ids": words, "attention_mask": None}
        sizes = {"image": 5, "text": length}
        records = take_records(case.eager, alone, case.target, case.sublayers, sizes)
        wanted = relevance_map(records, 5 + length, **options)[0]
        row = case.side_by_side(found.scores, index)
        assert row[5 + length :].eq(0).all()
        assert wanted[1:].norm() > 1e-2, "nothing but the identity was compared"
        error = (row[: 5 + length] - wanted).norm() / wanted.norm()
        assert error < 1e-9, f"example {index}: relative error {error:.2e}"


@mappers
@both
@pytest.mark.parametrize("method", ["genatt", "wra"])
def test_every_attention_is_recorded(mapper, kind, method):
    model = make(kind, mapper)
    found = relmap.explain(model, method=method, **sample(padded=True))
    assert {name: scores.shape for name, scores in found.scores.items()} == {
        "pixel_values": (3, 10), "input_ids": (3, LENGTH),
    }  # fmt: skip
    layers = 8 if mapper == "a" else 3 * (4 if kind is CLIPmapperForQuestionAnswering else 3)
    assert found.meta["attentions"] == 2 + 2 + layers
    assert not found.meta["approximate"]
    for scores in found.scores.values():
        assert scores.abs().sum(1).min() > 0
