"""Runs told apart by what their files hold; captions by beam search, judged by a CLIP."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny.training_world import write_clip, write_recipe, write_world
from typer.testing import CliRunner

from clipmapper.training import Run, captions, score, train_captions, train_vqa
from clipmapper.training.run import open_output
from relmap import cli
from relmap.data import DATA
from relmap.errors import InputError

pytest.importorskip("accelerate")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The data, the CLIP and the cache that all tests here share."""
    root = tmp_path_factory.mktemp("world")
    write_world(root / "tiny", {"train": 40, "val": 12})
    write_clip(root / "clip", ["a red green blue square on the left", "what colour is it?"])
    return root


@pytest.fixture
def run(world, tmp_path):
    return Run(
        data=world / "tiny",
        clip=str(world / "clip"),
        mapper="b",
        recipe=str(write_recipe(tmp_path / "short.toml", "vqa")),
        output=tmp_path / "out",
        cache=world / "cache",
        device="cpu",
    )


def settings_of(run: Run) -> dict:
    return run.settings(run.read_recipe("vqa"))


def test_other_data_of_the_same_name_is_refused(run, tmp_path):
    open_output(run.output, settings_of(run))
    copy = shutil.copytree(run.data, tmp_path / "other" / run.data.name)
    assert open_output(run.output, settings_of(replace(run, data=copy))) is None
    for name in ("v2_tiny_train_annotations.json", "v2_OpenEnded_tiny_val_questions.json"):
        (copy / name).write_text((copy / name).read_text() + "\n")
    with pytest.raises(InputError) as refused:
        train_vqa(replace(run, data=copy))
    assert "another data files (v2_OpenEnded_tiny_val_questions.json, v2_tiny_train_ann" in str(
        refused.value
    )


def test_other_models_and_answers_at_the_same_place_are_refused(run, world, tmp_path):
    start, answers = tmp_path / "start", tmp_path / "answers.json"
    shutil.copytree(world / "clip", start)
    answers.write_text('["yes"]')
    clip = shutil.copytree(world / "clip", tmp_path / "clip")
    run = replace(run, init=start, answers=answers, clip=str(clip))
    open_output(run.output, settings_of(run))
    assert open_output(run.output, settings_of(run)) is None
    changed = load_file(start / "model.safetensors")
    save_file({name: value + 1 for name, value in changed.items()}, start / "model.safetensors")
    with pytest.raises(InputError, match=r"another init files \(model\.safetensors\): choose"):
        open_output(run.output, settings_of(run))
    shutil.copy(clip / "model.safetensors", start)
    answers.write_text('["no!"]')
    with pytest.raises(InputError, match="another answers file: choose"):
        open_output(run.output, settings_of(run))
    answers.write_text('["yes"]')
    (clip / "tokenizer_config.json").write_text("{}")
    with pytest.raises(InputError, match=r"another clip files \(tokenizer_config\.json\)"):
        open_output(run.output, settings_of(run))


def test_a_run_of_an_earlier_version_goes_on(run):
    told = settings_of(run)
    new = {"data_files", "clip_files", "init_files", "answers_file"}
    run.output.mkdir()
    old = {name: value for name, value in told.items() if name not in new}
    (run.output / "run.json").write_text(json.dumps(old))
    assert open_output(run.output, told) is None
    (run.output / "results.json").write_text('{"scores": {}}')
    assert train_vqa(run) == {"scores": {}}
    with pytest.raises(InputError, match="another seed"):
        train_vqa(replace(run, seed=7))
    (run.output / "run.json").write_text("{")
    with pytest.raises(InputError, match=r"run\.json is not JSON"):
        train_vqa(run)


def test_captions_by_beam_search_are_scored_and_judged_by_a_clip(run, world, tmp_path, monkeypatch):
    names = ["bleu-4", "clip-score", "ref-clip-score"]
    recipe = write_recipe(tmp_path / "beams.toml", "captions", beams=3, scores=names)
    seen = []
    describe = captions.describe

    def note(*given, beams, **options):
        seen.append(beams)
        return describe(*given, beams=beams, **options)

    monkeypatch.setattr(captions, "describe", note)
    results = train_captions(replace(run, recipe=str(recipe), samples=320))
    assert seen == [3]
    found = results["scores"]["val"]
    assert found.keys() == {"captions", *names}
    card = (run.output / "README.md").read_text()
    assert "| ref-clip-score |" in card
    assert "CLIPScore: by the frozen CLIP that the model stands on" in card
    said = tmp_path / "said.json"
    words = ["score", "captions", "--model", run.output, "--data", run.data, "--split", "val"]
    words += ["--beams", 3, "--clip", world / "clip", "--cache", run.cache, "--submission", said]
    monkeypatch.setattr(score, "scores_here", lambda: ["bleu-4"])  # METEOR starts a program
    outcome = CliRunner().invoke(cli.program(), [str(word) for word in words])
    assert outcome.exit_code == 0, outcome.output
    assert seen == [3, 3]
    for name in names:
        assert f"{found[name]:.2f}" in outcome.output
    assert f"CLIPScore: by {world / 'clip'}" in outcome.output
    pictures = {one.image_id: one for one in DATA.get("coco-captions").function(run.data, "val")}
    said = {one["image_id"]: one["caption"] for one in json.loads(said.read_text())}
    judge = score._judge(str(world / "clip"), torch.device("cpu"))
    expected = judge.score([pictures[number].image for number in said], list(said.values()))
    assert found["clip-score"] == pytest.approx(100 * expected.mean().item(), rel=1e-4)
    with pytest.raises(InputError, match="no CLIP"):
        score._judge(str(run.output), torch.device("cpu"))
