"""The shipped models, the demo that asks them, and the evidence they are judged by."""

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny.training_world import write_clip
from transformers import AutoTokenizer
from typer.testing import CliRunner

import relmap
from clipmapper.demo import demo_scenes, run_demo
from clipmapper.model import (
    CLIPmapperConfig,
    CLIPmapperForCaptioning,
    CLIPmapperForQuestionAnswering,
)
from clipmapper.scenes import KINDS, UNSEEN_PAIRS, world_texts, write_scenes
from clipmapper.source import WEIGHTS
from relmap.cli import program
from relmap.data import DATA
from relmap.errors import InputError

ANSWERS = ("red", "blue", "yes", "no", "2", "large")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A tiny random CLIPmapper for each task, with the frozen CLIP beside them."""
    folder = tmp_path_factory.mktemp("models")
    write_clip(folder / "clip", world_texts(2))
    clip = CLIPmapperConfig(clip_config=None).clip_config.from_pretrained(folder / "clip")
    small = {"hidden_size": 16, "num_attention_heads": 2, "clip_checkpoint": "../clip"}
    for name, kind in (
        ("a-vqa", CLIPmapperForQuestionAnswering),
        ("a-captions", CLIPmapperForCaptioning),
    ):
        torch.manual_seed(0)
        labels = dict(enumerate(ANSWERS))
        model = kind(CLIPmapperConfig(clip_config=clip, id2label=labels, **small))
        model.load_clip(str(folder / "clip"))
        model.save_pretrained(folder / name)
        for file in ("tokenizer.json", "tokenizer_config.json", "processor_config.json"):
            found = folder / "clip" / file
            if found.is_file():
                (folder / name / file).write_bytes(found.read_bytes())
    return folder


def test_a_folder_is_loaded_as_the_class_that_wrote_it(folders):
    assert type(relmap.load(folders / "a-vqa").network) is CLIPmapperForQuestionAnswering
    assert type(relmap.load(folders / "a-captions").network) is CLIPmapperForCaptioning


def test_scenes_of_the_demo_are_held_out_and_have_evidence():
    scenes = list(demo_scenes(len(KINDS)))
    assert [scene.question.kind for scene in scenes] == list(KINDS)
    assert all(scene.evidence.any() for scene in scenes)
    again = list(demo_scenes(len(KINDS)))
    for one, other in zip(scenes, again, strict=True):
        assert one.question == other.question
        assert np.array_equal(np.asarray(one.picture), np.asarray(other.picture))


def test_the_demo_says_what_the_model_says(folders, tmp_path):
    model = relmap.load(folders / "a-vqa")
    found = list(run_demo(tmp_path / "out", model=model, count=3))
    for one, scene in zip(found, demo_scenes(3), strict=True):
        inputs = model.prepare(image=scene.picture, text=scene.question.text)
        with torch.no_grad():
            expected = ANSWERS[int(model.network(**inputs).logits.argmax())]
        assert one.answer == expected
        assert one.by_chance == pytest.approx(scene.evidence.double().mean().item())
        assert 0 <= one.on_evidence <= 1
        assert one.answer in one.explanation.target[0]
    if importlib.util.find_spec("matplotlib") is not None:
        assert all(one.picture is not None and one.picture.stat().st_size > 1000 for one in found)


def test_the_command_prints_and_writes(folders, tmp_path):
    output = tmp_path / "pictures"
    arguments = ["demo", "--model", str(folders / "a-vqa"), "--output", str(output), "--count", "2"]
    found = CliRunner().invoke(program(), arguments)
    assert found.exit_code == 0, found.output
    assert re.search(r"\d of 2 answers are right", found.output)
    assert "evidence" in found.output
    if importlib.util.find_spec("matplotlib") is not None:
        assert len(list(output.glob("*.png"))) == 2


def test_an_output_that_is_a_file_is_one_sentence(folders, tmp_path):
    pytest.importorskip("matplotlib")
    (tmp_path / "notes").write_text("kept")
    for output in (tmp_path / "notes", tmp_path / "notes" / "below"):
        arguments = ["demo", "--model", str(folders / "a-vqa"), "--output", str(output)]
        found = CliRunner().invoke(program(), arguments)
        assert found.exit_code == 2
        assert found.output.startswith("error: no pictures can be written into")
        assert found.output.count("\n") == 1
    assert (tmp_path / "notes").read_text() == "kept"


def test_a_question_needs_its_picture_and_the_reverse(folders):
    model = relmap.load(folders / "a-vqa")
    scene = next(demo_scenes(1))
    with pytest.raises(InputError, match=r"on text= alone: give image= as well"):
        relmap.explain(model, text=scene.question.text)
    with pytest.raises(InputError, match=r"on image= alone: give text= as well"):
        relmap.explain(model, image=scene.picture)
    with pytest.raises(InputError, match=r"on text= alone: give image= as well"):
        model.prepare(text=["is it red?", "is it a star?"])
    writer = relmap.load(folders / "a-captions")
    with pytest.raises(InputError, match="give image= as well"):
        writer.prepare(text="a red")
    assert "input_ids" in writer.prepare(image=scene.picture), "a caption begins by itself"


def test_a_question_that_is_too_long_is_refused(folders):
    model = relmap.load(folders / "a-vqa")
    scene = next(demo_scenes(1))
    with pytest.raises(InputError, match="tokens, but the model takes at most 24"):
        relmap.explain(model, image=scene.picture, text="is it a star? " * 20)
    given = model.prepare(image=scene.picture, text="is it red?")
    given |= {name: given[name].repeat(1, 9) for name in ("input_ids", "attention_mask")}
    with pytest.raises(InputError, match="tokens, but the model takes at most 24"):
        relmap.explain(model.network, **given)


def test_make_demo_asks_for_nothing():
    root = Path(__file__).parents[2]
    if shutil.which("make") is None or not (root / "Makefile").is_file():
        pytest.skip("make or the Makefile is not here")
    shown = subprocess.run(
        ["make", "-n", "demo"], cwd=root, capture_output=True, check=True, text=True
    )
    # Inside another make the last line says that a folder is left.
    assert any(
        line.endswith("relmap demo --output relmap-demo") for line in shown.stdout.splitlines()
    )


def test_a_model_without_answers_is_refused(folders):
    with pytest.raises(InputError, match="answers no questions"):
        list(run_demo(None, model=relmap.load(folders / "clip"), count=1))


def test_an_unknown_demo_model_is_refused_with_those_there_are():
    with pytest.raises(InputError, match="demo:"):
        relmap.load("demo:c-vqa")


def test_shipped_folders_are_whole():
    shipped = sorted(path.parent for path in WEIGHTS.glob("*/model.safetensors"))
    assert shipped
    total = sum(file.stat().st_size for folder in shipped for file in folder.glob("*.safetensors"))
    assert total <= 12_000_000
    for folder in shipped:
        model = relmap.load(f"demo:{folder.name}")
        tokenizer = AutoTokenizer.from_pretrained(folder)
        assert model.tokenizer is not None
        assert len(tokenizer.tokenize("where is the small star?")) == 6


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp("w") / "s", train=0, val=0, test=8, seed=2)


class TestEvidence:
    def test_masks_are_those_of_the_objects(self, world):
        found = DATA.get("scenes").function(world, split="test")
        assert {one.label for one in found} >= {"objects"}
        for one in found:
            mask = one.open_mask()
            if not one.objects:
                assert mask is None
                assert one.label in ("count", "exists")
                continue
            assert mask is not None
            pixels = sum(sum(thing["counts"][1::2]) for thing in one.objects)
            assert int(mask.sum()) == pixels  # things never overlap

    def test_words_are_in_the_question(self, world):
        for one in DATA.get("scenes").function(world, split="test"):
            words = [one.question.text[start:end] for start, end in one.words]
            assert words
            assert all(word.isalpha() for word in words)

    def test_other_folders_are_refused(self, world, tmp_path):
        with pytest.raises(InputError):
            DATA.get("scenes").function(tmp_path, split="test")


def test_unseen_pairs_have_different_colours_and_shapes():
    assert len({colour for colour, _ in UNSEEN_PAIRS}) == len(UNSEEN_PAIRS)
    assert len({shape for _, shape in UNSEEN_PAIRS}) == len(UNSEEN_PAIRS)
