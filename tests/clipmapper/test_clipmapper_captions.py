"""Captions of CLIPmapper: no word sees a later one, the image sees none, and `generate` agrees."""

from __future__ import annotations

import pytest
import torch
from tiny.clipmapper import BEGIN, END, LENGTH, TEXT, WORDS, make, sample

from clipmapper.model import CLIPmapperForCaptioning, CLIPmapperForQuestionAnswering

mappers = pytest.mark.parametrize("mapper", ["a", "b"])


# --- what captions cannot see -----------------------------------------------------------------


@mappers
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_no_word_sees_a_later_one(mapper, padded, implementation):
    model = make(CLIPmapperForCaptioning, mapper, attn_implementation=implementation)
    inputs = sample(padded=padded)
    before = model(**inputs).logits
    for first in range(1, LENGTH):
        words = inputs["input_ids"].clone()
        words[:, first:] = (words[:, first:] + 7) % BEGIN
        after = model(**{**inputs, "input_ids": words}).logits
        assert torch.equal(before[:, :first], after[:, :first])
        assert not torch.allclose(before[0, first:], after[0, first:], atol=1e-3)


@mappers
def test_the_image_sees_no_caption_but_does_see_a_question(mapper):
    inputs = sample()
    others = {**inputs, "input_ids": (inputs["input_ids"] + 7) % BEGIN}
    captions = make(CLIPmapperForCaptioning, mapper).model
    assert torch.equal(captions(**inputs).image_states, captions(**others).image_states)
    answers = make(CLIPmapperForQuestionAnswering, mapper).model
    changed = answers(**inputs).image_states - answers(**others).image_states
    assert (changed.abs().amax(-1) > 1e-3).all()


@mappers
def test_every_word_sees_the_image(mapper):
    model, inputs = make(CLIPmapperForCaptioning, mapper), sample()
    other = {**inputs, "pixel_values": inputs["pixel_values"].flip(-1)}
    changed = model(**inputs).logits - model(**other).logits
    assert (changed.abs().amax(-1) > 1e-3).all()


# --- captions ---------------------------------------------------------------------------------


@mappers
def test_greedy_captions_take_the_likeliest_word_each_time(mapper):
    model, pixels = make(CLIPmapperForCaptioning, mapper), torch.randn(4, 3, 12, 12)
    encoded = []
    model.model.clip.vision_model.register_forward_hook(lambda *_: encoded.append(1))
    found = model.generate(pixel_values=pixels)
    assert len(encoded) == 1
    assert len({tuple(row) for row in found.tolist()}) > 1, "all images look the same"
    for pixel_values, row in zip(pixels[:, None], found.tolist(), strict=True):
        words = [BEGIN]
        while words[-1] != END and len(words) < TEXT["max_position_embeddings"]:
            logits = model(pixel_values=pixel_values, input_ids=torch.tensor([words])).logits
            words.append(int(logits[0, -1].argmax()))
        assert row == words + [END] * (len(row) - len(words))


@mappers
def test_as_many_beams_as_words_find_the_likeliest_pair(mapper):
    model, inputs = make(CLIPmapperForCaptioning, mapper), sample(2)
    image = model.model.encode_images(inputs["pixel_values"])
    found = model.generate(image_states=image, num_beams=WORDS, max_new_tokens=2, min_new_tokens=2)
    allowed = [word for word in range(WORDS) if word != END]
    for index in range(2):
        pairs = torch.tensor([[BEGIN, one, two] for one in allowed for two in allowed])
        states = image[index].expand(len(pairs), -1, -1)
        chances = model(image_states=states, input_ids=pairs).logits.log_softmax(-1)
        total = chances[:, 0].gather(1, pairs[:, 1:2]) + chances[:, 1].gather(1, pairs[:, 2:])
        assert found[index].tolist() == pairs[total.argmax()].tolist()


def test_a_caption_goes_on_from_its_beginning():
    model, inputs = make(CLIPmapperForCaptioning), sample(2)
    begun = torch.tensor([[BEGIN, 3, 4]] * 2)
    found = model.generate(begun, pixel_values=inputs["pixel_values"], max_new_tokens=3)
    assert torch.equal(found[:, :3], begun)
    assert found.shape[1] <= 6
    with pytest.raises(ValueError, match="pixel_values or image_states"):
        model.generate(begun)
    with pytest.raises(ValueError, match="2 images for 1 captions"):
        model.generate(begun[:1], pixel_values=inputs["pixel_values"])


# --- training ----------------------------------------------------------------------------------


def test_the_loss_of_captions_is_the_formula():
    model, inputs = make(CLIPmapperForCaptioning), sample(2, padded=True)
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    found = model(**inputs, labels=labels)
    chances = found.logits.log_softmax(-1)
    told = [
        -chances[b, t, labels[b, t + 1]].item()
        for b in range(2)
        for t in range(LENGTH - 1)
        if labels[b, t + 1] >= 0
    ]
    assert found.loss.item() == pytest.approx(sum(told) / len(told), rel=1e-5)
    counted = model(**inputs, labels=labels, num_items_in_batch=torch.tensor(16)).loss
    assert counted.item() == pytest.approx(sum(told) / 16, rel=1e-5)
