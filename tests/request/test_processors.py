"""How each kind of model is fed with pictures, texts and sounds."""

import json
import shutil

import numpy as np
import pytest
import torch
from tiny.folders import Folders, make_image

from relmap.errors import InputError
from relmap.models import describe, load, pictures
from relmap.request.forward_arguments import count_examples
from relmap.targets import resolve
from relmap.targets.answers import TargetContext


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return Folders(tmp_path_factory.mktemp("models"))


def predict(model, **given):
    inputs = model.prepare(**given)
    with torch.no_grad():
        output = model.network(**inputs)
    batch = count_examples(model.network, inputs)
    about = TargetContext(batch, inputs, model.network.config, model.labels, model.tokenizer)
    return inputs, resolve(None, output, about)


class TestFeeding:
    def test_an_image_classifier(self, folders, tmp_path):
        model = load(folders("vit"))
        make_image().save(tmp_path / "a.png")
        expected = model.processor(make_image(), return_tensors="pt")["pixel_values"]
        for image in (
            make_image(),
            tmp_path / "a.png",
            np.asarray(make_image()),
            expected,
            expected[0],
        ):
            assert torch.equal(model.prepare(image=image)["pixel_values"], expected)
        batch = [make_image(), make_image(1)]
        assert model.prepare(image=batch)["pixel_values"].shape == (2, 3, 16, 16)
        assert model.prepare(image=expected.repeat(2, 1, 1, 1))["pixel_values"].shape[0] == 2
        assert model.prepare(image=list(expected))["pixel_values"].shape[0] == 1

    def test_what_was_seen_can_be_drawn(self, folders):
        model = load(folders("vit"))
        (seen,) = pictures(model, model.prepare(image=make_image(size=(16, 16))))
        assert np.abs(np.asarray(seen, int) - np.asarray(make_image(size=(16, 16)), int)).max() <= 1
        (seen,) = pictures(describe(model.network), {"pixel_values": torch.randn(1, 3, 16, 16)})
        assert seen.size == (16, 16)
        assert pictures(model, {"input_ids": torch.ones(1, 3)}) is None

    def test_a_text_classifier(self, folders):
        model = load(folders("bert"))
        inputs = model.prepare(text=["a cat", "a dog on the sofa"])
        assert inputs["input_ids"].tolist()[0] == [2, 5, 6, 3, 0, 0, 0]
        assert inputs["attention_mask"].sum(1).tolist() == [4, 7]
        assert model.special_ids == {0, 1, 2, 3, 4}
        assert model.prepare(text=torch.tensor([2, 5, 3]))["input_ids"].tolist() == [[2, 5, 3]]

    @pytest.mark.parametrize(
        ("given", "words"),
        [
            ({"text": "a cat " * 6}, r"14 tokens.*at most 10"),
            ({"text": torch.ones(1, 11, dtype=int)}, r"11 tokens.*at most 10"),
            ({"text": " "}, "empty"),
            ({"text": ["a", ""]}, "number 1"),
            ({"text": 3}, "int"),
            ({"image": "a.png"}, "takes no image: it takes text="),
            ({"text": "a", "audio": np.zeros(9)}, "takes no audio"),
            ({}, "takes text="),
            ({"text": torch.rand(1, 3)}, "whole numbers"),
        ],
    )
    def test_what_a_text_classifier_refuses(self, folders, given, words):
        with pytest.raises(InputError, match=words):
            load(folders("bert")).prepare(**given)

    def test_a_folder_without_tokenizer(self, folders, tmp_path):
        folder = shutil.copytree(folders("bert"), tmp_path / "bert")
        for file in folder.glob("*token*"):
            file.unlink()
        with pytest.raises(InputError, match=r"tokenizer is not among.*pass `input_ids`"):
            load(folder).prepare(text="a cat")

    def test_images_with_texts(self, folders):
        model = load(folders("clip"))
        inputs, resolved = predict(model, image=make_image(), text=["a cat", "the red sofa"])
        assert inputs["pixel_values"].shape[0] == inputs["input_ids"].shape[0] == 2
        assert resolved.names == ("a cat", "the red sofa")
        inputs, _ = predict(model, image=[make_image(), make_image(1)], text="a cat")
        assert inputs["input_ids"].shape[0] == 2
        pixels = inputs["pixel_values"]
        inputs, _ = predict(model, image=pixels, text="a cat")
        assert torch.equal(inputs["pixel_values"], pixels)
        with pytest.raises(InputError, match="differ in length"):
            model.prepare(image=[make_image()] * 2, text=["a"] * 3)
        with pytest.raises(InputError, match="at most 8"):
            model.prepare(image=make_image(), text="a cat " * 6)

    def test_a_kind_that_is_missing_is_asked_for(self, folders):
        model = load(folders("clip"))
        with pytest.raises(
            InputError, match=r"CLIPModel cannot be run on text= alone: give image= as well\. \(It"
        ):
            model.prepare(text=["a cat", "the dog"])
        with pytest.raises(InputError, match="image= alone: give text= as well"):
            model.prepare(image=make_image())
        with pytest.raises(InputError, match="give image= as well"):
            load(folders("vilt")).prepare(text="what is this")
        assert "input_ids" in load(folders("llava")).prepare(text="what is this"), "it may be alone"

    def test_a_text_of_fixed_length(self, folders, tmp_path):
        folder = shutil.copytree(folders("clip"), tmp_path / "fixed")
        model = load(folder)
        model.tokenizer.model_input_names = ["input_ids"]
        assert model.prepare(image=make_image(), text="a cat")["input_ids"].shape == (1, 8)

    def test_a_language_model(self, folders):
        model = load(folders("gpt2"))
        inputs, both = predict(model, text=["a cat on the", "a"])
        assert inputs["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 0, 0, 0]]
        for text, value, name in zip(["a cat on the", "a"], both.values, both.names, strict=True):
            _, alone = predict(model, text=text)
            assert torch.allclose(alone.values, value, atol=1e-5)
            assert alone.names == (name,)
        with pytest.raises(InputError, match="takes no image"):
            model.prepare(image=make_image(), text="a")

    def test_an_encoder_decoder(self, folders):
        inputs, _ = predict(load(folders("t5")), text=["a cat", "a dog on"])
        assert inputs["decoder_input_ids"].tolist() == [[0], [0]]

    def test_a_question_about_an_image(self, folders):
        model = load(folders("vilt"))
        inputs, resolved = predict(model, image=make_image(), text=["what is this", "is this red"])
        assert len(inputs["pixel_values"]) == len(resolved.values) == 2

    def test_a_sound_that_becomes_text(self, folders):
        model = load(folders("whisper"))
        inputs, _ = predict(model, audio=np.zeros(8000, np.float32))
        assert inputs["input_features"].shape == (1, 8, 100)
        assert inputs["decoder_input_ids"].tolist() == [[2]]
        inputs, _ = predict(model, audio=[np.zeros(8000), np.zeros(9000)])
        assert len(inputs["input_features"]) == 2
        with pytest.raises(InputError, match="takes no text: it takes audio="):
            model.prepare(text="a")

    def test_a_sound_that_is_classified(self, folders):
        model = load(folders("wav2vec2"))
        noise = np.random.default_rng(0).normal(size=900).astype(np.float32)
        inputs, _ = predict(model, audio=[noise, noise[:600]])
        assert inputs["input_values"].shape == (2, 900)
        assert model.prepare(audio=noise.tolist())["input_values"].shape == (1, 900)
        assert model.prepare(audio=inputs["input_values"])["input_values"].shape == (2, 900)
        again = model.prepare(audio=torch.from_numpy(noise))["input_values"]
        assert torch.allclose(again, model.prepare(audio=noise)["input_values"])

    def test_a_prompt_about_an_image(self, folders):
        model = load(folders("llava"))
        inputs, _ = predict(model, image=make_image(), text="what is this")
        assert inputs["input_ids"].tolist() == [[4] * 4 + [11, 12, 13]]
        model.processor.chat_template = (
            "{% for m in messages %}{% for c in m['content'] %}"
            "{{ '<image> ' if c['type'] == 'image' else c['text'] }}{% endfor %}{% endfor %}"
            "{% if add_generation_prompt %} the{% endif %}"
        )
        inputs, _ = predict(model, image=make_image(), text=["what is this", "is this red"])
        assert inputs["input_ids"].tolist()[0] == [4] * 4 + [11, 12, 13, 9]
        assert len(inputs["pixel_values"]) == 2

    def test_a_caption_stays_open(self, folders):
        model = load(folders("blip"))
        inputs, _ = predict(model, image=make_image(), text="a cat")
        assert inputs["input_ids"].tolist() == [[2, 5, 6]]
        inputs, _ = predict(model, image=make_image(), text=["a cat", "a cat on the"])
        assert inputs["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1] * 5]
        inputs, _ = predict(model, image=[make_image(), make_image(1)])
        assert inputs["input_ids"].tolist() == [[2], [2]]

    def test_pictures_and_tensors_do_not_mix(self, folders):
        with pytest.raises(InputError):
            load(folders("vit")).prepare(image=[torch.zeros(3, 16, 16), make_image()])
        with pytest.raises(InputError, match="`pixel_values`"):
            load(folders("vit")).prepare(image=torch.full((1, 3, 16, 16), torch.nan))


def test_a_folder_of_real_weights(shared):
    folder = shared / "data" / "deit_tiny"
    if not folder.is_dir():
        pytest.skip("the real weights are not here")
    model = load(folder)
    assert model.tokenizer is None
    rows = json.loads((shared / "data" / "imagenet_samples" / "manifest.json").read_text())
    rows = rows if isinstance(rows, list) else next(iter(rows.values()))
    images = [shared / "data" / "imagenet_samples" / row["image"] for row in rows[:20:2]]
    _, resolved = predict(model, image=images)
    hits = [
        f"({row['label']})" in name for row, name in zip(rows[:20:2], resolved.names, strict=True)
    ]
    assert sum(hits) >= 7
