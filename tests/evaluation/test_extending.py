"""A finished run is extended: only what is new is computed, the tables are those of a fresh one."""

import copy
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import folders as tiny_folders

import relmap
from relmap.errors import InputError
from relmap.evaluation import DataSource, Plan, Settings, read_method, read_metric, run
from relmap.evaluation.engine import run_here
from relmap.evaluation.rows import parts

PROBABILITY = "perturbation:fill=black,measure=probability"
LOGIT = "perturbation:fill=black,measure=logit"
MIF = "perturbation:preset=mif,fill=image-mean"
METHODS = ("genatt", "random", "centre-blob")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return relmap.load(
        str(tiny_folders.save(tmp_path_factory.mktemp("model"), *tiny_folders.vit()))
    )


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    entries = []
    for at in range(7):
        tiny_folders.make_image(at).save(folder / "images" / f"{at}.png")
        inside = np.zeros((20, 24), np.uint8)
        inside[: 5 + at, :12] = 255
        Image.fromarray(inside).save(folder / "images" / f"mask{at}.png")
        entries.append(
            {"image": f"images/{at}.png", "label": at % 2, "mask": f"images/mask{at}.png"}
        )
    (folder / "manifest.json").write_text(json.dumps(entries))
    return folder


@pytest.fixture
def drawn():
    """The test that looks at curves; drawing takes most of the time."""


@pytest.fixture(autouse=True)
def undrawn(request, monkeypatch):
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr("relmap.evaluation.runs._draw", lambda *_: None)


def evaluated(model, data, folder, methods, metrics, judged=None, **settings):
    """A run; `judged` takes what was computed: batch -> pairs of a method and a metric."""
    plan = Plan(
        tuple(map(read_method, methods)), tuple(map(read_metric, metrics)),
        Settings(batch_size=2, **settings),
    )  # fmt: skip

    def engine(model, waiting, plan):
        for part in run_here(model, waiting, plan):
            if judged is not None:
                judged[part.number] = {
                    (row.method, row.metric_settings or row.metric) for row in part.rows
                }
            yield part

    source = data if isinstance(data, DataSource) else DataSource(str(data), "segmentation-folder")
    return run(model, source, plan, folder, engine)


