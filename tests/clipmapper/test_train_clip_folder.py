"""The small CLIP of a folder: its card, its data told apart, and nothing passed over."""

import json
import shutil
from dataclasses import replace

import pytest
from tiny.training_world import TINY_CLIP

from clipmapper.scenes import write_scenes
from clipmapper.training import clip as training
from clipmapper.training.clip_card import measure_clip, measure_folder
from clipmapper.training.clip_folder import ClipSource, train_clip_folder
from relmap.data.coco_captions import coco_captions
from relmap.errors import InputError


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp("clip") / "scenes", train=32, val=8, test=0, seed=1)


@pytest.fixture(scope="module")
def captions(world):
    return coco_captions(world, "train")


@pytest.fixture
def folder(world, tmp_path):
    """The world once more, to be changed."""
    return shutil.copytree(world, tmp_path / "again" / world.name)


SOURCE = ClipSource(recipe=replace(TINY_CLIP, samples=16))


@pytest.fixture(scope="module")
def trained(world, tmp_path_factory):
    """A folder that `relmap train clip` wrote, and the results it returned."""
    output = tmp_path_factory.mktemp("folder") / "clip"
    return output, train_clip_folder(world, output, source=SOURCE)


class TestFolder:
    def test_a_card_says_what_it_can_do(self, trained, world):
        output, results = trained
        card = (output / "README.md").read_text()
        for word in ("# A small CLIP", "region-word", "Split val", f"| data | {world.name} |"):
            assert word in card
        assert json.loads((output / "results.json").read_text()) == results
        assert results["scores"].keys() == {"val"}, "the world has no test pictures"
        assert results["scores"]["val"].keys() >= {"among_siblings", "patches"}
        assert not {"checkpoints", "pixels"} & {path.name for path in output.iterdir()}

    def test_a_finished_run_returns_its_results(self, trained, world, monkeypatch):
        output, results = trained
        monkeypatch.setattr(training, "train_steadily", None)
        monkeypatch.setattr("clipmapper.training.clip_folder.write_clip_card", None)
        assert train_clip_folder(world, output, source=SOURCE) == results
        with pytest.raises(InputError, match="another seed"):
            train_clip_folder(world, output, source=SOURCE, seed=1)
        with pytest.raises(InputError, match=r"another recipe \(samples"):
            train_clip_folder(world, output, source=SOURCE, samples=8)

    def test_a_card_that_is_missing_is_written(self, trained, world, tmp_path, monkeypatch):
        output = shutil.copytree(trained[0], tmp_path / "clip")
        for name in ("README.md", "results.json"):
            (output / name).unlink()
        monkeypatch.setattr(training, "train_steadily", None)
        found = train_clip_folder(world, output, source=SOURCE)
        assert found["scores"] == trained[1]["scores"]
        assert (output / "README.md").is_file()

    @pytest.mark.parametrize(
        "name",
        [
            "annotations/captions_train.json",
            "annotations/instances_train.json",
            "v2_scenes_train_annotations.json",
        ],
    )
    def test_other_data_of_the_same_name_is_refused(self, trained, folder, name):
        with (folder / name).open("a") as file:
            file.write("\n")
        with pytest.raises(InputError, match=rf"another data files \({name}\)"):
            train_clip_folder(folder, trained[0], source=SOURCE)

    def test_the_same_data_elsewhere_is_the_same(self, trained, folder):
        assert train_clip_folder(folder, trained[0], source=SOURCE) == trained[1]

    def test_a_clip_of_an_earlier_version_is_known(self, trained, world, tmp_path):
        output = shutil.copytree(trained[0], tmp_path / "clip")
        (output / "run.json").unlink()
        assert train_clip_folder(world, output, source=SOURCE) == trained[1]
        with pytest.raises(InputError, match="another seed"):
            train_clip_folder(world, output, source=SOURCE, seed=3)

    def test_questions_that_are_broken_are_not_passed_over(self, folder, tmp_path):
        (folder / "v2_scenes_train_annotations.json").write_text("{")
        with pytest.raises(InputError, match=r"train_annotations\.json is not JSON"):
            train_clip_folder(folder, tmp_path / "clip", source=SOURCE)

    def test_a_folder_without_questions_is_fine(self, folder, tmp_path, monkeypatch):
        for file in folder.glob("v2_*.json"):
            file.unlink()
        seen = {}
        monkeypatch.setattr(
            "clipmapper.training.clip_folder.train_clip", lambda *_, **given: seen.update(given)
        )
        monkeypatch.setattr("clipmapper.training.clip_folder.write_clip_card", lambda *_: {})
        train_clip_folder(folder, tmp_path / "clip", source=SOURCE)
        assert seen["answered"] == {}
        assert seen["recipe"] == SOURCE.recipe

    def test_a_split_that_is_broken_is_not_passed_over(self, trained, folder):
        (folder / "annotations" / "captions_val.json").write_text("{")
        with pytest.raises(InputError, match=r"captions_val\.json is not JSON"):
            measure_folder(trained[0], folder)

    def test_equal_captions_are_right_for_each_other(self, trained, captions):
        same = [replace(one, captions=("a star",)) for one in captions[:8]]
        strict = measure_clip(trained[0], same)
        assert strict["image_to_text"] == 1 / 8
        found = measure_clip(trained[0], same, siblings=1, equal_texts=True)
        assert found == {"image_to_text": 1.0, "text_to_image": 1.0}
