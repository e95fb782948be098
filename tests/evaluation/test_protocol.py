"""What an evaluation was of: each setting, each weight and each example has its say."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from transformers import ViTConfig, ViTModel

import relmap
from relmap.errors import InputError
from relmap.evaluation import Plan, Settings, read_method, read_metric
from relmap.evaluation.protocol import (
    check_record,
    config_of,
    read_record,
    record_of,
    weights_of,
    write_record,
)
from relmap.evaluation.reading import Fingerprint, numbered_batches, read_examples
from relmap.models import describe

DATA = {"name": "cats", "format": "image-folder", "options": {}, "examples": 2, "fingerprint": "0"}


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2))


def changed(place, network):
    """A network with another number in one place of one tensor."""
    with torch.no_grad():
        network[1].weight.flatten()[place] += 1
    return network


def plan(methods=("genatt:start_layer=1",), metrics=("perturbation:preset=mif",), **settings):
    settings = {"target": "predicted", "batch_size": 4, "limit": 9} | settings
    return Plan(
        tuple(map(read_method, methods)), tuple(map(read_metric, metrics)), Settings(**settings)
    )


def written(folder):
    write_record(folder, record_of(describe(network()), DATA, plan()))
    return folder


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"target": "label"}, "settings"),
        ({"batch_size": 5}, "settings"),
        ({"methods": ["genatt:start_layer=0"]}, "methods"),
        ({"methods": ["genatt:start_layer=1,backward=libra"]}, "methods"),
        ({"methods": ["random", "rollout"]}, "methods"),
        ({"metrics": ["perturbation:preset=mif,fill=black"]}, "metrics"),
        ({"metrics": ["perturbation"]}, "metrics"),
    ],
)
def test_a_run_of_other_settings_is_refused(tmp_path, settings, name):
    record = record_of(describe(network()), DATA, plan(**settings))
    with pytest.raises(InputError, match=f"an evaluation with other {name}: it has"):
        check_record(written(tmp_path), record)


@pytest.mark.parametrize(
    "settings",
    [
        {}, {"seed": 1}, {"resamples": 10}, {"reference": "genatt:start_layer=1"}, {"limit": None},
        {"methods": ["random", "genatt:start_layer=1"]},
        {"metrics": ["perturbation:preset=mif", "energy"]},
    ],
)  # fmt: skip
def test_the_bootstrap_may_be_drawn_anew_and_more_may_be_asked_for(tmp_path, settings):
    record = record_of(describe(network()), DATA, plan(**settings))
    assert not check_record(tmp_path, record)
    assert check_record(written(tmp_path), record)


@pytest.mark.parametrize(
    "data",
    [
        {"name": "dogs"},
        {"format": "segmentation-folder"},
        {"options": {"split": "val"}},
        {"examples": 3},
        {"fingerprint": "1"},
    ],
)
def test_a_run_on_other_data_is_refused(tmp_path, data):
    record = record_of(describe(network()), DATA | data, plan())
    with pytest.raises(InputError, match="an evaluation with other data"):
        check_record(written(tmp_path), record)


def test_a_stream_is_compared_by_what_is_known_of_it(tmp_path):
    known = {name: DATA[name] for name in ("name", "format", "options")}
    assert check_record(written(tmp_path), record_of(describe(network()), known, plan()))


@pytest.mark.parametrize(
    "other", [changed(0, network()), changed(9, network()), network().double()]
)
def test_a_run_of_another_network_is_refused(tmp_path, other):
    record = record_of(describe(other), DATA, plan())
    with pytest.raises(InputError, match="an evaluation with other model"):
        check_record(written(tmp_path), record)


def test_threads_and_the_bootstraps_scipy_are_recorded_and_no_reason_to_refuse(tmp_path):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(before + 1)
        record = record_of(describe(network()), DATA, plan())
    finally:
        torch.set_num_threads(before)
    assert record["threads"] == before + 1
    record["versions"]["scipy"] = "0.1"
    assert check_record(written(tmp_path), record)
    record["versions"]["torch"] = "0.1"
    with pytest.raises(InputError, match=r"with other versions: it has torch .*, this is .0\.1"):
        check_record(tmp_path, record)


def test_the_message_ends_where_two_records_differ(tmp_path):
    record = record_of(
        describe(network()), DATA | {"options": {"split": "val", "text": ""}}, plan()
    )
    other = DATA | {"options": {"split": "test", "text": ""}}
    write_record(tmp_path, record)
    with pytest.raises(InputError, match='it has options split "val", this is "test"'):
        check_record(tmp_path, record_of(describe(network()), other, plan()))


class Processor:
    """What a preprocessor says of itself."""

    def __init__(self, **settings):
        self.image_mean, self.image_std = [0.5] * 3, [0.5] * 3
        self.settings = settings

    def to_dict(self):
        return {"size": 224, "_name_or_path": object(), **self.settings}


def test_how_inputs_are_prepared_counts(tmp_path):
    def record(**settings):
        model = replace(describe(network()), processor=Processor(**settings))
        return record_of(model, DATA, plan())

    write_record(tmp_path, record())
    assert check_record(tmp_path, record())
    with pytest.raises(InputError, match="other model: it has preparation"):
        check_record(tmp_path, record(size=256))


@pytest.mark.parametrize("change", [{"num_attention_heads": 4}, {"hidden_act": "relu"}])
def test_the_config_counts(tmp_path, change):
    known = {"num_attention_heads": 2, "hidden_act": "gelu", "hidden_size": 16}

    def record(settings):
        torch.manual_seed(0)
        return record_of(describe(ViTModel(ViTConfig(**settings))), DATA, plan())

    write_record(tmp_path, record(known))
    assert check_record(tmp_path, record(known))
    with pytest.raises(InputError, match="other model: it has config"):
        check_record(tmp_path, record(known | change))


def test_activations_of_a_network_without_config_count():
    assert config_of(nn.Sequential(nn.ReLU())) != config_of(nn.Sequential(nn.GELU()))
    assert config_of(network()) == config_of(network())


def test_the_record_holds_every_option_with_its_value(tmp_path):
    record = read_record(written(tmp_path))
    (method,), (metric,) = record["methods"], record["metrics"]
    assert method["options"]["start_layer"] == 1
    assert metric["options"] == {
        "preset": "mif", "source": "", "fill": "", "measure": "", "unit": "",
    }  # fmt: skip
    assert record["data"] == DATA
    assert (record["model"]["dtype"], record["model"]["device"]) == ("float32", "cpu")
    assert record["model"]["weights"] == weights_of(network())


def test_every_weight_of_a_small_network_counts():
    known = weights_of(network())
    assert known == weights_of(network())
    others = [weights_of(changed(place, network())) for place in range(10)]
    assert len({known, *others}) == 11
    turned = network()
    turned[0].weight = nn.Parameter(turned[0].weight.detach().view(3, 5))
    assert weights_of(turned) != known


WHOLE = relmap.Example(
    "1", text="a cat", label=1, answers={"cat": 1.0}, captions=("a cat", "cat"), words=((2, 5),)
)


@pytest.mark.parametrize(
    "change",
    [
        {"name": "2"},
        {"text": "a dog"},
        {"label": 2},
        {"answers": {"cat": 0.5}},
        {"captions": ("a cat",)},
        {"words": ((0, 1),)},
        {"image": b"GIF89a"},
        {"image": b"GIF87a"},
        {"image": Image.new("RGB", (4, 3))},
        {"image": Image.new("RGB", (3, 4))},
        {"image": Image.new("RGB", (4, 3), "red")},
        {"image": torch.zeros(3, 4, 3)},
        {"image": np.zeros((3, 4, 3), np.uint8)},
        {"about": {"evidence": [1]}},
        {"about": {"place": {(1, 2): torch.ones(2)}}},
        {"about": {"place": {(1, 2): torch.zeros(2)}}},
        {"mask": lambda: torch.zeros(3, 3, dtype=torch.bool)},
        {"mask": lambda: torch.ones(3, 3, dtype=torch.bool)},
        {"regions": lambda: {1: torch.ones(3, 3, dtype=torch.bool)}},
        {"mask": lambda: {}["no"]},
    ],
)
def test_whatever_is_said_of_an_example_is_in_the_fingerprint(change):
    def fingerprint(example):
        found = Fingerprint()
        found.add(example)
        return found.hexdigest()

    others = [WHOLE, replace(WHOLE, image=Image.new("RGB", (4, 3), "blue"))]
    assert fingerprint(replace(WHOLE, **change)) not in map(fingerprint, others)
    assert fingerprint(replace(WHOLE, **change)) == fingerprint(replace(WHOLE, **change))


@pytest.mark.parametrize("kind", ["file", "array", "tensor", "arguments"])
def test_other_pictures_have_another_fingerprint(tmp_path, kind):
    def fingerprint(seed):
        generator = np.random.default_rng(seed)
        picture = generator.integers(0, 256, (4 + 4 * seed, 6, 3), dtype=np.uint8)
        made = {
            "file": lambda: {"image": tmp_path / "1.bmp"},
            "array": lambda: {"image": picture},
            "tensor": lambda: {"image": torch.from_numpy(picture)},
            "arguments": lambda: {"arguments": {"x": torch.from_numpy(picture)}},
        }
        Image.fromarray(picture).save(tmp_path / "1.bmp")
        found = Fingerprint()
        found.add(relmap.Example("1", **made[kind]()))
        return found.hexdigest()

    assert fingerprint(0) == fingerprint(0) != fingerprint(1)


def test_a_picture_that_cannot_be_decoded_is_left_to_who_opens_it(tmp_path):
    Image.new("RGB", (64, 64), "red").save(tmp_path / "1.png")
    content = (tmp_path / "1.png").read_bytes()
    (tmp_path / "1.png").write_bytes(content[: len(content) // 2])
    found = Fingerprint()
    with Image.open(tmp_path / "1.png") as picture:
        found.add(relmap.Example("1", image=picture))
    assert found.number == 1


@pytest.mark.parametrize(
    ("limit", "sizes"), [(None, [3, 3, 1]), (6, [3, 3]), (5, [3, 2]), (1, [1]), (20, [3, 3, 1])]
)
def test_batches_are_the_first_examples_in_order(limit, sizes):
    examples = [relmap.Example(str(at)) for at in range(7)]
    found = list(numbered_batches(read_examples(iter(examples), None, {}), 3, limit))
    assert [len(batch) for batch in found] == sizes
    numbers = [(index, one.name) for batch in found for index, one in batch]
    assert numbers == [(at, str(at)) for at in range(sum(sizes))]


@pytest.mark.parametrize("kind", ["image", "files"])
def test_files_count_by_their_contents_and_are_read_once(tmp_path, kind, monkeypatch):
    file = tmp_path / "1.png"
    opened = []
    original = Path.open
    monkeypatch.setattr(
        Path,
        "open",
        lambda path, *more, **named: opened.append(path) or original(path, *more, **named),
    )

    def fingerprint(content, at=1):
        file.write_bytes(content)
        os.utime(file, ns=(at, at))
        found = Fingerprint()
        for name in "12":
            found.add(relmap.Example(name, **{kind: file if kind == "image" else (file,)}))
        return found.hexdigest()

    before = fingerprint(b"abc")
    assert opened.count(file) == 1 + 1  # written and read
    assert fingerprint(b"abd") != before  # of one size, changed at one time
    assert fingerprint(b"abc", at=2) == before
    missing = Fingerprint()
    missing.add(relmap.Example("1", image=tmp_path / ("x" * 300)))
    assert missing.number == 1


def test_equal_names_and_equal_examples_are_said():
    found = Fingerprint()
    for name, text in (("a", "1"), ("b", "2"), ("a", "3"), ("c", "1"), ("d", "1")):
        found.add(relmap.Example(name, text=text))
    assert found.notes() == [
        "1 of 5 names belong to several examples: a",
        "2 of 5 examples went in before: c is a",
    ]
