"""The synthetic world: its answers are re-derived here from nothing but text, boxes and names."""

import json
import re
from collections import Counter, defaultdict
from itertools import combinations

import numpy as np
import pytest
from PIL import Image

from clipmapper.formats.vqa_v2 import vqa_v2
from clipmapper.scenes import (
    COLOURS,
    KINDS,
    SHAPES,
    SIZES,
    UNSEEN_PAIRS,
    draw_masks,
    draw_scene,
    sample_siblings,
    write_scenes,
    writing,
)
from clipmapper.scenes.questions import survives
from relmap.data.coco_captions import coco_captions
from relmap.errors import InputError

SPLITS = {"train": 60, "val": 20, "test": 20}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp("world") / "scenes", seed=3, **SPLITS)


def read(world, name):
    return json.loads((world / name).read_text())


def things(world, split):
    """Per image, what the instances file says: id, size, colour, shape and centre of each thing."""
    content = read(world, f"annotations/instances_{split}.json")
    names = {one["id"]: one["name"].split() for one in content["categories"]}
    found = defaultdict(list)
    for one in content["annotations"]:
        mask = unpack(one["segmentation"])
        y, x = np.nonzero(mask)
        size, colour, shape = names[one["category_id"]]
        about = {"id": one["id"], "size": size, "colour": colour, "shape": shape, "mask": mask}
        found[one["image_id"]].append(about | {"x": float(x.mean()), "y": float(y.mean())})
    return found


def unpack(segmentation):
    height, width = segmentation["size"]
    pixels, value = [], 0
    for count in segmentation["counts"]:
        pixels += [value] * count
        value = 1 - value
    assert len(pixels) == height * width
    return np.array(pixels).reshape(width, height).T == 1


def matching(phrase, scene):
    """The things that a phrase such as "the small red things" speaks of."""
    words = [word.removesuffix("s") for word in re.findall(r"[a-z]+", phrase)]
    wanted = [word for word in words if word in SIZES + COLOURS + SHAPES]
    assert wanted, phrase
    return [one for one in scene if set(wanted) <= {one["size"], one["colour"], one["shape"]}]


def the(phrase, scene):
    (one,) = matching(phrase, scene)
    return one


def pick(condition, no, yes):
    return yes if condition else no


def side(word, one, other):
    return {
        "left": one["x"] < other["x"],
        "right": one["x"] > other["x"],
        "above": one["y"] < other["y"],
        "below": one["y"] > other["y"],
    }[word]


RULES = (
    (r"what (colour|shape) is the thing (left|right|above|below)(?: of)? the (.*)\?", "open"),
    (r"what (colour|shape|size) is the (.*)\?", "attribute"),
    (r"where is the (.*)\?", "where"),
    (r"how many (.*) are there\?", "count"),
    (r"is there an? (.*)\?", "exists"),
    (r"are there more or fewer (.*) than (.*)\?", "counts"),
    (r"is the (.*) (left) or right of the (.*)\?", "choice"),
    (r"is the (.*) (above) or below the (.*)\?", "choice"),
    (r"is the (.*) larger or smaller than the (.*)\?", "sizes"),
    (r"is the (.*) (larger|smaller) than the (.*)\?", "size"),
    (r"is the (.*) (left|right|above|below)(?: of)? the (.*)\?", "side"),
)


def solve(question, scene):
    """The answer and the ids of the things it depends on, read off the text alone."""
    rule, found = next(
        (rule, found) for pattern, rule in RULES if (found := re.fullmatch(pattern, question))
    )
    parts = found.groups()
    if rule == "open":
        origin = the(parts[2], scene)
        (one,) = [a for a in scene if a is not origin and side(parts[1], a, origin)]
        return one[parts[0]], [one, origin]
    if rule == "attribute":
        return the(parts[1], scene)[parts[0]], [the(parts[1], scene)]
    if rule == "where":
        one = the(parts[0], scene)
        down, across = one["y"] > 56, one["x"] > 56
        return f"{('top', 'bottom')[down]} {('left', 'right')[across]}", [one]
    if rule == "count":
        return str(len(matching(parts[0], scene))), matching(parts[0], scene)
    if rule == "exists":
        return pick(bool(matching(parts[0], scene)), "no", "yes"), matching(parts[0], scene)
    if rule == "counts":
        ones, others = matching(parts[0], scene), matching(parts[1], scene)
        assert len(ones) != len(others)
        return pick(len(ones) > len(others), "fewer", "more"), [*ones, *others]
    one, other = the(parts[0], scene), the(parts[-1], scene)
    if rule in ("size", "sizes"):
        assert one["size"] != other["size"]
        word = "larger" if one["size"] == "large" else "smaller"
        if rule == "sizes":
            return word, [one, other]
        return pick(word == parts[1], "no", "yes"), [one, other]
    if rule == "choice":
        opposite = {"left": "right", "above": "below"}[parts[1]]
        return pick(side(parts[1], one, other), opposite, parts[1]), [one, other]
    return pick(side(parts[1], one, other), "no", "yes"), [one, other]


