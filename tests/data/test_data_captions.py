"""Captions: what the official formats read as, and what is refused, with number and names."""

import json

import pytest
from tiny.data import draw, write

from relmap.data import DATA
from relmap.data.coco_captions import coco_captions
from relmap.data.karpathy import karpathy
from relmap.errors import InputError


@pytest.fixture
def captions(tmp_path):
    content = {
        "images": [
            {"id": 9, "file_name": "000000000009.jpg", "height": 4},
            {"id": 42, "file_name": "000000000042.jpg"},
        ],
        "annotations": [
            {"image_id": 42, "id": 1, "caption": "A star. "},
            {"image_id": 9, "id": 2, "caption": "A\nsquare"},
            {"image_id": 42, "id": 3, "caption": "The star"},
        ],
    }
    write(tmp_path / "annotations/captions_val2017.json", content)
    draw(tmp_path / "val2017/000000000009.jpg")
    draw(tmp_path / "val2017/000000000042.jpg")
    return tmp_path


def change(folder, edit):
    path = folder / "annotations/captions_val2017.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


class TestCocoCaptions:
    def test_pictures_carry_their_captions(self, captions):
        first, second = DATA.get("coco-captions").function(captions, "val")
        assert first.captions == ("A\nsquare",)
        assert second.captions == ("A star.", "The star")
        assert (second.name, second.image_id) == ("000000000042", 42)
        assert first.about["height"] == 4
        assert second.image == captions / "val2017/000000000042.jpg"
        assert second.open_image().mode == "RGB"

    def test_pictures_may_be_named_as_in_another_year(self, captions):
        for file in list((captions / "val2017").iterdir()):
            file.rename(file.with_name(f"COCO_val2014_{file.name}"))
        assert coco_captions(captions, "val2017")[0].name == "COCO_val2014_000000000009"

    @pytest.mark.parametrize(
        ("edit", "words"),
        [
            (lambda c: c.pop("images"), 'no list "images"'),
            (lambda c: c["images"][0].pop("id"), '1 of 2 images .* no "id"'),
            (lambda c: c["annotations"].pop(1), "1 of 2 images .* no caption: 9"),
            (lambda c: c["annotations"][0].pop("caption"), "1 of 3 annotations .*: entry 0"),
            (lambda c: c["annotations"][1].update(image_id=7), "1 of 3 annotations .*: entry 1"),
            (lambda c: c["annotations"][1].update(image_id=[7]), "1 of 3 annotations"),
            (
                lambda c: (
                    c["images"].append({"id": 7, "file_name": "7.jpg"}),
                    c["annotations"].append({"image_id": 7, "caption": "x"}),
                ),
                "1 of 3 pictures of captions_val2017.json are not in .*val2017: 7",
            ),
        ],
    )
    def test_what_does_not_fit_is_refused(self, captions, edit, words):
        change(captions, edit)
        with pytest.raises(InputError, match=words):
            coco_captions(captions, "val")

    def test_missing_files_are_named(self, captions):
        with pytest.raises(InputError, match=r"no captions_train\*\.json"):
            coco_captions(captions)

    def test_without_any_picture_folder_it_says_so(self, captions):
        (captions / "val2017").rename(captions / "elsewhere")
        with pytest.raises(InputError, match=r"2 of 2 pictures .* any folder of that name: 9, 42"):
            coco_captions(captions, "val")

    def test_the_published_file(self, shared, tmp_path):
        file = shared / "data/coco_captions/captions_val2017.json"
        if not file.is_file():
            pytest.skip("COCO's captions are not in shared/data")
        (tmp_path / file.name).symlink_to(file)
        (tmp_path / "val2017").mkdir()
        for image in json.loads(file.read_text())["images"]:
            (tmp_path / "val2017" / image["file_name"]).touch()
        found = coco_captions(tmp_path, "val")
        assert len(found) == 5000
        assert sum(len(image.captions) for image in found) == 25014


def split_file():
    def entry(number, split):
        return {
            "filepath": "val2014" if number == 42 else "train2014",
            "filename": f"COCO_{number}.jpg",
            "cocoid": number,
            "imgid": 0,
            "split": split,
            "sentids": [1],
            "sentences": [{"raw": f"Picture {number}. ", "tokens": ["picture"], "sentid": 1}],
        }

    splits = {9: "train", 42: "restval", 10: "val", 11: "test"}
    return {"dataset": "coco", "images": [entry(*item) for item in splits.items()]}


class TestKarpathy:
    @pytest.fixture
    def folder(self, tmp_path):
        write(tmp_path / "dataset_coco.json", split_file())
        for number in (9, 10, 11):
            draw(tmp_path / f"train2014/COCO_{number}.jpg")
        draw(tmp_path / "images/val2014/COCO_42.jpg")
        return tmp_path

    @pytest.mark.parametrize(
        ("split", "numbers"),
        [("train", [9, 42]), ("restval", [42]), ("val", [10]), ("test", [11])],
    )
    def test_splits(self, folder, split, numbers):
        found = DATA.get("karpathy").function(folder, split)
        assert [image.image_id for image in found] == numbers
        assert found == karpathy(folder / "dataset_coco.json", split)
        assert found[0].captions == (f"Picture {numbers[0]}.",)
        assert all(image.image.is_file() for image in found)
        assert "sentences" not in found[0].about

    def test_files_that_name_no_folder(self, folder):
        content = split_file()
        for entry in content["images"]:
            del entry["filepath"], entry["cocoid"]
            draw(folder / "images" / entry["filename"])
        write(folder / "dataset_coco.json", content)
        assert [image.image.parent.name for image in karpathy(folder, "train")] == ["images"] * 2
        assert karpathy(folder, "val")[0].image_id == 0

    def test_missing_things_are_named(self, folder):
        with pytest.raises(InputError, match="got 'dev'"):
            karpathy(folder, "dev")
        (folder / "images/val2014/COCO_42.jpg").unlink()
        with pytest.raises(InputError, match=r"1 of 2 pictures .*: val2014/COCO_42\.jpg"):
            karpathy(folder)
        write(folder / "dataset_flickr8k.json", {})
        with pytest.raises(InputError, match=r"must hold one dataset_coco\.json, and holds 2"):
            karpathy(folder)
        with pytest.raises(InputError, match="holds none"):
            karpathy(folder / "images")

    @pytest.mark.parametrize(
        ("edit", "words"),
        [
            (lambda c: c.pop("images"), 'no list "images"'),
            (lambda c: c["images"][1].pop("filename"), "1 of 4 .*: entry 1"),
            (lambda c: c["images"][2].update(sentences=[]), "1 of 4 .*: entry 2"),
            (lambda c: c["images"][3]["sentences"][0].pop("raw"), "1 of 4 .*: entry 3"),
            (lambda c: c["images"].pop(3), "no image of .* is in the split 'test'"),
        ],
    )
    def test_broken_files_are_refused(self, folder, edit, words):
        content = split_file()
        edit(content)
        write(folder / "dataset_coco.json", content)
        with pytest.raises(InputError, match=words):
            karpathy(folder, "test")
