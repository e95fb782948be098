"""Training in seconds: what is learnt, resuming, several processes, controls, cards, commands."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny.training_world import write_clip, write_recipe, write_world
from transformers import TrainerCallback
from typer.testing import CliRunner

from clipmapper.model import CLIPmapperForCaptioning, CLIPmapperForQuestionAnswering
from clipmapper.training import Run, session, train_captions, train_vqa
from clipmapper.training.examples import reserve
from clipmapper.training.run import last_checkpoint
from relmap import cli
from relmap.data import DATA
from relmap.errors import InputError

pytest.importorskip("accelerate")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The data, the CLIP and the cache that all tests here share."""
    root = tmp_path_factory.mktemp("world")
    write_world(root / "tiny", {"train": 40, "val": 12, "test": 8})
    texts = [
        "what colour is it? on which side is it? is it red? green blue",
        "a square on the left",
    ]
    write_clip(root / "clip", texts)
    return root


@pytest.fixture
def run(world, tmp_path):
    recipe = write_recipe(tmp_path / "short.toml", "vqa")
    return Run(
        data=world / "tiny",
        clip=str(world / "clip"),
        mapper="b",
        recipe=str(recipe),
        output=tmp_path / "out",
        cache=world / "cache",
        device="cpu",
    )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def largest_difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max((one[name] - other[name]).abs().max().item() for name in one)


