"""Formats whose truth judges explanations: ImageNet-Segmentation, ERASER and HateXplain."""

import json
import pickle
import sys

import numpy as np
import pytest
import torch

from relmap.data import DATA
from relmap.data.eraser import eraser
from relmap.data.hatexplain import hatexplain
from relmap.data.imagenet_segmentation import imagenet_segmentation
from relmap.errors import InputError, MissingExtraError


def marked(example) -> list[str]:
    """The words of the text that people marked."""
    return [example.text[start:end] for start, end in example.words]


def write_lines(path, entries):
    path.write_text("".join(json.dumps(one) + "\n" for one in entries), encoding="utf-8")


# --- ImageNet-Segmentation ---

PICTURES = [((7, 5), 0), ((4, 9), 1), ((6, 6), 2)]  # (height, width), seed


def picture_and_mask(size, seed):
    generator = np.random.default_rng(seed)
    picture = generator.integers(0, 256, (*size, 3), dtype=np.uint8)
    mask = np.zeros(size, dtype=np.uint8)
    mask[1 : 3 + seed, 2:4] = 1
    return picture, mask


@pytest.fixture
def segmentation_file(tmp_path):
    """A file in MATLAB's layout: the axes turned round, and references to references."""
    h5py = pytest.importorskip("h5py", reason="h5py, of the extra evaluate, is not installed")
    path = tmp_path / "gtsegs_ijcv.mat"
    with h5py.File(path, "w") as file:
        kind = h5py.ref_dtype
        images = file.create_dataset("/value/img", (len(PICTURES), 1), dtype=kind)
        masks = file.create_dataset("/value/gt", (len(PICTURES), 1), dtype=kind)
        for at, (size, seed) in enumerate(PICTURES):
            picture, mask = picture_and_mask(size, seed)
            image = file.create_dataset(f"/#refs#/img{at}", data=picture.transpose(2, 1, 0))
            first = file.create_dataset(f"/#refs#/gt{at}", data=mask.T)
            other = file.create_dataset(f"/#refs#/other{at}", data=1 - mask.T)
            cell = file.create_dataset(f"/#refs#/cell{at}", (2, 1), dtype=kind)
            cell[0, 0], cell[1, 0] = first.ref, other.ref
            images[at, 0], masks[at, 0] = image.ref, cell.ref
    return path


def test_imagenet_segmentation_turns_its_arrays_and_takes_the_first_mask(segmentation_file):
    for place in (segmentation_file, str(segmentation_file.parent)):
        examples = DATA.get("imagenet-segmentation").function(place)
        assert len(examples) == 3
        assert [one.name for one in examples] == ["00000", "00001", "00002"]
        for example, (size, seed) in zip(examples, PICTURES, strict=True):
            picture, mask = picture_and_mask(size, seed)
            assert np.array_equal(example.image, picture)
            assert torch.equal(example.mask(), torch.from_numpy(mask == 1))
            assert (example.label, example.text) == (None, None)


def test_imagenet_segmentation_is_read_when_asked_for(segmentation_file):
    examples = imagenet_segmentation(segmentation_file)
    assert [one.name for one in examples[1:]] == ["00001", "00002"]
    assert examples[-1].name == "00002"
    with pytest.raises(IndexError):
        examples[3]
    again = pickle.loads(pickle.dumps(examples))  # no open file travels
    assert np.array_equal(again[1].image, examples[1].image)
    assert torch.equal(pickle.loads(pickle.dumps(examples[1])).mask(), examples[1].mask())


