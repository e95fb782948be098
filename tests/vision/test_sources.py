"""Models of timm and open_clip, with random weights that the test saves."""

import json
import pickle

import numpy as np
import open_clip
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from relmap.errors import InputError
from relmap.models import load, pictures
from relmap.targets import resolve
from relmap.targets.answers import TargetContext

VIT = "vit_tiny_patch16_224"
CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


class Touch:
    """What a pickle does to whoever trusts it."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def make_image(seed=0, size=(20, 24)):
    pixels = np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


class TestTimm:
    @pytest.fixture
    def network(self):
        return timm.create_model(VIT, num_classes=5, depth=2)

    @pytest.fixture
    def folder(self, network, tmp_path):
        save_file(network.state_dict(), tmp_path / "model.safetensors")
        settings = {"num_classes": 5, "model_args": {"depth": 2}}
        settings["pretrained_cfg"] = {"label_names": list("abcde"), "mean": [0.5, 0.4, 0.3]}
        (tmp_path / "config.json").write_text(json.dumps(settings))
        return tmp_path

    def test_a_folder(self, network, folder):
        model = load(f"timm:{VIT}@{folder}")
        inputs = model.prepare(image=[make_image(), make_image(1)])
        assert inputs["x"].shape == (2, 3, 224, 224)
        with torch.no_grad():
            assert torch.equal(model.network(**inputs), network.eval()(inputs["x"]))
        assert model.labels == dict(enumerate("abcde"))
        assert torch.equal(model.prepare(image=inputs["x"][0])["x"], inputs["x"][:1])
        resolved = resolve(
            "c", model.network(**inputs), TargetContext(2, inputs, labels=model.labels)
        )
        assert resolved.names == ("c (2)", "c (2)")

    def test_what_was_seen_can_be_drawn(self, folder):
        model = load(f"timm:{VIT}@{folder}")
        red = Image.new("RGB", (224, 224), (200, 10, 90))
        (seen,) = pictures(model, model.prepare(image=red))
        assert np.abs(np.asarray(seen, int) - np.asarray(red, int)).max() <= 1

    @pytest.mark.parametrize("ending", ["safetensors", "pt"])
    def test_a_file(self, tmp_path, ending):
        state = timm.create_model(VIT, num_classes=7).state_dict()
        file = tmp_path / f"weights.{ending}"
        if ending == "pt":
            torch.save({"state_dict": state}, file)
        else:
            save_file(state, file)
        model = load(f"timm:{VIT}@{file}", dtype="bfloat16")
        assert model.network.num_classes == 7
        assert model.prepare(image=make_image())["x"].dtype == torch.bfloat16

    def test_class_names_of_imagenet(self, tmp_path):
        save_file(timm.create_model(VIT).state_dict(), tmp_path / "w.safetensors")
        assert load(f"timm:{VIT}@{tmp_path / 'w.safetensors'}").labels[0].startswith("tench")

    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("timm:vit_nothing", "Some that it has: vit"),
            ("timm:", "Name the model"),
            (f"timm:{VIT}", "offline"),
            (f"timm:{VIT}@nowhere.safetensors", "no checkpoint"),
        ],
    )
    def test_what_is_not_there(self, name, words):
        with pytest.raises(InputError, match=words):
            load(name)

    def test_weights_that_do_not_fit(self, network, tmp_path):
        save_file(network.state_dict(), tmp_path / "w.safetensors")
        with pytest.raises(InputError, match="do not fit"):
            load(f"timm:{VIT}@{tmp_path / 'w.safetensors'}")
        (tmp_path / "w.safetensors").unlink()
        with pytest.raises(InputError, match="holds 0 checkpoints"):
            load(f"timm:{VIT}@{tmp_path}")

    @pytest.mark.parametrize("name", ["checkpoint_path", "pretrained", "cache_dir", "nonsense"])
    def test_a_folder_names_no_weights_and_runs_no_code(self, folder, monkeypatch, name):
        built = []

        def create_model(architecture, **options):  # as timm with a loader that trusts everybody
            built.append(options)
            if options.get("checkpoint_path"):
                torch.load(options["checkpoint_path"], weights_only=False)
            return original(architecture, **options)

        original = timm.create_model
        monkeypatch.setattr(timm, "create_model", create_model)
        evil = folder / "evil.pth"
        evil.write_bytes(pickle.dumps(Touch(folder / "ran")))
        settings = json.loads((folder / "config.json").read_text())
        settings["model_args"][name] = str(evil)
        (folder / "config.json").write_text(json.dumps(settings))
        with pytest.raises(InputError, match=f"names '{name}', which is no argument of Vision"):
            load(f"timm:{VIT}@{folder}")
        assert not (folder / "ran").exists()
        assert all(name not in options or not options[name] for options in built)

    def test_where_a_folder_says_that_weights_lie_is_not_passed_on(self, folder):
        settings = json.loads((folder / "config.json").read_text())
        settings["pretrained_cfg"] |= {"file": "evil.pth", "url": "https://evil", "source": "file"}
        (folder / "config.json").write_text(json.dumps(settings))
        network = load(f"timm:{VIT}@{folder}").network
        assert network.pretrained_cfg["mean"] == [0.5, 0.4, 0.3]
        assert "evil" not in json.dumps(network.pretrained_cfg, default=str)

    def test_an_image_is_all_it_takes(self, folder):
        model = load(f"timm:{VIT}@{folder}")
        for given in ({"text": "a cat"}, {}, {"image": make_image(), "audio": np.zeros(3)}):
            with pytest.raises(InputError, match="takes image="):
                model.prepare(**given)


class TestOpenClip:
    @pytest.fixture(scope="module", autouse=True)
    @staticmethod
    def tiny(tmp_path_factory):
        folder = tmp_path_factory.mktemp("configs")
        (folder / "tiny-clip.json").write_text(json.dumps(CLIP))
        open_clip.add_model_config(folder)

    @pytest.fixture
    def file(self, tmp_path):
        torch.manual_seed(0)
        network = open_clip.create_model("tiny-clip")
        save_file(network.state_dict(), tmp_path / "weights.safetensors")
        return tmp_path / "weights.safetensors"

    def test_a_file(self, file):
        model = load(f"open_clip:tiny-clip@{file}")
        inputs = model.prepare(image=make_image(), text=["a cat", "a dog!"])
        assert inputs["image"].shape == (2, 3, 32, 32)
        assert inputs["text"].shape == (2, 16)
        output = model.network(**inputs)
        about = TargetContext(2, inputs, labels=model.labels, tokenizer=model.tokenizer)
        resolved = resolve(None, output, about)
        image, text, scale = output
        assert torch.allclose(resolved.values, scale * (image * text).sum(1))
        assert resolved.names[0] == "a cat"
        assert model.tokenizer.convert_ids_to_tokens(inputs["text"][0, 1:3]) == ["a</w>", "cat</w>"]
        assert model.special_ids >= {0, 49406, 49407}
        assert len(pictures(model, inputs)) == 2
        again = model.prepare(image=inputs["image"], text=inputs["text"])
        assert torch.equal(again["text"], inputs["text"])

    @pytest.mark.parametrize(
        ("given", "words"),
        [
            ({"image": make_image()}, "both"),
            ({"image": make_image(), "text": "cat " * 15}, "17 tokens.*at most 16"),
            ({"image": make_image(), "text": ""}, "empty"),
            ({"image": [make_image()] * 2, "text": ["a"] * 3}, "differ in length"),
            ({"image": make_image(), "text": "a", "audio": 1}, "takes no audio"),
        ],
    )
    def test_what_it_refuses(self, file, given, words):
        with pytest.raises(InputError, match=words):
            load(f"open_clip:tiny-clip@{file}").prepare(**given)

    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("ViT-B-99", "Some that it has: ViT-B"),
            ("ViT-B-32", r"Its tags: .*laion"),
            ("tiny-clip@nowhere.pt", "no checkpoint"),
            ("tiny-clip@no-such-tag", "no-such-tag"),
        ],
    )
    def test_what_is_not_there(self, name, words):
        with pytest.raises(InputError, match=words):
            load(f"open_clip:{name}")

    def test_a_captioner_is_a_pair_first(self):
        output = {
            "image_features": torch.rand(2, 4),
            "text_features": torch.rand(2, 4),
            "logits": torch.rand(2, 5, 7),
            "logit_scale": torch.tensor(5.0),
        }
        context = TargetContext(2, {"text": torch.ones(2, 5, dtype=torch.int64)})
        assert resolve(None, output, context).names == ("text 0", "text 1")