def log(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_a_run_learns_and_says_what_it_did(run, world):
    results = train_vqa(replace(run, samples=640))
    assert results["scores"]["val"]["accuracy"] > 0.4, "a guess is right in a third"
    assert results["scores"]["val"]["by_kind"].keys() == {"colour", "exists", "side"}
    entries = log(run.output)
    assert entries[-1]["step"] == 80
    assert entries[-1]["loss"] < entries[0]["loss"]
    assert {"learning_rate", "samples_per_second", "minutes"} <= entries[0].keys()
    card = (run.output / "README.md").read_text()
    for word in ("CLIPmapper-B", "A test.", "| colour |", "answer: yes/no", "seed", "torch 2"):
        assert word in card
    assert not (run.output / "checkpoints").exists()
    model = CLIPmapperForQuestionAnswering.from_pretrained(run.output)
    assert not [name for name in weights(run.output) if ".clip." in name]
    assert set(model.config.id2label.values()) == {
        "red",
        "green",
        "blue",
        "left",
        "right",
        "yes",
        "no",
    }
    assert "Accuracy: VQA accuracy as visualqa.org/evaluation defines it" in card
    again = train_vqa(replace(run, samples=640))
    assert again == results, "a finished run is not run again"
    with pytest.raises(InputError, match="another seed"):
        train_vqa(replace(run, samples=640, seed=1))


def test_captions_are_learnt_and_scored(run, tmp_path):
    recipe = write_recipe(tmp_path / "captions.toml", "captions", evaluate_every=160)
    results = train_captions(replace(run, recipe=str(recipe), mapper="a", samples=480))
    assert results["scores"]["val"]["bleu-4"] > 20
    watched = [entry["watched"] for entry in log(run.output) if "watched" in entry]
    assert len(watched) == 2
    assert watched[0].keys() == {"captions", "cider", "bleu-4", "rouge-l"}
    CLIPmapperForCaptioning.from_pretrained(run.output)
    with pytest.raises(InputError, match="captions answer no question"):
        train_captions(replace(run, recipe=str(recipe), blind="question"))


class Kill(TrainerCallback):
    """Saves at one step and dies at a later one."""

    def on_step_end(self, args, state, control, **_):
        control.should_save = state.global_step == 9
        if state.global_step == 14:
            raise KeyboardInterrupt
        return control


@pytest.mark.parametrize("mapper", ["a", "b"])
def test_a_killed_run_resumes_to_the_same_weights(run, tmp_path, monkeypatch, mapper):
    recipe = write_recipe(
        tmp_path / "dropout.toml",
        "vqa",
        samples=None,
        evaluate_every=64,
        more=(
            '[[stage]]\nsamples = 96\nkinds = ["colour"]\nwarmup_steps = 5\n'
            '[[stage]]\nsamples = 64\nschedule = "linear"\n'
        ),
    )
    recipe.write_text(
        recipe.read_text()
        .replace("samples = null\n", "")
        .replace("[model]\n", "[model]\ndropout = 0.1\n")
    )
    run = replace(run, recipe=str(recipe), mapper=mapper)
    train_vqa(replace(run, output=tmp_path / "whole"))
    make = session.make_trainer
    with monkeypatch.context() as patch:
        patch.setattr(
            session, "make_trainer", lambda *given: make(*given[:-1], [*given[-1], Kill()])
        )
        with pytest.raises(KeyboardInterrupt):
            train_vqa(run)
    assert last_checkpoint(run.output).name == "checkpoint-9"
    (run.output / "checkpoints" / "checkpoint-12").mkdir()  # killed while it was written
    results = train_vqa(run)
    assert largest_difference(weights(run.output), weights(tmp_path / "whole")) == 0
    steps = [entry["step"] for entry in log(run.output)]
    assert steps == sorted(steps)
    assert results["scores"]["val"]["questions"] == 36


def test_two_processes_train_as_one(run, tmp_path):
    """Half a batch each and gradients averaged; a caption's words count alike wherever they are."""
    tasks = {"vqa": "b", "captions": "a"}
    commands = []
    for task, mapper in tasks.items():
        recipe = write_recipe(tmp_path / f"{task}.toml", task, evaluate_every=64)
        settings = replace(
            run, recipe=str(recipe), mapper=mapper, output=tmp_path / f"{task}-alone"
        )
        (train_vqa if task == "vqa" else train_captions)(settings)
        options = {"data": run.data, "clip": run.clip, "recipe": recipe, "mapper": mapper}
        options |= {"output": tmp_path / f"{task}-both", "cache": tmp_path / "cache"}
        named = [str(part) for key, value in options.items() for part in (f"--{key}", value)]
        commands.append(["train", task, "--device", "cpu", *named])
    script = tmp_path / "both.py"  # one start of two processes for both tasks
    script.write_text(f"from relmap.cli import program\nfor one in {commands!r}:\n")
    script.write_text(script.read_text() + "    program()(one, standalone_mode=False)\n")
    launch = "-m accelerate.commands.launch --cpu --num_processes 2 --num_machines 1 "
    launch += "--mixed_precision no --dynamo_backend no --main_process_port 0"
    done = subprocess.run(
        [sys.executable, *launch.split(), str(script)],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for task in tasks:
        alone, both = tmp_path / f"{task}-alone", tmp_path / f"{task}-both"
        assert largest_difference(weights(alone), weights(both)) < 1e-5
        one, two = (json.loads((at / "results.json").read_text()) for at in (alone, both))
        assert one["scores"] == two["scores"]


@pytest.mark.parametrize("blind", ["image", "question"])
def test_a_blind_model_knows_only_what_it_sees(run, tmp_path, blind):
    results = train_vqa(replace(run, blind=blind, samples=320))
    assert "This is a control" in (run.output / "README.md").read_text()
    arguments = f"score vqa --model {run.output} --data {run.data} --split val --cache {run.cache}"
    found = CliRunner().invoke(cli.program(), f"{arguments} --submission {tmp_path / 'said.json'}")
    assert f"{100 * results['scores']['val']['accuracy']:.2f} %" in found.output
    entries = json.loads((tmp_path / "said.json").read_text())
    said = {entry["question_id"]: entry["answer"] for entry in entries}
    seen: dict[object, set[str]] = {}
    for question in DATA.get("vqa-v2").function(run.data, split="val"):
        shown = question.text if blind == "image" else question.image
        seen.setdefault(shown, set()).add(said[int(question.name)])
    assert all(len(answers) == 1 for answers in seen.values())


def test_reserved_questions_are_written_and_left_out(run, tmp_path):
    recipe = write_recipe(
        tmp_path / "reserved.toml",
        "vqa",
        data='format = "vqa-v2"\ntrain = ["train", "val"]\ntest = ["reserved"]\n'
        "reserve = 10\nreserve_seed = 5",
    )
    results = train_vqa(replace(run, recipe=str(recipe), samples=16))
    about = json.loads((run.output / "reserved.json").read_text())
    assert (about["split"], about["seed"], len(set(about["ids"]))) == ("val", 5, 10)
    val = DATA.get("vqa-v2").function(run.data, split="val")
    assert set(about["ids"]) <= {question.name for question in val}
    assert results["examples"] == 52 * 3 - 10
    assert results["scores"]["reserved"]["questions"] == 10
    kept, aside = reserve(val[::-1], 10, 5)
    assert {question.name for question in aside} == set(about["ids"]), "order does not matter"
    assert not {question.name for question in kept} & set(about["ids"])


def test_a_run_starts_from_other_weights(run, tmp_path):
    train_vqa(replace(run, output=tmp_path / "first"))
    recipe = write_recipe(tmp_path / "still.toml", "vqa", learning_rate=1e-12)
    train_vqa(
        replace(
            run, recipe=str(recipe), init=tmp_path / "first", samples=8, output=tmp_path / "next"
        )
    )
    assert largest_difference(weights(tmp_path / "first"), weights(tmp_path / "next")) < 1e-6
    (tmp_path / "answers.json").write_text(json.dumps(["yes", "no"]))
    with pytest.raises(InputError, match="it knows other answers"):
        train_vqa(
            replace(run, init=tmp_path / "first", answers=tmp_path / "answers.json", samples=8)
        )


@pytest.mark.parametrize("loss", ["binary", "cross-entropy"])
def test_the_prior_is_where_a_model_starts(run, tmp_path, loss):
    recipe = write_recipe(
        tmp_path / "prior.toml", "vqa", learning_rate=1e-12, prior=True, loss=loss
    )
    train_vqa(replace(run, recipe=str(recipe), samples=8))
    model = CLIPmapperForQuestionAnswering.from_pretrained(run.output)
    bias = model.head.bias.detach()
    share = bias.sigmoid() if loss == "binary" else bias.exp()
    assert share.sum().item() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mapper": "c"}, "there is no mapper 'c'"),
        ({"device": "tpu"}, "'cpu' or 'cuda'"),
        ({"clip": "no/such/folder/here"}, "no CLIPmapper can be built"),
        ({"samples": 0}, "must be above 0"),
        ({"samples": -8}, "must be above 0, not -8"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(run, change, message):
    with pytest.raises(InputError, match=message):
        train_vqa(replace(run, **change))


def test_a_format_of_another_task_is_refused(run, tmp_path):
    with pytest.raises(InputError, match="'coco-captions' is not one of questions"):
        train_vqa(replace(run, format="coco-captions"))
    recipe = write_recipe(tmp_path / "captions.toml", "captions")
    writing = replace(run, recipe=str(recipe), output=tmp_path / "captions")
    with pytest.raises(InputError, match="'vqa-v2' is not one of captions"):
        train_captions(replace(writing, format="vqa-v2"))
    unknown = write_recipe(tmp_path / "unknown.toml", "captions", scores=["cidr"])
    with pytest.raises(InputError, match="Did you mean 'cider'"):
        train_captions(replace(writing, recipe=str(unknown), output=tmp_path / "unknown"))
    assert not (tmp_path / "unknown").exists(), "before anything is computed"


def test_a_split_without_public_answers_has_no_accuracy(run, tmp_path):
    copy = shutil.copytree(run.data, tmp_path / "tiny")
    (copy / "v2_tiny_test_annotations.json").unlink()
    data = 'format = "vqa-v2"\ntest = ["val", "test"]'
    recipe = write_recipe(tmp_path / "hidden.toml", "vqa", data=data)
    given = replace(run, data=copy, recipe=str(recipe), samples=8, cache=tmp_path / "cache")
    results = train_vqa(given)
    assert results["scores"]["test"] == {"questions": 24}
    assert "accuracy" in results["scores"]["val"]
    assert "| questions | 24 |" in (run.output / "README.md").read_text()
    watching = write_recipe(
        tmp_path / "watch.toml", "vqa", data=f'{data}\nwatch = "test"', evaluate_every=8
    )
    with pytest.raises(InputError, match="'test', but its answers are not public"):
        train_vqa(replace(given, recipe=str(watching), output=tmp_path / "watch"))


def test_answers_of_most_people_become_classes(run, tmp_path):
    copy = shutil.copytree(run.data, tmp_path / "tiny")
    file = copy / "v2_tiny_train_annotations.json"
    content = json.loads(file.read_text())
    for one in content["annotations"]:
        for person in one["answers"][:3]:
            person["answer"] = "rare"
    file.write_text(json.dumps(content))
    train_vqa(replace(run, data=copy, samples=8, cache=tmp_path / "cache"))
    assert "rare" not in json.loads((run.output / "vocabulary.json").read_text())


def test_an_output_that_is_something_else_is_left_alone(run):
    run.output.mkdir()
    (run.output / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="is not empty and holds no run"):
        train_vqa(run)


def test_the_command_line_trains_and_scores(run, world, tmp_path):
    arguments = ["train", "vqa", "--data", run.data, "--clip", run.clip, "--mapper", "a"]
    arguments += ["--recipe", run.recipe, "--output", run.output, "--cache", run.cache]
    done = CliRunner().invoke(cli.program(), [str(one) for one in (*arguments, "--samples", 16)])
    assert done.exit_code == 0, done.output
    arguments = ["score", "vqa", "--model", run.output, "--data", run.data, "--split", "test"]
    arguments += ["--cache", run.cache, "--submission", tmp_path / "said.json"]
    done = CliRunner().invoke(cli.program(), [str(one) for one in arguments])
    assert done.exit_code == 0, done.output
    assert "answer: yes/no" in done.output
    assert len(json.loads((tmp_path / "said.json").read_text())) == 24


def test_the_cache_saves_time(run, world, tmp_path, capsys):
    """Measured, not asserted: a machine at work would make a liar of any bound."""
    seconds = []
    for name in ("first", "second"):
        started = time.perf_counter()
        train_vqa(replace(run, cache=tmp_path / "cache", samples=8, output=tmp_path / name))
        seconds.append(time.perf_counter() - started)
    with capsys.disabled():
        print(f"\nfeatures computed {seconds[0]:.2f} s, features read {seconds[1]:.2f} s")