def test_a_file_that_is_not_imagenet_segmentation_is_refused(tmp_path, segmentation_file):
    h5py = pytest.importorskip("h5py", reason="h5py, of the extra evaluate, is not installed")
    with pytest.raises(InputError, match=r"has no gtsegs_ijcv\.mat"):
        imagenet_segmentation(tmp_path.parent)
    other = tmp_path / "other.mat"
    other.write_bytes(b"MATLAB 5.0 MAT-file, Platform: none")
    with pytest.raises(InputError, match="is no HDF5 file"):
        imagenet_segmentation(other)
    with h5py.File(tmp_path / "empty.mat", "w") as file:
        file.create_dataset("/value/img", (2, 3), dtype="f4")
    with pytest.raises(InputError, match=r"found \(2, 3\) and None"):
        imagenet_segmentation(tmp_path / "empty.mat")
    with h5py.File(segmentation_file, "r+") as file:
        file["/value/img"][1, 0] = file["/#refs#/gt1"].ref  # a mask, where a picture should be
        file["/value/gt"][2, 0] = h5py.Reference()  # nothing
    examples = imagenet_segmentation(segmentation_file)
    with pytest.raises(InputError, match=r"number 1 of /value/img .* shape"):
        examples[1]
    with pytest.raises(InputError, match="number 2 of /value/gt"):
        examples[2].mask()


def test_without_h5py_the_extra_is_named(tmp_path, monkeypatch):
    (tmp_path / "gtsegs_ijcv.mat").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(MissingExtraError, match=r"relmap\[evaluate\]"):
        imagenet_segmentation(tmp_path)


# --- ERASER ---


def passage(document, start, end):
    return {
        "docid": document,
        "start_token": start,
        "end_token": end,
        "start_sentence": -1,
        "end_sentence": -1,
        "text": "",
    }


@pytest.fixture
def movies(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/posR_1.txt").write_text(
        "a film , of  sorts\n\n  it is\u00a0very good ! \n", encoding="utf-8"
    )
    (tmp_path / "docs/negR_2.txt").write_text("dull\nas can be", encoding="utf-8")
    entries = [
        {
            "annotation_id": "posR_1.txt",
            "classification": "POS",
            "docids": None,
            "evidences": [[passage("posR_1.txt", 6, 9)], [passage("posR_1.txt", 1, 2)]],
            "query": "What is the sentiment of this review?",
            "query_type": None,
        },
        {
            "annotation_id": "negR_2.txt",
            "classification": "NEG",
            "evidences": [],
            "query": "What is the sentiment of this review?",
        },
    ]
    write_lines(tmp_path / "test.jsonl", entries)
    return tmp_path


def test_eraser_counts_tokens_as_its_authors_do(movies):
    good, bad = DATA.get("eraser").function(str(movies))
    assert good.text == "a film , of sorts it is\u00a0very good !"
    assert marked(good) == ["film", "is\u00a0very", "good", "!"]
    assert (good.name, good.label) == ("posR_1.txt", "POS")
    assert good.about["query"].startswith("What is the sentiment")
    assert (bad.text, bad.words, bad.label) == ("dull as can be", (), "NEG")
    assert good.about["documents"] == ("posR_1.txt",)


def test_several_documents_follow_each_other(movies):
    both = [[passage("negR_2.txt", 0, 1), passage("posR_1.txt", 0, 2)]]
    entry = {"annotation_id": "two", "classification": "x", "evidences": both}
    write_lines(movies / "val.jsonl", [entry, entry | {"docids": ["posR_1.txt", "negR_2.txt"]}])
    as_named, as_listed = eraser(movies, "validation")
    assert as_named.text == "dull as can be a film , of sorts it is\u00a0very good !"
    assert marked(as_named) == ["dull", "a", "film"]
    assert marked(as_listed) == ["a", "film", "dull"]
    assert as_listed.text.startswith("a film")


def test_documents_may_lie_in_one_file(movies):
    names = ("posR_1.txt", "negR_2.txt")
    listed = [{"docid": name, "document": (movies / "docs" / name).read_text()} for name in names]
    write_lines(movies / "docs.jsonl", listed)
    expected = eraser(movies)
    for name in names:
        (movies / "docs" / name).unlink()
    (movies / "docs").rmdir()
    assert eraser(movies) == expected


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"evidences": [[passage("posR_1.txt", 6, 10)]]}, "1 of 1 annotations .* do not have"),
        ({"evidences": [[passage("posR_1.txt", 3, 2)]]}, "1 of 1 annotations .* do not have"),
        ({"evidences": [[passage("nowhere", 0, 1)]]}, "1 of 1 documents .*missing or empty"),
        ({"evidences": [passage("posR_1.txt", 0, 1)]}, "line 1"),
        ({"evidences": [[{"docid": 3}]]}, "line 1"),
        ({"annotation_id": "nowhere"}, "1 of 1 documents .*nowhere"),
    ],
)
def test_annotations_that_do_not_fit_are_refused(movies, change, words):
    entry = {"annotation_id": "posR_1.txt", "classification": "POS", "evidences": []}
    write_lines(movies / "test.jsonl", [entry | change])
    with pytest.raises(InputError, match=words):
        eraser(movies)