def written(folder):
    """Everything in a folder of an evaluation, by name."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*")) if path.is_file()
    }  # fmt: skip


def same(one, other):
    one, other = written(one), written(other)
    assert one.keys() == other.keys()
    assert [name for name in one if one[name] != other[name]] == []


def test_the_curves_of_an_extended_run_are_a_fresh_runs(drawn, model, data, tmp_path):
    evaluated(model, data, tmp_path / "whole", ["genatt", "random"], [MIF])
    evaluated(model, data, tmp_path / "steps", ["random"], [MIF], limit=4)
    evaluated(model, data, tmp_path / "steps", ["genatt", "random"], [MIF])
    assert len(list((tmp_path / "whole").glob("*curve.svg"))) == 2
    same(tmp_path / "steps", tmp_path / "whole")


def test_methods_and_metrics_are_added(model, data, tmp_path):
    whole = tmp_path / "whole"
    evaluated(model, data, whole, METHODS, [PROBABILITY, "energy", LOGIT, MIF])
    steps = tmp_path / "steps"
    evaluated(model, data, steps, ["random"], [LOGIT])
    judged = {}
    evaluated(model, data, steps, ["random", "genatt"], ["energy", LOGIT], judged)
    here = {("random", "energy"), ("genatt", "energy"), ("genatt", "fill=black,measure=logit")}
    assert judged == dict.fromkeys(range(4), here)
    evaluated(model, data, steps, METHODS, [PROBABILITY, "energy", LOGIT, MIF], judged)
    assert ("random", "energy") not in judged[0]
    same(steps, whole)
    again = {}
    evaluated(model, data, steps, METHODS, [PROBABILITY, "energy", LOGIT, MIF], again)
    assert again == {}


def test_examples_are_added(model, data, tmp_path):
    evaluated(model, data, tmp_path / "whole", ["genatt"], [PROBABILITY, "energy"])
    judged = {}
    for limit in (3, 6, None):
        folder = tmp_path / "steps"
        evaluated(model, data, folder, ["genatt"], [PROBABILITY, "energy"], judged, limit=limit)
        judged[f"until {limit}"] = sorted(one for one in judged if isinstance(one, int))
        judged = {key: value for key, value in judged.items() if not isinstance(key, int)}
    assert judged == {"until 3": [0, 1], "until 6": [1, 2], "until None": [3]}
    same(tmp_path / "steps", tmp_path / "whole")


def test_what_failed_is_not_counted_twice(model, data, tmp_path):
    (data / "images" / "mask3.png").write_bytes(b"no mask")
    (data / "images" / "4.png").write_bytes(b"no picture")
    entries = json.loads((data / "manifest.json").read_text())
    entries[5]["label"] = 99
    (data / "manifest.json").write_text(json.dumps(entries))
    methods, metrics = ["genatt", "random"], ["energy", LOGIT, "pointing-game"]
    whole = evaluated(model, data, tmp_path / "whole", methods, metrics, target="label")
    evaluated(model, data, tmp_path / "steps", ["random"], ["energy"], target="label")
    evaluated(model, data, tmp_path / "steps", methods, ["energy", LOGIT], target="label")
    found = evaluated(model, data, tmp_path / "steps", methods, metrics, target="label")
    assert found.measurements.errors == whole.measurements.errors
    assert whole.measurements.errors["genatt", "-"], "the class 99"
    assert sum(whole.measurements.errors["genatt", "energy"].values()) == 1, "the mask"
    assert list(found.measurements.lost) == ["4"]
    same(tmp_path / "steps", tmp_path / "whole")


def test_an_extension_that_is_killed_goes_on(model, data, tmp_path):
    evaluated(model, data, tmp_path / "whole", ["genatt", "random"], [LOGIT])
    evaluated(model, data, tmp_path / "steps", ["genatt"], [LOGIT])

    def killed(model, waiting, plan):
        yield next(run_here(model, waiting, plan))
        raise KeyboardInterrupt

    plan = Plan(
        (read_method("genatt"), read_method("random")), (read_metric(LOGIT),),
        Settings(batch_size=2),
    )  # fmt: skip
    source = DataSource(str(data), "segmentation-folder")
    with pytest.raises(KeyboardInterrupt):
        run(model, source, plan, tmp_path / "steps", killed)
    judged = {}
    evaluated(model, data, tmp_path / "steps", ["genatt", "random"], [LOGIT], judged)
    assert sorted(judged) == [1, 2, 3]
    same(tmp_path / "steps", tmp_path / "whole")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"methods": ["random"]}, "other methods: it has .*genatt"),
        ({"metrics": [LOGIT]}, "other metrics"),
        ({"limit": 3}, "it has 7 examples, this has 3"),
    ],
)
def test_less_is_refused(model, data, tmp_path, change, said):
    asked = {"methods": ["genatt", "random"], "metrics": ["energy", LOGIT]}
    evaluated(model, data, tmp_path / "out", **asked)
    with pytest.raises(InputError, match=said):
        evaluated(model, data, tmp_path / "out", **(asked | change))


def rolled(file):
    Image.fromarray(np.roll(np.asarray(Image.open(file)), 5, 1)).save(file)


def inverted(file):
    with Image.open(file) as picture:
        Image.fromarray(255 - np.asarray(picture)).save(file)


@pytest.mark.parametrize(("file", "change"), [("mask2.png", rolled), ("0.bmp", inverted)])
def test_what_is_in_the_pictures_and_masks_counts(model, data, tmp_path, file, change):
    Image.open(data / "images" / "0.png").save(data / "images" / "0.bmp")
    text = (data / "manifest.json").read_text().replace("images/0.png", "images/0.bmp")
    (data / "manifest.json").write_text(text)
    evaluated(model, data, tmp_path / "out", ["random"], ["energy"])
    size = (data / "images" / file).stat().st_size
    change(data / "images" / file)
    assert file.endswith("png") or (data / "images" / file).stat().st_size == size
    with pytest.raises(InputError, match=r"other data: it has 7 examples .*changed"):
        evaluated(model, data, tmp_path / "out", ["random"], ["energy"])


def test_a_lost_protocol_a_foreign_part_and_a_copied_one_are_found(model, data, tmp_path):
    out, other = tmp_path / "out", tmp_path / "other"
    evaluated(model, data, out, ["random"], ["energy"])
    network = copy.deepcopy(model.network)
    with torch.no_grad():
        network.classifier.weight[0, 0] += 1
    evaluated(replace(model, network=network), data, other, ["random"], ["energy"])
    kept = written(out)

    def restored():
        for name, content in kept.items():
            (out / name).write_bytes(content)

    (out / "protocol.json").unlink()
    with pytest.raises(InputError, match=r"no protocol\.json"):
        evaluated(model, data, out, ["random"], ["energy"])
    restored()
    shutil.copy(parts(other / "rows")[1], parts(out / "rows")[1])
    with pytest.raises(InputError, match="of another evaluation"):
        evaluated(model, data, out, ["random"], ["energy"])
    restored()
    shutil.copy(parts(out / "rows")[0], parts(out / "rows")[1])
    with pytest.raises(InputError, match="copied or renamed"):
        evaluated(model, data, out, ["random"], ["energy"])
    restored()
    content = bytearray(parts(out / "rows")[2].read_bytes())
    content[200] ^= 4
    parts(out / "rows")[2].write_bytes(bytes(content))
    with pytest.raises(InputError, match="its checksum is another"):
        evaluated(model, data, out, ["random"], ["energy"])
    parts(out / "rows")[2].unlink()
    judged = {}
    evaluated(model, data, out, ["random"], ["energy"], judged)
    assert list(judged) == [2]
    assert written(out) == kept


def test_a_part_of_a_batch_that_is_no_more_is_found(model, data, tmp_path):
    out = tmp_path / "out"
    examples = [replace(one, files=()) for one in _examples(7)]
    evaluated(model, DataSource(iter(examples)), out, ["random"], [LOGIT], limit=2)
    evaluated(model, DataSource(examples), tmp_path / "more", ["random"], [LOGIT])
    shutil.copy(parts(tmp_path / "more" / "rows")[3], out / "rows")
    with pytest.raises(InputError, match="of a batch that this data set has not"):
        evaluated(model, DataSource(iter(examples)), out, ["random"], [LOGIT], limit=2)


def test_a_stream_is_extended_and_its_beginning_checked(model, tmp_path):
    def stream(count, seed=0):
        yield from _examples(count, seed)

    judged = {}
    for count in (4, 6):
        evaluated(model, DataSource(stream(count)), tmp_path / "out", ["random"], [LOGIT], judged)
    assert sorted(judged) == [0, 1, 2]
    evaluated(model, DataSource(stream(6)), tmp_path / "whole", ["random"], [LOGIT])
    same(tmp_path / "out", tmp_path / "whole")
    with pytest.raises(InputError, match="of other data"):
        evaluated(model, DataSource(stream(6, seed=1)), tmp_path / "out", ["random"], [LOGIT])
    with pytest.raises(InputError, match=r"it has 6 examples, this has 4|this data set has not"):
        evaluated(model, DataSource(stream(4)), tmp_path / "out", ["random"], [LOGIT])


def _examples(count, seed=0):
    return [
        relmap.Example(str(at), image=tiny_folders.make_image(at + 10 * seed))
        for at in range(count)
    ]