@pytest.mark.parametrize("split", SPLITS)
def test_answers_and_evidence_follow_from_the_text(world, split):
    scenes = things(world, split)
    questions = read(world, f"v2_OpenEnded_scenes_{split}_questions.json")["questions"]
    annotations = read(world, f"v2_scenes_{split}_annotations.json")["annotations"]
    assert len(questions) == len(annotations) > 100
    for question, annotation in zip(questions, annotations, strict=True):
        assert question["question_id"] == annotation["question_id"]
        answer, evidence = solve(question["question"], scenes[question["image_id"]])
        assert annotation["multiple_choice_answer"] == answer, question
        assert {one["answer"] for one in annotation["answers"]} == {answer}
        assert len(annotation["answers"]) == 10
        assert set(annotation["evidence"]["objects"]) == {one["id"] for one in evidence}
    assert {one["question_type"] for one in annotations} == set(KINDS)


def test_the_words_that_carry_a_question_are_all_marked(world):
    plain = {"what", "is", "the", "are", "there", "a", "an", "thing", "things", "or", "of", "than"}
    questions = read(world, "v2_OpenEnded_scenes_train_questions.json")["questions"]
    annotations = read(world, "v2_scenes_train_annotations.json")["annotations"]
    for question, annotation in zip(questions, annotations, strict=True):
        text = question["question"]
        marked = [text[start:end] for start, end in annotation["evidence"]["words"]]
        said = [word for word in re.findall(r"[a-z]+", text) if word not in plain]
        exempt = ["is", "there"] if annotation["question_type"] == "exists" else []
        assert marked == exempt + said


def needed_besides(solve, scene, found):
    """The things that are no evidence, yet without which the question has another answer."""
    lost = []
    for gone in set(range(len(scene.things))) - set(found[1]):
        without = solve([thing for at, thing in enumerate(scene.things) if at != gone])
        if without is None or without[0] != found[0]:
            lost.append(gone)
    return lost


def test_what_is_needed_besides_the_evidence_is_noticed():
    scene = sample_siblings(np.random.default_rng(0), held_out=False)[0]
    whole = len(scene.things)
    assert needed_besides(lambda left: (str(len(left)), ()), scene, (str(whole), (0,)))
    assert not needed_besides(lambda left: ("yes", ()), scene, ("yes", (0,)))


def test_no_answer_survives_without_its_evidence():
    random = np.random.default_rng(5)
    checked = 0
    for scene in sample_siblings(random, held_out=False) + sample_siblings(random, held_out=True):
        for kind in sorted(KINDS.keys() - {"count", "exists"}):
            for query in KINDS[kind](scene, random):
                found = query.solve(scene.things)
                if found is None:
                    continue
                checked += 1
                assert not survives(query.solve, scene, found)
                assert not needed_besides(query.solve, scene, found)
    assert checked > 100


def test_survives_notices_an_answer_that_stays():
    scene = sample_siblings(np.random.default_rng(0), held_out=False)[0]
    assert survives(lambda _: ("yes", (0,)), scene, ("yes", (0,)))
    whole = len(scene.things)
    assert not survives(lambda left: (str(len(left) == whole), ()), scene, ("True", (0, 1)))