def test_a_folder_that_is_not_eraser_is_refused(movies):
    with pytest.raises(InputError, match=r"train\.jsonl cannot be read: No such file"):
        eraser(movies, "train")
    with pytest.raises(InputError, match="a split of ERASER is"):
        eraser(movies, "dev")
    (movies / "test.jsonl").write_text("{\n")
    with pytest.raises(InputError, match="one JSON object a line"):
        eraser(movies)
    write_lines(movies / "test.jsonl", [{"annotation_id": "posR_1.txt"}])
    with pytest.raises(InputError, match="no classification"):
        eraser(movies)
    write_lines(movies / "test.jsonl", [])
    (movies / "docs").rename(movies / "papers")
    with pytest.raises(InputError, match=r"neither docs/ nor docs\.jsonl"):
        eraser(movies)


def test_marks_by_sentence_only_are_no_marks_of_words(movies):
    entry = {"annotation_id": "posR_1.txt", "classification": "POS"}
    write_lines(movies / "test.jsonl", [entry | {"evidences": [[passage("posR_1.txt", -1, -1)]]}])
    assert eraser(movies)[0].words == ()


# --- HateXplain ---

POST = ["you", "are", "a", "dull", "👋", "lot"]
MARKS = [[0, 0, 0, 1, 1, 0], [1, 0, 0, 1, 0, 0], [1, 0, 0, 1, 1, 0]]


def post(labels, rationales, name="1_gab"):
    return {
        "id": name,
        "annotators": {"label": labels, "annotator_id": [1, 2, 3], "target": [["None"]] * 3},
        "rationales": rationales,
        "post_tokens": POST,
    }


@pytest.mark.parametrize(
    ("rationale", "marks", "words"),
    [
        ("majority", MARKS, ["you", "dull", "👋"]),  # two of three
        ("majority", MARKS[:2], ["you", "dull", "👋"]),  # one of two is half
        ("majority", MARKS[:1], ["dull", "👋"]),
        ("union", MARKS, ["you", "dull", "👋"]),
        ("all", MARKS, ["dull"]),
        ("union", [[0, 1, 0, 0, 0, 0], *MARKS[1:]], ["you", "are", "dull", "👋"]),
        ("majority", [[0, 1, 0, 0, 0, 0], *MARKS[1:]], ["you", "dull"]),
    ],
)
def test_words_of_hatexplain_are_those_that_enough_annotators_marked(
    tmp_path, rationale, marks, words
):
    write_lines(tmp_path / "hatexplain_validation.json", [post([2, 0, 2], marks)])
    (example,) = DATA.get("hatexplain").function(str(tmp_path), rationale=rationale)
    assert example.text == "you are a dull 👋 lot"
    assert (example.name, example.label) == ("1_gab", 2)
    assert example.about["label_name"] == "offensive"
    assert marked(example) == words


def test_the_majority_decides_and_ties_are_left_out(tmp_path):
    posts = [
        post([0, 0, 2], MARKS[:2], "a"),
        post([0, 1, 2], MARKS[:2], "b"),
        post([1, 2, 1], [], "c"),
        post([1, 2, 1], MARKS[:1], "d"),
    ]
    write_lines(tmp_path / "posts.json", posts)
    examples = hatexplain(tmp_path / "posts.json")
    assert [(one.name, one.label, one.words is None) for one in examples] == [
        ("a", 0, False),
        ("c", 1, True),
        ("d", 1, True),
    ]


