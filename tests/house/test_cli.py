"""The command line: arguments reach the library, names come out whole, errors are one line."""

import importlib
import json
import subprocess
import sys
from types import ModuleType

import pytest
import torch
from typer.testing import CliRunner

import relmap
from relmap import cli
from relmap.errors import InputError, TraceError
from relmap.evaluation.engine import run_here
from relmap.methods import METHODS
from relmap.registry import Entry, Registry
from relmap.result.attribution import Attribution, Layout

LONG = "a-method-whose-name-is-longer-than-" + "-".join(["any"] * 20) + "-terminal"


def result(batch: int = 1) -> Attribution:
    special = torch.tensor([[True, False, False, False]]).expand(batch, -1)
    none = torch.zeros_like(special)
    layout = {
        "pixel_values": Layout(
            ("pixel_values",), "image", special, none, None, (1, 3), torch.arange(1, 4)
        ),
        "input_ids": Layout(
            ("input_ids",), "text", special, none, (("[CLS]", "[UNK]", "play", "##ing"),) * batch
        ),
    }
    scores = {
        "pixel_values": torch.tensor([[9.0, 0.1, 0.3, 0.2]]).repeat(batch, 1),
        "input_ids": torch.tensor([[9.0, 0.5, 0.25, 0.75]]).repeat(batch, 1),
    }
    return Attribution(
        scores, layout, ("tench (0)",) * batch, ("cat [red] (3)",) * batch, {"method": "wra"}
    )


@pytest.fixture
def calls(monkeypatch):
    """What the command line passes to the library, whose functions answer at once here."""
    seen = {}

    def load(name, **settings):
        seen["load"] = (name, settings)
        print("Loading weights...")  # libraries do
        return "the model"

    def explain(model, **settings):
        seen["explain"] = (model, settings)
        return result()

    monkeypatch.setattr(relmap, "load", load, raising=False)
    monkeypatch.setattr(relmap, "explain", explain, raising=False)
    return seen


def run(*arguments: object):
    return CliRunner().invoke(cli.program(), [str(argument) for argument in arguments])


def test_every_argument_reaches_the_library(calls):
    outcome = run(
        *("explain", "--model", "folder/tiny", "--image", "a.jpg", "--text", "what?"),
        *("--audio", "a.wav", "--method", "wra", "--target", "281", "--backward", "libra"),
        *("--option", "start_layer=1", "--option", "pool=row", "--option", "normalize=False"),
        *("--device", "cpu", "--dtype", "bfloat16", "--trust-remote-code"),
    )
    assert outcome.exit_code == 0, outcome.output
    assert calls["load"] == (
        "folder/tiny",
        {"device": "cpu", "dtype": "bfloat16", "trust_remote_code": True},
    )
    model, settings = calls["explain"]
    assert model == "the model"
    assert settings == {
        "image": "a.jpg",
        "text": "what?",
        "audio": "a.wav",
        "method": "wra",
        "target": 281,
        "backward": "libra",
        "start_layer": 1,
        "pool": "row",
        "normalize": False,
    }


def test_what_is_not_given_is_left_to_the_library(calls):
    assert run("explain", "--model", "tiny", "--text", "hello").exit_code == 0
    assert calls["explain"][1] == {"text": "hello", "target": None}
    assert calls["load"][1] == {"device": None, "dtype": None, "trust_remote_code": False}


@pytest.mark.parametrize(
    ("given", "target"), [("281", 281), ("-1", -1), ("tabby cat", "tabby cat"), ("3d", "3d")]
)
def test_a_target_is_a_number_or_a_label(calls, given, target):
    assert run("explain", "--model", "m", "--text", "t", "--target", given).exit_code == 0
    assert calls["explain"][1]["target"] == target


def test_the_report_names_prediction_target_and_top_tokens(calls):
    output = run("explain", "--model", "m", "--text", "t", "--top", "2").output
    assert "cat [red] (3)" in output
    assert "tench (0)" in output
    assert "row 0, column 1" in output
    assert "row 0, column 0" not in output
    rows = [line for line in output.splitlines() if "│" in line]
    assert any("ing" in row and "0.75" in row for row in rows)
    assert any("[UNK]" in row for row in rows)
    assert "CLS" not in output
    assert "##" not in output


def test_several_examples_are_numbered(calls, monkeypatch):
    monkeypatch.setattr(relmap, "explain", lambda *given, **settings: result(2))
    output = run("explain", "--model", "m", "--text", "t").output
    assert "example 0" in output
    assert "example 1" in output


def test_json_is_all_that_stdout_gets(calls, tmp_path):
    outcome = run(
        "explain", "--model", "m", "--text", "t", "--json", "--output", tmp_path / "a.safetensors"
    )
    assert outcome.exit_code == 0
    example = json.loads(outcome.stdout)["examples"][0]
    assert example["sources"]["input_ids"]["tokens"][3]["score"] == 0.75
    assert "Loading weights" in outcome.stderr
    assert len(Attribution.load(tmp_path / "a.safetensors")) == 1