def test_unseen_pairs_are_only_in_the_held_out_split(world):
    for split in SPLITS:
        pairs = [
            {(one["colour"], one["shape"]) for one in scene}
            for scene in things(world, split).values()
        ]
        has = [bool(found & UNSEEN_PAIRS) for found in pairs]
        assert all(has) if split == "test" else not any(has)
    spoken = (world / "v2_OpenEnded_scenes_train_questions.json").read_text()
    spoken += (world / "annotations" / "captions_train.json").read_text()
    for colour, shape in UNSEEN_PAIRS:
        assert f"{colour} {shape}" not in spoken


def test_things_keep_apart_and_inside_and_half_of_the_scenes_are_crowded(world):
    sizes = Counter()
    for scene in things(world, "train").values():
        sizes[len(scene)] += 1
        for one, other in combinations(scene, 2):
            assert not (one["mask"] & other["mask"]).any()
    assert set(sizes) == {2, 3, 4, 5}


def test_crowds_are_as_frequent_as_they_should_be():
    random = np.random.default_rng(11)
    first = [len(sample_siblings(random, held_out=False)[0].things) for _ in range(300)]
    assert 0.43 < np.mean(np.array(first) >= 4) < 0.57


def test_answers_are_balanced_within_a_kind(world):
    counts = defaultdict(Counter)
    for one in read(world, "v2_scenes_train_annotations.json")["annotations"]:
        counts[one["question_type"]][one["multiple_choice_answer"]] += 1
    for kind in ("exists", "size", "left-or-right", "size-yes-no", "relation-yes-no"):
        assert max(counts[kind].values()) / counts[kind].total() < 0.62, kind
    majority = sum(max(one.values()) for one in counts.values())
    assert majority / sum(one.total() for one in counts.values()) < 0.45


def test_the_loaders_of_the_official_formats_read_it(world):
    questions = vqa_v2(world, "val")
    assert all(one.image.is_file() for one in questions)
    assert {one.kind for one in questions} == set(KINDS)
    assert all(one.answers == {one.humans[0]: 1.0} for one in questions)
    assert all(one.about["evidence"]["words"] for one in questions)
    captioned = coco_captions(world, "val")
    assert len(captioned) == 20
    assert all(len(one.captions) == 5 for one in captioned)


def test_captions_name_what_is_there(world):
    scenes = things(world, "val")
    for one in coco_captions(world, "val"):
        whole = sorted(f"a {a['size']} {a['colour']} {a['shape']}" for a in scenes[one.image_id])
        phrases = sorted(re.findall(r"a (?:small|large) [a-z]+ [a-z]+", one.captions[0]))
        assert phrases == whole
        for caption in one.captions[1:]:
            assert set(re.findall(r"a (?:small|large) [a-z]+ [a-z]+", caption)) <= set(whole)


def test_masks_are_where_the_colour_is():
    scene = sample_siblings(np.random.default_rng(2), held_out=False)[0]
    picture = draw_scene(scene).astype(int)
    saturation = picture.max(2) - picture.min(2)
    for mask in draw_masks(scene):
        assert saturation[mask].mean() > 80
    rest = ~draw_masks(scene).any(0)
    assert np.median(saturation[rest]) < 40


def test_the_same_seed_gives_the_same_files_on_any_number_of_processes(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "_BLOCK", 8)
    sizes = {"train": 12, "val": 4, "test": 4}
    one = write_scenes(tmp_path / "one", seed=9, **sizes)
    two = write_scenes(tmp_path / "two", seed=9, processes=2, **sizes)
    other = write_scenes(tmp_path / "other", seed=10, **sizes)
    files = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
    assert len(files) == 20 + 4 * 3
    assert all((one / name).read_bytes() == (two / name).read_bytes() for name in files)
    assert any((one / name).read_bytes() != (other / name).read_bytes() for name in files)


def test_pictures_are_of_the_size_they_say(world):
    with Image.open(next((world / "val").glob("*.png"))) as picture:
        assert picture.size == (112, 112)
        assert picture.mode == "RGB"


@pytest.mark.parametrize("wrong", [{"train": -1}, {"questions_per_image": 0}])
def test_numbers_out_of_range_are_refused(tmp_path, wrong):
    with pytest.raises(InputError):
        write_scenes(tmp_path / "scenes", **wrong)


def test_a_folder_of_scenes_is_not_written_over(world):
    with pytest.raises(InputError, match="already holds scenes"):
        write_scenes(world, train=4, val=0, test=0)
