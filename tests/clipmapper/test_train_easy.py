"""easy-VQA in seconds: captions read off questions, equal texts in a batch, the one command."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from tiny.training_world import write_recipe
from transformers import CLIPModel
from typer.testing import CliRunner

from clipmapper.formats.easy_vqa_captions import easy_vqa_captions
from clipmapper.model import CLIPmapperForQuestionAnswering
from clipmapper.training import clip as clip_training
from clipmapper.training import clip_folder, easy_vqa
from clipmapper.training.clip import ClipRecipe
from clipmapper.training.clip_folder import ClipSource, find_source, train_clip_folder
from clipmapper.training.contrast import Contrast
from clipmapper.training.easy_vqa import train_easy_vqa
from clipmapper.training.run import Run
from clipmapper.training.tokenizer import train_tokenizer
from relmap import cli
from relmap.data import DATA
from relmap.errors import InputError

pytest.importorskip("accelerate")

COLOURS = {"red": (220, 30, 30), "teal": (0, 128, 128), "black": (0, 0, 0)}
SHAPES = ("circle", "rectangle")
TINY = ClipRecipe(
    samples=160,
    batch_size=16,
    warmup_steps=2,
    questions=0.5,
    siblings=1,
    equal_texts=True,
    side=16,
    width=16,
    layers=1,
    text_width=16,
    text_layers=1,
    projection=8,
    heads=2,
    vocabulary=300,
)
SOURCE = replace(find_source("easy-vqa"), recipe=TINY)


def write_split(folder: Path, asked: list[list[object]]) -> Path:
    """A split with these questions, each picture as plain as can be."""
    (folder / "images").mkdir(parents=True)
    (folder / "questions.json").write_text(json.dumps(asked))
    for number in {entry[2] for entry in asked}:
        Image.new("RGB", (16, 16), (240, 240, 240)).save(folder / f"images/{number}.png")
    return folder


@pytest.fixture(scope="module")
def easy(tmp_path_factory) -> Path:
    """Pictures of one shape, with questions as easy-VQA asks them."""
    root = tmp_path_factory.mktemp("easy") / "easy"
    kinds = [(colour, shape) for colour in COLOURS for shape in SHAPES]
    for split, number in (("train", 48), ("test", 12)):
        asked: list[list[object]] = []
        for image in range(number):
            colour, shape = kinds[image % len(kinds)]
            other = kinds[(image + image // len(kinds)) % len(kinds)][0]
            asked += [
                ["what color is the shape?", colour, image],
                [f"what is the {colour} shape?", shape, image],
                [f"is there a {other} shape?", "yes" if other == colour else "no", image],
                [f"is no {other} shape present?", "no" if other == colour else "yes", image],
            ]
        write_split(root / split, asked)
        for image in range(number):
            picture = Image.open(root / split / f"images/{image}.png").convert("RGB")
            colour, shape = kinds[image % len(kinds)]
            draw = ImageDraw.Draw(picture)
            paint = draw.ellipse if shape == "circle" else draw.rectangle
            paint((4, 4, 12, 12), fill=COLOURS[colour])
            picture.save(root / split / f"images/{image}.png")
    return root


class TestCaptions:
    def captions(self, folder, asked):
        write_split(folder / "train", [*asked, ["what color is the shape?", "teal", 90]])
        found = DATA.get("easy-vqa-captions").function(folder)
        assert found[-1].image_id == 90
        return {one.image_id: one.captions for one in found[:-1]}

    @pytest.mark.parametrize(
        ("asked", "caption"),
        [
            ([["what is the blue shape?", "rectangle"]], "a blue rectangle"),
            ([["what color is the circle?", "red"]], "a red circle"),
            ([["what shape is present?", "circle"]], "a circle"),
            ([["is a teal shape present?", "yes"]], "a teal shape"),
            ([["is no teal shape present?", "no"]], "a teal shape"),
            ([["is there not a circle in the image?", "no"]], "a circle"),
            (
                [["is there a red shape?", "no"], ["what color is the shape?", "blue"]],
                "a blue shape",
            ),
            (
                [["is there not a red shape?", "yes"], ["what shape is in it?", "circle"]],
                "a circle",
            ),
        ],
    )
    def test_what_questions_and_answers_say(self, tmp_path, asked, caption):
        words = [["what color is it?", "blue", 7], ["what color is it?", "red", 8]]
        words.append(["what is it?", "circle", 9])
        found = self.captions(tmp_path, [*words, *([*one, 1] for one in asked)])
        assert found[1] == (caption,)

    def test_pictures_that_nothing_is_said_of_are_left_out(self, tmp_path):
        found = self.captions(
            tmp_path, [["what color is it?", "red", 4], ["is there a red shape?", "no", 5]]
        )
        assert list(found) == [4]

    def test_contradictions_are_named(self, tmp_path):
        asked = [["what color is it?", "red", 3], ["what color is it?", "blue", 3]]
        with pytest.raises(InputError, match=r"1 of 2 pictures .* contradict each other: 3"):
            self.captions(tmp_path, asked)

    def test_questions_that_tell_nothing_are_refused(self, tmp_path):
        write_split(tmp_path / "train", [["is it so?", "yes", 0]])
        with pytest.raises(InputError, match="tell no colour or shape"):
            easy_vqa_captions(tmp_path)

    def test_the_published_pictures(self, shared):
        folder = shared / "data/easy_vqa"
        if not folder.is_dir():
            pytest.skip("easy-VQA is not in shared/data")
        found = easy_vqa_captions(folder)
        assert len(found) == 3961, "39 pictures are asked nothing but what they do not show"
        assert found[0].captions == ("a blue rectangle",)
        assert len({one.captions for one in found}) == 24 + 8 + 3


class TestEqualTexts:
    def parts(self):
        torch.manual_seed(0)
        tokenizer = train_tokenizer(["a red circle", "a teal shape"], 300)
        clip = clip_training._new_clip(TINY, tokenizer).double().eval()
        texts = ["a red circle", "a teal shape", "a red circle", "a red circle"]
        batch = tokenizer(texts, padding=True, return_tensors="pt")
        given = {
            "pixel_values": torch.randn(4, 3, 16, 16, dtype=torch.float64),
            "input_ids": batch["input_ids"],
            "attention_mask": batch["attention_mask"],
        }
        return clip, given, texts

    @torch.no_grad()
    def logits(self, clip, given):
        found = clip(**given)
        return found.logits_per_image

    @torch.no_grad()
    def test_the_loss_by_hand(self):
        clip, given, texts = self.parts()
        logits = self.logits(clip, given)
        total = 0.0
        for scores in (logits, logits.T):
            for row, text in enumerate(texts):
                right = [column for column, other in enumerate(texts) if other == text]
                chances = scores[row].log_softmax(0)
                total -= sum(chances[column] for column in right) / len(right) / len(texts) / 2
        found = Contrast(clip, [], equal_texts=True)(**given)["loss"]
        torch.testing.assert_close(found, torch.as_tensor(total), rtol=1e-6, atol=1e-9)

    @torch.no_grad()
    def test_without_it_or_without_equal_texts_the_loss_is_that_of_clip(self):
        clip, given, _ = self.parts()
        expected = clip(**given, return_loss=True).loss
        torch.testing.assert_close(Contrast(clip, [])(**given)["loss"], expected)
        pair = {name: value[:2] for name, value in given.items()}
        expected = clip(**pair, return_loss=True).loss
        found = Contrast(clip, [], equal_texts=True)(**pair)["loss"]
        torch.testing.assert_close(found, expected)

    def test_it_is_off_by_default(self):
        assert not ClipRecipe().equal_texts
        assert not find_source("scenes").recipe.equal_texts


class TestClip:
    def test_its_texts_are_captions_and_answered_questions(self, easy, tmp_path, monkeypatch):
        seen = {}

        def note(captions, output, **settings):
            seen.update(settings)
            return output

        monkeypatch.setattr(clip_folder, "train_clip", note)
        monkeypatch.setattr(clip_folder, "write_clip_card", lambda *_: {})
        train_clip_folder(easy, tmp_path / "clip", source=SOURCE, samples=80)
        assert seen["recipe"] == replace(TINY, samples=80, warmup_steps=1)
        assert seen["answered"][0][:2] == [
            "what color is the shape? red",
            "what is the red shape? circle",
        ]
        assert seen["regions"] is None

    def test_an_unknown_one_is_refused(self):
        with pytest.raises(InputError, match="no small CLIP 'easy'; there are scenes, easy-vqa"):
            find_source("easy")
        assert find_source("scenes") == ClipSource()


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "short.toml"
    data = 'format = "easy-vqa"\ntest = ["test"]'
    return str(write_recipe(path, "vqa", data=data, samples=320))


@pytest.fixture(scope="module")
def whole(easy, recipe, tmp_path_factory):
    """One run from the folder to both models, and what it returned."""
    output = tmp_path_factory.mktemp("whole") / "out"
    return output, train_easy_vqa(easy, output, recipe=recipe, clip=SOURCE)


class TestCopies:
    @pytest.fixture
    def copied(self, easy, tmp_path):
        run = Run(data=easy, clip="", mapper="a", recipe="easy-vqa", output=tmp_path)
        return easy_vqa._copy_data(run, "easy-vqa", tmp_path / "copies"), run

    def pixels(self, folder, number):
        with Image.open(folder / f"train/images/{number}.png") as picture:
            return np.asarray(picture.convert("RGB"))

    def test_what_is_said_of_a_picture_is_said_of_its_copies(self, easy, copied):
        folder, _ = copied
        function = DATA.get("easy-vqa").function
        before, after = function(easy), function(folder)
        assert len(after) == 4 * len(before)
        for copy in range(4):
            for old, new in zip(before, after[copy * len(before) :], strict=False):
                assert new.image_id == old.image_id + 48 * copy
                assert (new.text, new.answers) == (old.text, old.answers)
        assert len(function(folder, "test")) == len(function(easy, "test"))

    def test_pictures_stand_as_they_were_or_at_most_a_sixteenth_aside(self, easy, copied):
        folder, _ = copied
        moves = set()
        for number in range(48):
            old = self.pixels(easy, number)
            assert np.array_equal(self.pixels(folder, number), old)
            wider = np.pad(old, ((1, 1), (1, 1), (0, 0)), mode="edge")
            for copy in (1, 2, 3):
                new = self.pixels(folder, number + 48 * copy)
                new = new[:, ::-1] if copy == 2 else new
                fits = [
                    (down, right)
                    for down, right in product(range(3), repeat=2)
                    if np.array_equal(wider[down : down + 16, right : right + 16], new)
                ]
                moves.add(fits[0])
        assert len(moves) == 9

    def test_they_are_made_once_and_again_if_that_was_interrupted(self, copied):
        folder, run = copied
        (marker := folder / "train/images/0.png").write_bytes(b"")
        assert not easy_vqa._copy_data(run, "easy-vqa", folder).joinpath(marker).read_bytes()
        (folder / "train/questions.json").unlink()
        assert easy_vqa._copy_data(run, "easy-vqa", folder).joinpath(marker).read_bytes()


class TestRun:
    def test_both_mappers_are_scored(self, whole):
        output, results = whole
        assert results["scores"].keys() == {"a", "b"}
        for scores in results["scores"].values():
            assert scores["questions"] == 48
            assert scores["by_answer_type"].keys() == {"other", "yes/no"}
            assert scores["by_kind"].keys() == {"color", "shape", "yes/no"}
        assert results["minutes"].keys() == {"clip", "mapper a", "mapper b", "this command"}
        assert json.loads((output / "results.json").read_text()) == results

    def test_the_card_has_both_columns(self, whole):
        output, results = whole
        card = (output / "README.md").read_text()
        shares = [f"{100 * one['accuracy']:.2f} %" for one in results["scores"].values()]
        assert f"| all | {' | '.join(shares)} | 48 |" in card
        assert "answer: yes/no" in card
        assert "Accuracy: VQA accuracy as visualqa.org/evaluation defines it" in card

    def test_the_models_can_be_loaded_and_nothing_else_stays(self, whole):
        output, _ = whole
        names = {path.name for path in output.iterdir()}
        assert names == {
            *("README.md", "results.json", "run.json", "clip", "mapper-a", "mapper-b"),
        }
        assert not {"pixels", "checkpoints"} & {path.name for path in (output / "clip").iterdir()}
        for mapper in "ab":
            model = CLIPmapperForQuestionAnswering.from_pretrained(output / f"mapper-{mapper}")
            assert model.config.mapper == mapper
            assert set(model.config.id2label.values()) >= {"yes", "no", "teal", "circle"}

    def test_a_second_call_returns_the_results(self, whole, easy, recipe, monkeypatch):
        output, results = whole
        monkeypatch.setattr(easy_vqa, "train_clip_folder", None)
        monkeypatch.setattr(easy_vqa, "train_vqa", None)
        assert train_easy_vqa(easy, output, recipe=recipe, clip=SOURCE) == results

    def test_another_run_is_kept_apart(self, whole, easy, recipe):
        output, _ = whole
        with pytest.raises(InputError, match="another seed"):
            train_easy_vqa(easy, output, recipe=recipe, clip=SOURCE, seed=1)

    def test_other_data_of_the_same_name_is_refused(self, whole, easy, recipe, tmp_path):
        copy = shutil.copytree(easy, tmp_path / easy.name)
        with (copy / "train/questions.json").open("a") as file:
            file.write("\n")
        with pytest.raises(InputError, match=r"another data files \(train/questions\.json\)"):
            train_easy_vqa(copy, whole[0], recipe=recipe, clip=SOURCE)

    def test_a_run_that_was_stopped_goes_on(self, whole, easy, recipe, tmp_path, monkeypatch):
        def stop(run, train=easy_vqa.train_vqa):
            if run.mapper == "b":
                raise KeyboardInterrupt
            return train(run)

        with monkeypatch.context() as patched:
            patched.setattr(easy_vqa, "train_vqa", stop)
            with pytest.raises(KeyboardInterrupt):
                train_easy_vqa(easy, tmp_path / "out", recipe=recipe, clip=SOURCE)
        assert not (tmp_path / "out/results.json").exists()
        monkeypatch.setattr(clip_folder, "train_clip", None)  # the CLIP is done
        results = train_easy_vqa(easy, tmp_path / "out", recipe=recipe, clip=SOURCE)
        assert results["scores"] == whole[1]["scores"], "the same seed gives the same models"
        clips = [
            CLIPModel.from_pretrained(folder / "clip").state_dict()
            for folder in (whole[0], tmp_path / "out")
        ]
        assert all(torch.equal(clips[0][name], clips[1][name]) for name in clips[0])

    def test_a_folder_without_test_questions_is_refused_at_once(self, easy, recipe, tmp_path):
        (tmp_path / "half").mkdir()
        (tmp_path / "half/train").symlink_to(easy / "train")
        with pytest.raises(InputError, match=r"no folder .*test"):
            train_easy_vqa(tmp_path / "half", tmp_path / "out", recipe=recipe, clip=SOURCE)
        assert not (tmp_path / "out").exists()

    def test_the_command_prints_the_table(self, easy, tmp_path, monkeypatch):
        scores = {
            "questions": 2,
            "accuracy": 0.5,
            "by_kind": {"yes/no": {"accuracy": 0.5, "questions": 2}},
            "by_answer_type": {"yes/no": {"accuracy": 0.5, "questions": 2}},
        }
        seen = {}

        def fake(data, output, **settings):
            seen.update(settings)
            return {"scores": {"a": scores, "b": scores}, "minutes": {"clip": 1.26}}

        monkeypatch.setattr(easy_vqa, "train_easy_vqa", fake)
        words = ["train", "easy-vqa", "--data", easy, "--output", tmp_path, "--seed", "3"]
        outcome = CliRunner().invoke(cli.program(), [str(word) for word in words])
        assert outcome.exit_code == 0, outcome.output
        assert seen == {"seed": 3, "samples": None}
        assert outcome.output.count("50.00 %") == 6
        assert "CLIPmapper-B" in outcome.output
        assert "minutes: clip 1.3" in outcome.output


def test_the_clip_of_easy_vqa_can_be_trained_by_command(easy, tmp_path, monkeypatch):
    monkeypatch.setattr(clip_folder, "CLIPS", {"scenes": ClipSource(), "easy-vqa": SOURCE})
    words = ["train", "clip", "--data", easy, "--output", tmp_path / "clip"]
    words += ["--recipe", "easy-vqa", "--samples", "32"]
    outcome = CliRunner().invoke(cli.program(), [str(word) for word in words])
    assert outcome.exit_code == 0, outcome.output
    assert "image to text" in (tmp_path / "clip/README.md").read_text()
    about = json.loads((tmp_path / "clip/training.json").read_text())
    assert (about["recipe"]["samples"], about["recipe"]["equal_texts"]) == (32, True)


@pytest.mark.parametrize("samples", ["0", "-3"])
@pytest.mark.parametrize("command", ["clip", "easy-vqa"])
def test_a_length_below_one_is_one_sentence(easy, tmp_path, command, samples):
    words = ["train", command, "--data", str(easy), "--output", str(tmp_path / "o")]
    outcome = CliRunner().invoke(cli.program(), [*words, "--samples", samples])
    assert outcome.exit_code == 2
    assert f"samples must be above 0, not {samples}" in outcome.output
    assert not (tmp_path / "o").exists()