def test_the_authors_own_file_says_the_same(tmp_path):
    names = ("hatespeech", "normal", "offensive")
    posts = [post([2, 0, 2], MARKS, "a"), post([1, 1, 1], [], "b"), post([0, 0, 0], MARKS, "c")]
    write_lines(tmp_path / "hatexplain_validation.json", posts[:2])
    expected = hatexplain(tmp_path)
    whole = {
        one["id"]: {
            "post_id": one["id"],
            "annotators": [{"label": names[number]} for number in one["annotators"]["label"]],
            "rationales": one["rationales"],
            "post_tokens": one["post_tokens"],
        }
        for one in posts
    }
    (tmp_path / "dataset.json").write_text(json.dumps(whole))
    division = {"train": ["c"], "val": ["a", "b"], "test": ["b"]}
    (tmp_path / "post_id_divisions.json").write_text(json.dumps(division))
    assert hatexplain(tmp_path) == expected
    assert [one.label for one in hatexplain(tmp_path, "train")] == [0]
    assert [one.name for one in hatexplain(tmp_path, "test")] == ["b"]
    division["val"] = ["a", "z"]
    (tmp_path / "post_id_divisions.json").write_text(json.dumps(division))
    with pytest.raises(InputError, match=r"1 of 2 posts of the split 'val' are not in .*: z"):
        hatexplain(tmp_path)
    del division["test"]
    (tmp_path / "post_id_divisions.json").write_text(json.dumps(division))
    with pytest.raises(InputError, match="no split 'test'"):
        hatexplain(tmp_path, "test")


def test_the_table_of_training_posts_has_no_marks(tmp_path):
    text = 'text,majority_label,severity\n"you, there",2,High\nhello,1,Medium\n'
    (tmp_path / "train.csv").write_text(text)
    examples = hatexplain(tmp_path, "train")
    assert [(one.name, one.text, one.label, one.words) for one in examples] == [
        ("train-0", "you, there", 2, None),
        ("train-1", "hello", 1, None),
    ]
    (tmp_path / "train.csv").write_text(text + "what,3,Low\n")
    with pytest.raises(InputError, match=r"1 of 3 rows .*: row 2"):
        hatexplain(tmp_path, "train")


@pytest.mark.parametrize(
    "change",
    [
        {"post_tokens": []},
        {"post_tokens": ["a", ""]},
        {"rationales": [[0, 1]]},
        {"annotators": {"label": [0, 3, 0]}},
        {"annotators": {"label": []}},
        {"annotators": [{"label": ["normal"]}]},
    ],
)
def test_broken_posts_are_counted(tmp_path, change):
    posts = [post([0, 0, 0], MARKS), post([0, 0, 0], MARKS) | change]
    write_lines(tmp_path / "hatexplain_validation.json", posts)
    with pytest.raises(InputError, match=r"1 of 2 posts .*: post 1"):
        hatexplain(tmp_path)


def test_wrong_calls_of_hatexplain_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"neither a dataset\.json nor a hatexplain_valid"):
        hatexplain(tmp_path)
    with pytest.raises(InputError, match="a split of HateXplain is"):
        hatexplain(tmp_path, "dev")
    with pytest.raises(InputError, match="rationale is"):
        hatexplain(tmp_path, rationale="most")
    (tmp_path / "hatexplain_validation.json").write_text("[")
    with pytest.raises(InputError, match="not JSON"):
        hatexplain(tmp_path)
    write_lines(tmp_path / "hatexplain_validation.json", [post([0, 1, 2], MARKS)])
    with pytest.raises(InputError, match="no post on whose class"):
        hatexplain(tmp_path)


def test_the_real_validation_posts_are_read(shared):
    folder = shared / "data" / "hatexplain"
    if not folder.is_dir():
        pytest.skip("HateXplain is not among the reference data")
    examples = hatexplain(folder)
    assert [sum(one.label == label for one in examples) for label in range(3)] == [593, 781, 548]
    judged = [one for one in examples if one.words is not None]
    assert len(judged) == 593 + 548
    assert all(set(marked(one)) <= set(one.text.split(" ")) for one in judged)
    assert all(one.words for one in judged)
    table = hatexplain(folder, "train")
    counts = [sum(one.label == label for one in table) for label in range(3)]
    # four fifths of the 5935 hateful, 7814 normal and 5480 offensive posts of the paper
    assert counts == [4748, 6251, 4384]
