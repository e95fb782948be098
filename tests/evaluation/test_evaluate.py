"""An evaluation from end to end: rows that survive a kill, one bad sample, the command line."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import folders as tiny_folders

import relmap
from relmap.errors import InputError
from relmap.evaluation import DataSource, Plan, Settings, read_method, read_metric, run
from relmap.evaluation.engine import Part, run_here
from relmap.evaluation.ray_engine import Worker
from relmap.evaluation.rows import parts, read_part

METRIC = "perturbation:fill=black,measure=probability"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_folders.save(tmp_path_factory.mktemp("model"), *tiny_folders.vit())


def folder_of_images(path, count, masks=False):
    (path / "images").mkdir(parents=True)
    entries = []
    for at in range(count):
        tiny_folders.make_image(at).save(path / "images" / f"{at:03d}.png")
        entries.append({"image": f"images/{at:03d}.png", "label": at % 2})
        if masks:
            inside = np.zeros((20, 24), np.uint8)
            inside[: 5 + at, :12] = 255
            Image.fromarray(inside).save(path / "images" / f"mask{at:03d}.png")
            entries[-1]["mask"] = f"images/mask{at:03d}.png"
    (path / "manifest.json").write_text(json.dumps(entries))
    return path


def tables(folder):
    return {
        name: (folder / name).read_bytes()
        for name in ("table.csv", "table.md", "table.tex", "protocol.json")
    }


def command(model, data, output, *more):
    return [
        sys.executable, "-m", "relmap", "evaluate", "--model", str(model), "--data", str(data),
        "--format", "image-folder", "--method", "genatt", "--method", "random", "--metric", METRIC,
        "--batch-size", "2", "--output", str(output), *more,
    ]  # fmt: skip


def wait_for_parts(folder, number, process, seconds=120):
    end = time.monotonic() + seconds
    while len(list(folder.glob("rows/part-*.parquet"))) < number:
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_run_that_is_killed_ends_with_the_same_tables(model, tmp_path):
    data = folder_of_images(tmp_path / "data", 200)
    subprocess.run(command(model, data, tmp_path / "whole"), check=True, capture_output=True)
    killed = subprocess.Popen(
        command(model, data, tmp_path / "killed"), stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wait_for_parts(tmp_path / "killed", 3, killed)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    done = {path.name: path.stat().st_mtime_ns for path in parts(tmp_path / "killed" / "rows")}
    assert 3 <= len(done) < 100
    assert not (tmp_path / "killed" / "table.csv").exists()
    subprocess.run(command(model, data, tmp_path / "killed"), check=True, capture_output=True)
    for path in parts(tmp_path / "killed" / "rows"):
        assert done.get(path.name, path.stat().st_mtime_ns) == path.stat().st_mtime_ns
    assert tables(tmp_path / "killed") == tables(tmp_path / "whole")


def test_workers_of_a_cluster_find_the_same_and_one_may_die(model, tmp_path):
    psutil = pytest.importorskip("psutil")
    pytest.importorskip("ray")
    data = folder_of_images(tmp_path / "data", 100)
    subprocess.run(command(model, data, tmp_path / "here"), check=True, capture_output=True)
    environment = os.environ | {"RAY_worker_niceness": "0", "OMP_NUM_THREADS": "1"}
    run = subprocess.Popen(
        command(model, data, tmp_path / "ray", "--engine", "ray", "--workers", "2"),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment,
    )  # fmt: skip
    wait_for_parts(tmp_path / "ray", 1, run)
    workers = [
        one for one in psutil.Process(run.pid).children(recursive=True)
        if "MapBatches(Worker)" in " ".join(_command_line(psutil, one))
    ]  # fmt: skip
    assert workers, "no worker was found to kill"
    workers[0].kill()
    output, _ = run.communicate(timeout=240)
    assert run.returncode == 0, output
    here, there = (list(_rows(tmp_path / name)) for name in ("here", "ray"))
    assert [row[:-1] for row in here] == [row[:-1] for row in there]  # in the same order
    assert [row[-1] for row in there] == pytest.approx([row[-1] for row in here], abs=1e-6)


def test_a_worker_hands_back_what_this_process_would_write(model):
    examples = [relmap.Example(str(at), image=tiny_folders.make_image(at)) for at in range(3)]
    plan = Plan((read_method("genatt"), read_method("random")), (read_metric(METRIC),))
    part, loaded = Part(5, 3, list(enumerate(examples, start=15))), relmap.load(str(model))
    (here,) = run_here(loaded, [part], plan)
    worker = Worker(pickle.loads(pickle.dumps(loaded)), plan, torch.get_num_threads())
    (content,) = worker({"part": [pickle.dumps(part)]})["part"]
    there = pickle.loads(content)
    assert (there.number, there.examples, there.numbered) == (5, 3, ())
    assert {row.index for row in there.rows} == {15, 16, 17}
    assert there == here


def _command_line(psutil, process):
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _rows(folder):
    for path in parts(folder / "rows"):
        for row in read_part(path):
            yield row.sample, row.method, row.metric, row.quantity, row.step, row.value


def test_one_bad_sample_is_recorded_and_the_others_go_on(model, tmp_path):
    data = folder_of_images(tmp_path / "data", 5)
    (data / "images" / "003.png").write_bytes(b"no picture")
    found = relmap.evaluate(
        str(model), DataSource(data, "image-folder"), ["genatt"], [METRIC], output=tmp_path / "out"
    )
    (cell, _) = [cell for cell in found.cells if cell.quantity == "positive"] + [None]
    assert cell.examples == 4
    assert list(found.measurements.lost) == ["003"]
    assert "003.png" in found.measurements.lost["003"]
    assert len(list(read_part(parts(tmp_path / "out" / "rows")[0]))) > 1


def test_an_example_that_no_method_can_explain_is_an_error_of_its_own(tmp_path):
    network = tiny_folders.vit()[0].eval()
    sizes = [(3, 16, 16), (3, 16, 16), (3, 16, 16)]
    images = [torch.rand(size) for size in sizes]
    images[1][0, 0, 0] = torch.nan  # the model's answer is not finite for this one
    examples = [relmap.Example(str(at), image=image) for at, image in enumerate(images)]
    metric = "perturbation:fill=image-mean,measure=agreement"
    found = relmap.evaluate(network, examples, ["genatt", "rollout"], [metric])
    positive = {cell.method: cell for cell in found.cells if cell.quantity == "positive"}
    assert [positive[name].examples for name in ("genatt", "rollout")] == [2, 2]
    assert [positive[name].errors for name in ("genatt", "rollout")] == [1, 1]
    assert any("NaN or infinite" in error for error in found.measurements.errors["genatt", "-"])


def test_a_folder_of_another_evaluation_is_refused(model, tmp_path):
    data = DataSource(folder_of_images(tmp_path / "data", 3), "image-folder")
    relmap.evaluate(str(model), data, ["genatt"], [METRIC], output=tmp_path / "out")
    again = relmap.evaluate(
        str(model), data, ["genatt"], [METRIC], output=tmp_path / "out",
        settings=Settings(seed=4),
    )  # fmt: skip
    assert again.cells  # the bootstrap may be drawn anew
    with pytest.raises(InputError, match="other methods"):
        relmap.evaluate(str(model), data, ["rollout"], [METRIC], output=tmp_path / "out")
    with pytest.raises(InputError, match="other settings"):
        relmap.evaluate(
            str(model), data, ["genatt"], [METRIC], output=tmp_path / "out",
            settings=Settings(batch_size=1),
        )  # fmt: skip


def test_data_that_changed_are_not_mixed_with_what_was_measured(model, tmp_path):
    folder = folder_of_images(tmp_path / "data", 4)
    data = DataSource(folder, "image-folder")
    relmap.evaluate(str(model), data, ["genatt"], [METRIC], output=tmp_path / "out")
    tiny_folders.make_image(9, (40, 48)).save(folder / "images" / "001.png")
    with pytest.raises(InputError, match="other data"):
        relmap.evaluate(str(model), data, ["genatt"], [METRIC], output=tmp_path / "out")


def test_a_stream_is_read_once_and_resumes(model, tmp_path):
    def pictures(seed=0):
        for at in range(5):
            yield relmap.Example(str(at), image=tiny_folders.make_image(at), label=seed)

    for _ in range(2):
        found = relmap.evaluate(
            str(model), pictures(), ["genatt"], [METRIC], output=tmp_path / "out",
            settings=Settings(batch_size=2),
        )  # fmt: skip
    assert found.cells[0].examples == 5
    with pytest.raises(InputError, match="other data"):
        relmap.evaluate(
            str(model), pictures(1), ["genatt"], [METRIC], output=tmp_path / "out",
            settings=Settings(batch_size=2),
        )  # fmt: skip


def test_a_reference_that_is_not_there_is_refused(model):
    with pytest.raises(InputError, match="none of the methods"):
        relmap.evaluate(
            str(model), [], ["genatt"], [METRIC], settings=Settings(reference="rollout")
        )


def test_the_record_says_what_the_numbers_depend_on(model, tmp_path):
    data = folder_of_images(tmp_path / "data", 3)
    relmap.evaluate(
        str(model), DataSource(data, "image-folder"), ["genatt:backward=libra"], [METRIC],
        output=tmp_path / "out",
    )  # fmt: skip
    record = json.loads((tmp_path / "out" / "protocol.json").read_text())
    (method,) = record["methods"]
    assert method["backward"] == "libra"
    assert method["options"]["start_layer"] == 0
    assert record["metrics"][0]["options"]["preset"] == "wra-image"
    assert torch.__version__.startswith(record["versions"]["torch"].partition("+")[0])
    assert record["model"]["name"] == Path(model).name
    assert str(tmp_path) not in json.dumps(record)
    assert record["data"]["examples"] == 3
    before = record["data"]["fingerprint"]
    tiny_folders.make_image(9, (40, 48)).save(data / "images" / "001.png")
    relmap.evaluate(
        str(model), DataSource(data, "image-folder"), ["genatt:backward=libra"], [METRIC],
        output=tmp_path / "other",
    )  # fmt: skip
    other = json.loads((tmp_path / "other" / "protocol.json").read_text())
    assert other["data"]["fingerprint"] != before


def test_a_run_that_measured_nothing_fails(model, tmp_path):
    data = folder_of_images(tmp_path / "data", 5)
    for at in range(5):
        (data / "images" / f"{at:03d}.png").write_bytes(b"no picture")
    ended = subprocess.run(
        command(model, data, tmp_path / "out"), capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    assert ended.stderr.count("left out: 00") == 3
    assert "left out: 2 more examples" in ended.stderr
    assert "nothing could be measured" in ended.stderr


def small_run(model, folder, engine=run_here, **settings):
    """Seven pictures in batches of two."""
    examples = [relmap.Example(str(at), image=tiny_folders.make_image(at)) for at in range(7)]
    plan = Plan(
        (read_method("random"),), (read_metric(METRIC),), Settings(batch_size=2, **settings)
    )
    return run(str(model), DataSource(examples), plan, folder, engine)


def test_only_the_batches_that_are_missing_are_judged_again(model, tmp_path):
    small_run(model, tmp_path)
    whole, written = tables(tmp_path), parts(tmp_path / "rows")
    assert len(written) == 4
    for lost in (0, 2, 3):
        written[lost].unlink()
    judged = []

    def counting(model, waiting, plan):
        for part in run_here(model, waiting, plan):
            judged.append(part.number)
            yield part

    small_run(model, tmp_path, counting)
    assert judged == [0, 2, 3]
    assert tables(tmp_path) == whole


def test_the_record_is_there_before_the_first_number(model, tmp_path):

    def stopped(model, waiting, plan):
        assert (tmp_path / "protocol.json").is_file()
        raise KeyboardInterrupt
        yield

    with pytest.raises(KeyboardInterrupt):
        small_run(model, tmp_path, stopped)
    with pytest.raises(InputError, match="other settings"):
        small_run(model, tmp_path, target="label")


def test_a_number_is_asked_for_by_method_metric_and_quantity(model):
    metrics = ["perturbation:fill=black,measure=logit", "perturbation:fill=white,measure=logit"]
    examples = [relmap.Example("1", image=tiny_folders.make_image(1))]
    found = relmap.evaluate(str(model), examples, ["random", "genatt"], metrics)
    assert len(found.cells) == 8
    for cell in found.cells:
        assert found.value(cell.method, cell.metric, cell.quantity) == cell.value
    assert len({cell.value for cell in found.cells}) == 8
    assert found.value("genatt", metrics[0], "srg") is None
    assert found.value("rollout", metrics[0]) is None


@pytest.mark.parametrize("limit", [None, 3, 9])
def test_progress_knows_how_many_there_are(model, tmp_path, limit):
    told = []
    settings = Settings(batch_size=2, limit=limit)
    plan = Plan((read_method("random"),), (read_metric(METRIC),), settings)
    data = folder_of_images(tmp_path / "data", 5)
    for _ in range(2):  # the second finds everything there
        run(
            str(model), DataSource(data, "image-folder"), plan, tmp_path / "out",
            progress=lambda done, total: told.append((done, total)),
        )  # fmt: skip
    total = min(limit or 5, 5)
    assert {one for _, one in told} == {total}
    assert sum(done for done, _ in told) == 2 * total


def test_masks_are_judged_in_the_geometry_of_the_model(model, tmp_path):
    data = DataSource(folder_of_images(tmp_path / "data", 4, masks=True), "segmentation-folder")
    found = relmap.evaluate(
        str(model),
        data,
        ["genatt", "centre-blob"],
        ["energy", "pointing-game"],
        settings=Settings(batch_size=3),
    )
    from relmap.data import DATA
    from relmap.data.geometry import masks_as_seen
    from relmap.metrics.energy import energy

    loaded = relmap.load(str(model))
    values = []
    for sample in DATA.get("segmentation-folder").function(data.data):
        view = relmap.explain(loaded, image=str(sample.image), method="genatt").image
        seen = masks_as_seen([sample.open_mask()], loaded.processor)
        values.append(energy(view.scores, seen).item())
    assert found.value("genatt", "energy") == pytest.approx(np.mean(values), abs=1e-5)


def test_curves_are_drawn_and_the_screen_shows_the_tables(model, tmp_path):
    data = folder_of_images(tmp_path / "data", 4)
    shown = subprocess.run(
        command(model, data, tmp_path / "out", "--target", "label"), check=True,
        capture_output=True, text=True,
    )  # fmt: skip
    assert "| genatt |" in shown.stdout
    assert "positive ↓" in shown.stdout
    names = {path.suffix for path in (tmp_path / "out").glob("*positive-curve*")}
    assert names == {".png", ".svg"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--metric", "perturbaton"], "Did you mean 'perturbation'"),
        (["--method", "genatt:layer=1"], "start_layer"),
        (["--data-option", "split=val"], "has no option 'split'"),
        (["--target", "mine"], "'predicted' or 'label'"),
        (["--engine", "cloud"], "local or ray"),
    ],
)
def test_the_command_line_says_what_is_wrong(model, tmp_path, options, said):
    from typer.testing import CliRunner

    from relmap.cli import app

    data = folder_of_images(tmp_path / "data", 1)
    result = CliRunner().invoke(app, command(model, data, tmp_path / "out", *options)[3:])
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.split())
