"""What a training is made of: recipes, the course through the examples, the cache of features."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny.training_world import write_clip, write_recipe, write_world
from transformers import CLIPImageProcessor

from clipmapper.model import CLIPmapperForQuestionAnswering
from clipmapper.training import Run, features, read_recipe
from clipmapper.training.course import make_course
from clipmapper.training.pixels import Pixels
from clipmapper.training.recipe import RECIPES
from clipmapper.training.run import build_model, encoders_of
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


# Recipes


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_shipped_recipes_are_read(path):
    recipe = read_recipe(path.stem)
    assert recipe.stages
    assert all(stage.learning_rate for stage in recipe.stages)


@pytest.mark.parametrize("name", ["vqa-v2", "coco-captions"])
def test_the_papers_recipes_say_what_is_ours(name):
    recipe = read_recipe(name)
    assert "because the paper's are lost" in " ".join(recipe.about.split())
    assert recipe.stages[0].warmup_steps == 1000
    assert recipe.training.optimizer == "adam"
    assert recipe.training.beams == 1


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("learning_rate", "learnin_rate", "did you mean 'learning_rate'"),
        ("batch_size = 8", 'batch_size = "8"', "batch_size = '8': input should be a valid integer"),
        ("batch_size = 8", "batch_size = 0", "must be above 0"),
        ("batch_size = 8", "", "'batch_size' must be given"),
        ("samples = 160", "", "needs its length"),
        ("[training]", '[training]\nschedule = "cosin"', "did you mean 'cosine'"),
        ('task = "vqa"', 'task = "vqas"', "did you mean 'vqa'"),
        ("[training]", "[trainin]", "there is no key 'trainin'"),
        ("[model]", "[[stage]]\nkind = []\n[model]", "did you mean 'kinds'"),
        ("[model]", "[[stage]]\nsamples = 3\n[model]", "with stages, the length is theirs"),
        ("[model]", "[model", "cannot be read"),
        ("[training]", "[training]\nbeams = 3", r"\[training\]: beams would be ignored"),
        ("[training]", "[training]\nbetas = [0.9]", "betas = .* must be two numbers"),
        ("[training]", "[training]\nbetas = [0.9, 1]", "betas = .* must be two numbers"),
    ],
)
def test_a_recipes_mistakes_are_named(tmp_path, old, new, message):
    path = write_recipe(tmp_path / "wrong.toml", "vqa")
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(InputError, match=message):
        read_recipe(path)


def test_what_captions_have_no_use_for_is_not_silently_lost(tmp_path):
    data = 'format = "coco-captions"\nreserve = 3\nanswers = 2'
    path = write_recipe(tmp_path / "lost.toml", "captions", data=data)
    with pytest.raises(InputError, match=r"\[data\]: reserve, answers would be ignored"):
        read_recipe(path)
    path = write_recipe(tmp_path / "lost.toml", "captions", loss="cross-entropy")
    with pytest.raises(InputError, match=r"\[training\]: loss would be ignored"):
        read_recipe(path)


def test_an_unknown_recipe_is_guessed():
    with pytest.raises(InputError, match="did you mean 'scenes-vqa'"):
        read_recipe("scene-vqa")
    with pytest.raises(InputError, match="is for 'relmap train captions'"):
        read_recipe("coco-captions", "vqa")


# The course


def course_of(tmp_path, more, **changes):
    path = write_recipe(tmp_path / "course.toml", "vqa", more=more, **changes)
    path.write_text(path.read_text().replace("samples = 160\n", "", 1))
    kinds = ["colour"] * 30 + ["side"] * 20 + ["exists"] * 10
    return make_course(read_recipe(path), kinds, seed=3)


def test_a_stage_shows_its_kinds_by_weight(tmp_path):
    course = course_of(
        tmp_path,
        '[[stage]]\nsamples = 80\nkinds = ["colour"]\n'
        "[[stage]]\nepochs = 2\nweights = {exists = 4, colour = 0}",
    )
    assert [(leg.start, leg.steps) for leg in course.legs] == [(0, 10), (10, 8)]
    rows = course.rows(np.arange(len(course)))
    assert set(rows[:30]) == set(range(30)), "every question once before any is asked again"
    later = rows[80:140]
    assert later.min() >= 30
    assert np.bincount((later >= 50).astype(int)).tolist() == [20, 40]
    assert np.bincount(later[later >= 50]).max() == 4
    pieces = [course.rows(np.arange(start, start + 7)) for start in range(0, 140, 7)]
    assert np.array_equal(np.concatenate(pieces), rows[:140]), "positions alone decide"


def test_learning_rates_climb_stay_and_fall(tmp_path):
    course = course_of(
        tmp_path,
        "[[stage]]\nsamples = 80\nwarmup_steps = 4\n"
        '[[stage]]\nsamples = 80\nlearning_rate = 1\nschedule = "linear"\ndecay_from = 0.5\n'
        '[[stage]]\nsamples = 80\nschedule = "cosine"\ndecay_from = 2\nfinal = 0.5',
    )
    rates = [course.learning_rate(step) for step in range(course.steps)]
    assert rates[:6] == pytest.approx([0.0025, 0.005, 0.0075, 0.01, 0.01, 0.01])
    assert rates[10:20] == pytest.approx([1, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2])
    assert rates[22:24] == pytest.approx([0.01, 0.01 * (0.75 + 0.25 * np.cos(np.pi / 8))])
    assert course.learning_rate(course.steps) == pytest.approx(0.005)


@pytest.mark.parametrize("times", [0.25, 2])
def test_another_length_has_warm_up_and_decay_in_proportion(tmp_path, times):
    more = (
        '[[stage]]\nsamples = 320\nwarmup_steps = 8\nschedule = "linear"\ndecay_from = 20\n'
        "[[stage]]\nsamples = 80\ndecay_from = 0.5"
    )
    whole = course_of(tmp_path, more)
    recipe = read_recipe(tmp_path / "course.toml")
    other = make_course(recipe, ["colour"] * 9, seed=3, samples=int(400 * times))
    assert [leg.steps for leg in other.legs] == [40 * times, 10 * times + (times == 0.25) * 0.5]
    first, second = (leg.stage for leg in other.legs)
    assert (first.warmup_steps, first.decay_from) == (8 * times, 20 * times)
    assert second.decay_from == 0.5, "a share stays one"
    assert other.learning_rate(int(8 * times)) == whole.learning_rate(8) == 0.01
    assert other.learning_rate(int(24 * times)) == pytest.approx(whole.learning_rate(24))


def test_a_kind_that_the_data_lacks_is_named(tmp_path):
    with pytest.raises(InputError, match="'colours', but the data has only colour, exists, side"):
        course_of(tmp_path, '[[stage]]\nsamples = 8\nkinds = ["colours"]')


# Features


def encoders(world):
    settings = Run(
        data=world, clip=str(world / "clip"), mapper="a", recipe="easy-vqa", output=world / "none"
    )
    recipe = read_recipe("easy-vqa")
    model = build_model(CLIPmapperForQuestionAnswering, settings, recipe, {0: "yes"})
    return model, encoders_of(model, settings.clip)


def test_features_are_those_of_the_encoders(world, tmp_path):
    model, given = encoders(world)
    paths = sorted((world / "tiny").glob("*/*.png"))[:70]
    states = features.picture_states(paths, given, tmp_path)
    texts = ["is it red?", "what colour is it?", "a square on the left"]
    words = features.text_states(texts, given, tmp_path)
    pixels = given.processor(images=[Image.open(paths[5])], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = model.model.encode_images(pixels)[0]
        ids = torch.tensor(given.token_ids(texts)[1])[None]
        spoken = model.model.encode_text(ids)[0]
    torch.testing.assert_close(states.take(np.array([5]))[0].float(), expected, atol=2e-3, rtol=0)
    taken, numbers, mask = words.take(np.array([1, 0]))
    length = ids.shape[1]
    torch.testing.assert_close(taken[0, :length].float(), spoken, atol=2e-3, rtol=0)
    assert mask.sum(1).tolist() == [length, len(given.token_ids(texts)[0])]
    assert numbers[0, :length].tolist() == ids[0].tolist()


def test_the_cache_goes_on_after_a_kill_and_is_used_again(world, tmp_path, monkeypatch):
    _, given = encoders(world)
    monkeypatch.setattr(features, "BLOCK", 8)
    monkeypatch.setattr(features, "FLUSH_SECONDS", 0.0)
    paths = sorted((world / "tiny").glob("*/*.png"))
    seen = []

    def stopping(pixels, after=3, encode=given.encode_images):
        seen.append(len(pixels))
        if len(seen) == after + 2:  # one picture is encoded first, to see the shape
            raise KeyboardInterrupt
        return encode(pixels)

    with pytest.raises(KeyboardInterrupt):
        features.picture_states(paths, replace(given, encode_images=stopping), tmp_path)
    seen[:] = [0] * 100
    states = features.picture_states(paths, replace(given, encode_images=stopping), tmp_path)
    assert sum(seen[101:]) == len(paths) - 24, "three blocks were there"
    whole = features.picture_states(paths, given, tmp_path / "other")
    assert np.array_equal(states.rows.values, whole.rows.values)
    seen[:] = [0] * 100
    features.picture_states(paths, replace(given, encode_images=stopping), tmp_path)
    assert len(seen) == 101, "nothing but the shape is computed again"


def test_other_weights_and_files_are_another_cache(world, tmp_path):
    _, given = encoders(world)
    paths = sorted((world / "tiny").glob("*/*.png"))[:3]
    features.picture_states(paths, given, tmp_path)
    features.picture_states(paths[:2], given, tmp_path)
    changed, other = encoders(world)
    with torch.no_grad():
        changed.model.clip.visual_projection.weight.add_(1)
    features.picture_states(paths, other, tmp_path)
    assert len(list(tmp_path.glob("pictures-*/index.json"))) == 3


def test_another_format_is_another_cache_and_the_first_stays_as_it_was(
    world, tmp_path, monkeypatch
):
    _, given = encoders(world)
    texts = ["is it red?"]
    ids = np.asarray(given.token_ids(texts)[0], dtype=np.int32)
    parts = (given.weights.encode(), ids.tobytes(), np.cumsum([0, len(ids)]).tobytes())
    features.text_states(texts, given, tmp_path)
    key = hashlib.sha256(b"".join(part + b"\0" for part in parts)).hexdigest()[:20]
    assert (tmp_path / f"texts-{key}").is_dir()
    monkeypatch.setattr(features, "FORMAT", 2)
    features.text_states(texts, given, tmp_path)
    assert len(list(tmp_path.glob("texts-*"))) == 2


def test_texts_that_are_cut_are_told(world, tmp_path, capsys):
    _, given = encoders(world)
    words = features.text_states(["is it red?", "\u2603" * 9], given, tmp_path)
    assert words.take(np.array([1]))[1].shape[1] == given.max_length
    said = " ".join(capsys.readouterr().err.split())
    assert "1 of 2 texts are cut to the 24 tokens" in said
    features.text_states(["is it red?"], given, tmp_path)
    assert "cut" not in capsys.readouterr().err


def test_resized_pictures_are_made_anew_for_other_files_and_settings(tmp_path):
    processor = CLIPImageProcessor(
        size={"height": 8, "width": 8}, crop_size={"height": 8, "width": 8}
    )
    file = tmp_path / "1.png"
    Image.new("RGB", (8, 8), (255, 0, 0)).save(file)
    assert Pixels.read([file], processor, tmp_path / "cache").stored[0, 0].min() == 255
    Image.new("RGB", (8, 8), (0, 0, 255)).save(file)
    os.utime(file, (1, 1))
    again = Pixels.read([file], processor, tmp_path / "cache")
    assert again.stored[0, 0].max() == 0
    Pixels.read([file], processor, tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 2, "what is unchanged is read"


def test_a_broken_picture_is_named(world, tmp_path):
    _, given = encoders(world)
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"a\.png cannot be read"):
        features.picture_states([tmp_path / "a.png"], given, tmp_path)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_workers_change_nothing(world, tmp_path, monkeypatch):
    _, given = encoders(world)
    monkeypatch.setattr(features, "BLOCK", 8)
    paths = sorted((world / "tiny").glob("train/*.png"))
    alone = features.picture_states(paths, given, tmp_path / "alone")
    helped = features.picture_states(paths, given, tmp_path / "helped", workers=2)
    assert np.array_equal(alone.rows.values, helped.rows.values)
