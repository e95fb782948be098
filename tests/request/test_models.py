"""Models by name, from pipelines and bare."""

import json
import pickle
import shutil
import warnings

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from tiny.folders import MAKERS, Folders, make_image
from torch import nn

from relmap.errors import InputError, MissingExtraError
from relmap.models import SOURCES, describe, load, read_weights


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return Folders(tmp_path_factory.mktemp("models"))


class TestLoading:
    def test_every_kind_finds_its_class(self, folders):
        for kind, maker in MAKERS.items():
            model = load(folders(kind))
            assert type(model.network) is type(maker()[0])
            assert not model.network.training

    def test_the_weights_are_those_of_the_file(self, folders):
        model = load(str(folders("vit")))
        stored = load_file(folders("vit") / "model.safetensors")
        state = model.network.state_dict()
        same = [torch.equal(state[name], stored[name]) for name in stored if name in state]
        assert len(same) > 5  # the names of some layers on disk are older than those in memory
        assert all(same)
        assert model.labels == {0: "tench, Tinca", 1: "cat"}
        assert model.network.config._attn_implementation == "sdpa"

    def test_without_architecture_the_type_decides(self, folders, tmp_path):
        for kind in ("vit", "clip", "t5", "gpt2", "vilt"):
            shutil.copytree(folders(kind), tmp_path / kind)
            config = json.loads((tmp_path / kind / "config.json").read_text())
            config.pop("architectures")
            (tmp_path / kind / "config.json").write_text(json.dumps(config))
            assert type(load(tmp_path / kind).network) is type(load(folders(kind)).network)

    def test_number_type_and_device(self, folders):
        for dtype in ("bfloat16", "bf16", torch.bfloat16):
            model = load(folders("vit"), dtype=dtype, device="cpu")
            assert model.network.dtype == torch.bfloat16
        inputs = model.prepare(image=make_image())
        assert inputs["pixel_values"].dtype == torch.bfloat16

    @pytest.mark.parametrize(
        "options",
        [{"device": "warp:9"}, {"device": "cuda:77"}, {"dtype": "int8"}, {"dtype": "nothing"}],
    )
    def test_a_wrong_device_or_number_type(self, folders, options):
        with pytest.raises(InputError, match=str(next(iter(options.values())))):
            load(folders("vit"), **options)

    def test_weights_that_are_missing_are_told(self, folders, tmp_path):
        folder = shutil.copytree(folders("vit"), tmp_path / "vit")
        stored = load_file(folder / "model.safetensors")
        kept = {name: value for name, value in stored.items() if "classifier" not in name}
        save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.warns(UserWarning, match=r"no weights for 2 parts.*classifier"):
            load(folder)

    def test_old_weights_without_code_are_read(self, folders, tmp_path):
        folder = shutil.copytree(folders("vit"), tmp_path / "vit")
        stored = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").unlink()
        torch.save(stored, folder / "pytorch_model.bin")
        state = load(folder).network.state_dict()
        same = [torch.equal(state[name], stored[name]) for name in stored if name in state]
        assert len(same) > 5  # the names of some layers on disk are older than those in memory
        assert all(same)

    def test_nothing_is_unpickled(self, folders, tmp_path):
        folder = shutil.copytree(folders("vit"), tmp_path / "vit")
        (folder / "model.safetensors").unlink()
        mark = tmp_path / "mark"

        class Trap:
            def __reduce__(self):
                return (open, (str(mark), "w"))

        torch.save({"weight": Trap()}, folder / "pytorch_model.bin")
        with pytest.raises(InputError, match="cannot be loaded"):
            load(folder)
        (tmp_path / "bare.pt").write_bytes(pickle.dumps(Trap()))
        with pytest.raises(InputError, match="plain tensors"):
            read_weights(tmp_path / "bare.pt")
        assert not mark.exists()

    def test_code_of_a_repository_is_not_run(self, folders, tmp_path):
        folder = shutil.copytree(folders("vit"), tmp_path / "own")
        mark = tmp_path / "mark"
        (folder / "own.py").write_text(f"open({str(mark)!r}, 'w')\n")
        config = json.loads((folder / "config.json").read_text())
        config |= {"model_type": "own", "architectures": ["OwnModel"]}
        config["auto_map"] = {"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"}
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(InputError, match="trust_remote_code=True"):
            load(folder)
        assert not mark.exists()

    def test_damaged_weights_are_named(self, folders, tmp_path):
        folder = shutil.copytree(folders("vit"), tmp_path / "torn")
        data = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(data[:200])
        with pytest.raises(InputError, match="torn"):
            load(folder)
        (folder / "config.json").write_text("{")
        with pytest.raises(InputError, match="torn"):
            load(folder)

    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("nobody/nothing", "offline"),
            ("./no/such/folder", r"no folder.*timm:NAME"),
            ("warp:vit", r"no model source 'warp'.*open_clip:NAME"),
            ("huggingface:", "Name the model"),
            ("C:\\models\\vit", "no folder"),
            ("", "no folder"),
        ],
    )
    def test_a_name_of_nothing(self, name, words):
        with pytest.raises(InputError, match=words):
            load(name)

    def test_a_folder_without_a_model(self, tmp_path):
        with pytest.raises(InputError, match=r"config\.json"):
            load(tmp_path)
        (tmp_path / "file").write_text("")
        with pytest.raises(InputError, match="is a file"):
            load(tmp_path / "file")

    def test_the_sources(self):
        assert {"huggingface", "timm", "open-clip"} <= set(SOURCES.names())

    @pytest.mark.parametrize("name", ["timm:vit_tiny_patch16_224", "open_clip:ViT-B-32"])
    def test_a_missing_extra_is_named(self, name, monkeypatch):
        for module in ("timm", "timm.data", "open_clip"):
            monkeypatch.setitem(__import__("sys").modules, module, None)
        with pytest.raises(MissingExtraError, match="pip install"):
            load(name)


class TestDescribing:
    def test_a_bare_network(self, folders):
        network = load(folders("vit")).network
        model = describe(network)
        assert model.network is network
        assert model.labels[1] == "cat"
        assert describe(model) is model
        with pytest.raises(InputError, match="pixel_values"):
            model.prepare(image=make_image())
        assert describe(nn.Linear(2, 2)).labels is None

    def test_a_pipeline(self, folders):
        loaded = load(folders("vit"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pipeline = hf.pipeline("image-classification", model=str(folders("vit")))
            words = hf.pipeline("text-classification", model=str(folders("bert")))
        model = describe(pipeline)
        assert model.network is pipeline.model
        ours = model.prepare(image=make_image())["pixel_values"]
        assert torch.equal(ours, loaded.prepare(image=make_image())["pixel_values"])
        assert describe(words).prepare(text="a cat")["input_ids"].tolist() == [[2, 5, 6, 3]]

    @pytest.mark.parametrize("other", ["bert", 3, None, print])
    def test_what_is_no_model(self, other):
        with pytest.raises(InputError):
            describe(other)


@pytest.mark.parametrize("dtype", ["float31", "int64", "nn"])
def test_what_no_network_computes_in_is_refused(dtype):
    with pytest.raises(InputError, match=f"numbers cannot be '{dtype}': try 'float32'"):
        load("nowhere", dtype=dtype)
