"""Open-vocabulary segmentation: counts against literal loops, maps against one call per text."""

import json
import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from tiny.data import draw, write
from tiny.trials import measured, pictures, trial_of, vit

import relmap
from clipmapper.demo import demo_scenes
from relmap.data import DATA
from relmap.data.geometry import masks_as_seen
from relmap.data.run_length_masks import encode_mask
from relmap.errors import InputError
from relmap.metrics import METRICS
from relmap.metrics.open_vocabulary_segmentation import (
    judge_regions,
    open_vocabulary_segmentation,
)

NAMES = {3: "a small red circle", 5: "a large blue square", 9: "a small green star"}
SIZE = 8


def regions_of(drawn):
    """Class by pixel, 0 where nobody labelled -> the pixels of each class."""
    return {int(one): drawn == one for one in drawn.unique() if one > 0}


def sample(seed, classes=4):
    """Maps of some classes at the size of their pictures, and what is there."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(classes, SIZE, SIZE, generator=generator)
    drawn = torch.zeros(SIZE, SIZE, dtype=torch.long)
    drawn[1:4, 1:5], drawn[4:7, 2:8] = 1 + seed % classes, 1 + (seed + 1) % classes
    return scores, drawn


def literal(samples, classes, rescale=False):
    """The four numbers of a data set, pixel by pixel."""
    both, either = [0] * (classes + 1), [0] * (classes + 1)
    right = labelled = 0
    contrasts, tables = [], []
    for scores, drawn in samples:
        low, high = scores.amin(dim=(1, 2)), scores.amax(dim=(1, 2))
        units = (scores - low[:, None, None]) / (high - low)[:, None, None]
        used = units if rescale else scores
        for row in range(SIZE):
            for column in range(SIZE):
                truth = int(drawn[row, column])
                if truth == 0:
                    continue
                values = used[:, row, column].tolist()
                said = 1 + values.index(max(values))
                labelled += 1
                right += said == truth
                for one in {said, truth}:
                    either[one] += 1
                both[truth] += said == truth
        for one in sorted(set(drawn.flatten().tolist()) - {0}):
            unit = units[one - 1]
            inside = [unit[p].item() for p in np.ndindex(SIZE, SIZE) if drawn[p] == one]
            outside = [unit[p].item() for p in np.ndindex(SIZE, SIZE) if drawn[p] != one]
            contrasts.append(sum(inside) / len(inside) - sum(outside) / len(outside))
            table = []
            for step in range(20):
                cut = [value > step / 20 for value in inside], [v > step / 20 for v in outside]
                table.append(sum(cut[0]) / (len(inside) + sum(cut[1])))
            tables.append(table)
    shares = [b / e for b, e in zip(both, either, strict=True) if e]
    best = max(sum(column) / len(tables) for column in zip(*tables, strict=True))
    return {
        "mIoU": sum(shares) / len(shares),
        "pixel-accuracy": right / labelled,
        "mIoU-present": best,
        "mSC": sum(contrasts) / len(contrasts),
    }


def summed_up(found):
    """What the metric says of a data set, from what was found in each picture."""
    values = {
        "correct": np.array([one.get("correct", math.nan) for one in found], dtype=float),
        "labelled": np.array([one.get("labelled", math.nan) for one in found], dtype=float),
        "detail": np.array([json.dumps(one) for one in found], dtype=object),
    }
    summary = METRICS.get("open-vocabulary-segmentation").summary
    return {name: function(values) for name, function in summary.items()}


@pytest.mark.parametrize("rescale", [False, True])
def test_numbers_are_those_of_a_literal_loop(rescale):
    samples = [sample(seed) for seed in range(6)]
    found = [
        judge_regions(scores, regions_of(drawn), [1, 2, 3, 4], rescale=rescale)
        for scores, drawn in samples
    ]
    wanted = literal(samples, 4, rescale)
    assert summed_up(found) == pytest.approx(wanted, rel=1e-6)
    blank = {"classes": 4}  # a picture that nobody labelled changes nothing
    assert summed_up([*found, blank]) == pytest.approx(wanted, rel=1e-6)
    assert all(math.isnan(one) for one in summed_up([blank]).values())


def test_mean_iou_is_scikit_learns_jaccard():
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    samples = [sample(seed) for seed in range(6)]
    found = [judge_regions(one, regions_of(drawn), [1, 2, 3, 4]) for one, drawn in samples]
    truth = torch.cat([drawn[drawn > 0] for _, drawn in samples])
    said = torch.cat([1 + scores.argmax(0)[drawn > 0] for scores, drawn in samples])
    both = summed_up(found)
    assert both["mIoU"] == pytest.approx(metrics.jaccard_score(truth, said, average="macro"))
    assert both["pixel-accuracy"] == pytest.approx(metrics.accuracy_score(truth, said))


def test_the_truth_scores_highest_and_chance_as_chance():
    truths, opposites, chances = [], [], []
    for seed in range(40):
        scores, drawn = sample(seed)
        exact = torch.stack([(drawn == one).float() for one in (1, 2, 3, 4)])
        for found, maps in ((truths, exact), (opposites, -exact), (chances, scores)):
            found.append(judge_regions(maps, regions_of(drawn), [1, 2, 3, 4]))
    best, worst, random = map(summed_up, (truths, opposites, chances))
    assert list(best.values()) == pytest.approx([1, 1, 1, 1])
    assert worst["mSC"] == pytest.approx(-1)
    assert worst["mIoU"] == worst["pixel-accuracy"] == 0
    assert random["pixel-accuracy"] == pytest.approx(1 / 4, abs=0.03)
    assert random["mSC"] == pytest.approx(0, abs=0.02)
    directions = METRICS.get("open-vocabulary-segmentation").directions
    assert all(one == "higher" for one in directions.values())
    assert all(worst[name] < random[name] < best[name] for name in ("mIoU", "mSC"))


def test_a_constant_map_says_nothing():
    _, drawn = sample(0)
    constant = torch.full((4, 3, 3), 0.1)  # interpolated, it is not constant to the last bit
    found = judge_regions(constant, regions_of(drawn), [1, 2, 3, 4], rescale=True)
    assert found["contrast"] == [0.0, 0.0]
    assert all(both == [0] * 20 for both, _ in found["present"])


@pytest.fixture(scope="module")
def clip():
    return relmap.load("demo:clip")


@pytest.fixture(scope="module")
def examples():
    """Two pictures with boxes for classes: what is true does not matter here."""
    found = []
    for at, one in enumerate(demo_scenes(2)):
        drawn = torch.zeros(one.picture.size[::-1], dtype=torch.long)
        drawn[10:50, 20:70], drawn[60:100, 5:90] = 3 + 2 * at, 9
        found.append(
            relmap.Example(
                str(at), image=one.picture, text="a picture", about={"categories": NAMES},
                regions=partial(regions_of, drawn),
            )
        )  # fmt: skip
    return found


@pytest.mark.parametrize(
    ("method", "prompt", "rescale"),
    [
        ("genatt", "{} here", False),
        ("genatt", "{}", True),
        ("clip-surgery", "{}", False),
        ("random", "{}", False),
    ],
)
def test_maps_are_those_of_the_names_side_by_side(clip, examples, method, prompt, rescale):
    trial = trial_of(clip, examples, method)
    found = open_vocabulary_segmentation(trial, prompt=prompt, rescale=rescale)
    for at, example in enumerate(examples):
        texts = [prompt.replace("{}", name) for name in NAMES.values()]
        attribution = relmap.explain(clip, image=[example.image] * 3, text=texts, method=method)
        known = example.regions()
        seen = masks_as_seen(list(known.values()), clip.processor)
        wanted = judge_regions(
            attribution.image.scores,
            dict(zip(known, seen, strict=True)),
            list(NAMES),
            rescale=rescale,
        )
        assert found["correct"][at] == wanted["correct"]
        assert found["labelled"][at] == wanted["labelled"] == int(seen.any(dim=0).sum())
        said = json.loads(found["detail"][at])
        assert (said["hits"], said["unions"]) == (wanted["hits"], wanted["unions"])
        assert said["contrast"] == pytest.approx(wanted["contrast"], rel=1e-5)


def test_thresholds_are_the_twentieths_below_one():
    ramp = torch.arange(21.0)[None, None]
    whole = torch.ones(1, 21, dtype=torch.bool)
    found = judge_regions(ramp, {1: whole}, [1])
    # above k / 20, strictly, lie the 20 - k values after it
    assert found["present"] == [[[20 - step for step in range(20)], [21] * 20]]
    assert found["contrast"] == pytest.approx([0.5]), "outside of the whole picture lies nothing"


def test_a_picture_without_labels_counts_nowhere(clip, examples):
    bare = replace(examples[1], regions=dict)
    metric = "open-vocabulary-segmentation"
    (alone,) = measured(clip, examples[:1], "rollout", metric)["correct"][None]
    both = measured(clip, [examples[0], bare], "rollout", metric)["correct"][None]
    assert both == [alone, None]


def test_what_cannot_be_judged_is_refused(clip, examples):
    metric = "open-vocabulary-segmentation"

    def refused(model, example, words, options=""):
        with pytest.raises(AssertionError, match=words):  # what `measured` says of failed rows
            measured(model, [example], "rollout", metric + options)

    refused(clip, examples[0], "no {} where the name", ":prompt=a photo")
    refused(clip, replace(examples[0], regions=None), "has no regions")
    refused(clip, replace(examples[0], about={}), "has no regions with the names")
    refused(clip, replace(examples[0], about={"categories": {3: "a circle"}}), "no name")
    refused(vit(), pictures(1)[0], "of kind 'class'")
    _, drawn = sample(0)
    with pytest.raises(InputError, match="NaN"):
        judge_regions(torch.full((4, 2, 2), math.nan), regions_of(drawn), [1, 2, 3, 4])


# --- data -------------------------------------------------------------------------------------


def folder_of(path, values, mode="P"):
    (path / "images").mkdir()
    (path / "labels").mkdir()
    (path / "classes.txt").write_text("1 cat\n\n15 potted plant\n")
    Image.new("RGB", (6, 4)).save(path / "images" / "b.jpg")
    picture = Image.fromarray(np.array(values, dtype=np.uint8))
    picture.convert(mode).save(path / "labels" / "b.png")
    return path


VALUES = [[0, 0, 1, 1, 255, 7]] * 2 + [[15, 15, 1, 0, 0, 0]] * 2


@pytest.mark.parametrize("mode", ["L", "P"])
def test_labels_are_read_as_numbers(tmp_path, mode):
    folder = folder_of(tmp_path, VALUES)
    picture = Image.fromarray(np.array(VALUES, dtype=np.uint8))
    if mode == "P":
        picture = Image.new("P", (6, 4))
        picture.putdata([value for row in VALUES for value in row])
        picture.putpalette([200, 0, 0] * 256)  # colours that say nothing about the classes
    picture.save(folder / "labels" / "b.png")
    (example,) = DATA.get("semantic-segmentation").function(folder)
    assert (example.name, example.text) == ("b", "a photo")
    assert example.about["categories"] == {1: "cat", 15: "potted plant"}
    regions = example.regions()
    assert {number: mask.int().tolist() for number, mask in regions.items()} == {
        one: [[int(value == one) for value in row] for row in VALUES] for one in (1, 15)
    }


def test_broken_folders_of_labels_are_refused(tmp_path):
    read = DATA.get("semantic-segmentation").function
    with pytest.raises(InputError, match="no folder images/"):
        read(tmp_path)
    folder = folder_of(tmp_path, VALUES, mode="RGB")
    with pytest.raises(InputError, match="coloured picture"):
        read(folder)[0].regions()
    (folder / "classes.txt").write_text("cat 1\n")
    with pytest.raises(InputError, match="line 1 of"):
        read(folder)
    (folder / "classes.txt").write_text("1 cat\n1 dog\n")
    with pytest.raises(InputError, match=r"line 2 of .* is no new number"):
        read(folder)
    (folder / "labels" / "b.png").rename(folder / "labels" / "c.png")
    (folder / "classes.txt").write_text("1 cat\n")
    with pytest.raises(InputError, match=r"1 of 1 pictures .* b.jpg"):
        read(folder)
    (folder / "classes.txt").unlink()
    with pytest.raises(InputError, match=r"has no classes\.txt"):
        read(folder)


def write_instances(folder, objects):
    """Annotations of one picture, number 7."""
    content = {
        "images": [{"id": 7, "file_name": "000000000007.png"}],
        "annotations": [{"image_id": 7, **one} for one in objects],
        "categories": [{"id": one, "name": f"class {one}"} for one in (1, 2, 3, 4)],
    }
    write(folder / "annotations" / "instances_val2017.json", content)


def test_coco_objects_overlap_with_the_smaller_in_front(tmp_path):
    pytest.importorskip("pycocotools", reason="pycocotools is not installed")
    (tmp_path / "val2017").mkdir()
    draw(tmp_path / "val2017" / "000000000007.png")
    with Image.open(tmp_path / "val2017" / "000000000007.png") as picture:
        width, height = picture.size
    large = np.zeros((height, width), dtype=bool)
    large[:, : width // 2] = True
    small = np.zeros((height, width), dtype=bool)
    small[: height // 2] = True
    small[:, width - 1] = False
    corner = [0, 0, 1, 0, 1, 1, 0, 1]  # a polygon: the pixel in the corner
    objects = [
        {"category_id": 3, "segmentation": [corner], "area": 1},
        {"category_id": 2, "segmentation": encode_mask(small), "area": 10},
        {"category_id": 1, "segmentation": encode_mask(large), "area": 20},
    ]
    write_instances(tmp_path, objects)
    (example,) = DATA.get("coco-instances").function(tmp_path, text="a photo")
    assert example.text == "a photo"
    regions = {number: mask.numpy() for number, mask in example.regions().items()}
    assert sorted(regions) == [1, 2, 3]
    first = np.zeros_like(small)
    first[0, 0] = True
    assert np.array_equal(regions[3], first)
    assert np.array_equal(regions[2], small & ~first)
    assert np.array_equal(regions[1], large & ~small & ~first)


def test_an_outline_of_another_size_is_refused(tmp_path):
    pytest.importorskip("pycocotools", reason="pycocotools is not installed")
    (tmp_path / "val2017").mkdir()
    draw(tmp_path / "val2017" / "000000000007.png")
    outline = encode_mask(np.ones((2, 3), dtype=bool))
    write_instances(tmp_path, [{"category_id": 1, "segmentation": outline, "area": 6}])
    (example,) = DATA.get("coco-instances").function(tmp_path)
    with pytest.raises(InputError, match="drawn on 3 x 2 pixels, the picture has 6 x 4"):
        example.regions()