@pytest.mark.parametrize("ending", ["png", "safetensors", "json"])
def test_output_is_written_by_ending(calls, tmp_path, ending):
    if ending == "png":
        pytest.importorskip("matplotlib")
    outcome = run("explain", "--model", "m", "--text", "t", "--output", tmp_path / f"a.{ending}")
    assert outcome.exit_code == 0
    assert f"a.{ending}" in outcome.output
    assert (tmp_path / f"a.{ending}").stat().st_size > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--image", "a.jpg", "--option", "start_layer"], "name=value"),
        (["--image", "a.jpg", "--option", "method=wra"], "use --method"),
        (["--image", "a.jpg", "--output", "a.gif"], "must end in one of"),
        (["--image", "a.jpg", "--output", "missing/a.png"], "there is no folder"),
        ([], "give --image, --text or --audio"),
    ],
)
def test_wrong_arguments_are_refused_before_any_work(calls, arguments, message):
    outcome = run("explain", "--model", "m", *arguments)
    assert outcome.exit_code == 2
    assert outcome.stderr.startswith("error: ")
    assert message in outcome.stderr
    assert calls == {}


@pytest.mark.parametrize(
    "error", [InputError("no method 'wrap':\ndid you mean 'wra'?"), TraceError("[hidden] kernel")]
)
def test_a_refusal_is_one_line_and_code_2(calls, monkeypatch, error):
    def refuse(*given, **settings):
        raise error

    monkeypatch.setattr(relmap, "explain", refuse)
    outcome = run("explain", "--model", "m", "--text", "t")
    assert outcome.exit_code == 2
    assert outcome.stdout == "Loading weights...\n"
    assert outcome.stderr == f"error: {' '.join(str(error).split())}\n"


def test_a_bug_keeps_its_traceback(calls, monkeypatch):
    monkeypatch.setattr(relmap, "load", lambda *given, **settings: 1 / 0)
    assert isinstance(run("explain", "--model", "m", "--text", "t").exception, ZeroDivisionError)


@pytest.fixture
def room(monkeypatch):
    """A room of methods with one very long name."""
    module = ModuleType("relmap.methods")
    module.METHODS = Registry("method", "relmap.methods", Entry)
    monkeypatch.setitem(sys.modules, "relmap.methods", module)

    @module.METHODS.register(LONG, reference="A. Author, Journal of Long Names, 2020")
    def long():
        """A sentence that together with the name is wider than every terminal there is."""

    @module.METHODS.register("wra")
    def short():
        """[Short] sentence."""

    return module


def test_lists_print_names_whole_one_per_line(room):
    lines = run("list", "methods").stdout.splitlines()
    assert [line.split()[0] for line in lines] == [LONG, "wra"]
    assert lines[0].endswith("there is. [A. Author, Journal of Long Names, 2020]")
    assert lines[1].endswith("  [Short] sentence.")


def test_an_unknown_list_names_those_there_are():
    outcome = run("list", "colours")
    assert outcome.exit_code == 2
    assert "methods, models, targets" in outcome.stderr


def test_lists_are_plain_in_a_narrow_pipe():
    command = [sys.executable, "-c", "from relmap.cli import main; main()", "list", "metrics"]
    environment = {"COLUMNS": "20", "PATH": "", "TERM": "xterm-256color"}
    listed = subprocess.run(command, capture_output=True, check=True, text=True, env=environment)
    names = importlib.import_module("relmap.metrics").METRICS.names()
    assert [line.split()[0] for line in listed.stdout.splitlines()] == names
    assert "\x1b" not in listed.stdout


def test_the_version_and_the_help():
    assert run("--version").stdout == f"relmap {relmap.__version__}\n"
    assert "explain" in run("--help").stdout


def test_every_argument_of_an_evaluation_reaches_the_library(calls, monkeypatch, tmp_path):
    from relmap import evaluation
    from relmap.evaluation import ray_engine
    from relmap.evaluation.tables import Measurements

    def run_evaluation(model, source, plan, output, engine, progress):
        calls["run"] = (model, source, plan, output, engine)
        return evaluation.Evaluation([], Measurements(), output, plan)

    monkeypatch.setattr(evaluation, "run", run_evaluation)
    monkeypatch.setattr(ray_engine, "on_ray", lambda *given, **more: (given, more))
    outcome = run(
        *("evaluate", "--model", "folder/tiny", "--data", "cats", "--format", "image-folder"),
        *("--method", "genatt:start_layer=1", "--method", "random", "--metric", "energy"),
        *("--metric", "perturbation:preset=mif", "--output", tmp_path / "out"),
        *("--data-option", "split=val", "--data-option", "number=3", "--target", "label"),
        *("--limit", "7", "--batch-size", "5", "--reference", "random", "--seed", "11"),
        *("--engine", "ray", "--address", "auto", "--workers", "6"),
        *("--device", "cpu", "--dtype", "bfloat16"),
    )
    assert calls["load"] == ("folder/tiny", {"device": "cpu", "dtype": "bfloat16"}), outcome.output
    model, source, plan, output, engine = calls["run"]
    assert (model, output) == ("the model", tmp_path / "out")
    assert (source.data, source.form) == ("cats", "image-folder")
    assert source.options == {"split": "val", "number": 3}
    assert [str(one) for one in plan.methods] == ["genatt:start_layer=1", "random"]
    assert [str(one) for one in plan.metrics] == ["energy", "perturbation:preset=mif"]
    assert plan.settings == evaluation.Settings("label", 5, 7, 11, "random")
    assert engine == (("auto",), {"workers": 6})
    run(
        *("evaluate", "--model", "tiny", "--data", "cats", "--format", "image-folder"),
        *("--method", "all", "--metric", "energy", "--output", tmp_path),
    )
    _, _, plan, _, engine = calls["run"]
    assert [str(one) for one in plan.methods] == ["genatt:backward=libra", *METHODS.names()]
    assert plan.settings == evaluation.Settings()
    assert engine is run_here
