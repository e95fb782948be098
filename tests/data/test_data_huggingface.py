"""Everything that Hugging Face `datasets` reads, on folders and files made here."""

import gc
import io
import json
import sys
import tarfile
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from relmap.data import DATA
from relmap.data.huggingface import huggingface
from relmap.errors import InputError, MissingExtraError
from relmap.request.readers import read_image

datasets = pytest.importorskip(
    "datasets", reason="datasets, of the extra evaluate, is not installed"
)
pyarrow = pytest.importorskip("pyarrow", reason="it comes with datasets")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """Nothing is left in the user's cache, and hardly anything in this one."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
    yield
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) == 0


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.full((4, 6, 3), 10 * seed, dtype=np.uint8))


def as_bytes(seed: int) -> bytes:
    file = io.BytesIO()
    picture(seed).save(file, "PNG")
    return file.getvalue()


def shows(image, seed: int) -> bool:
    return read_image(image).tobytes() == picture(seed).tobytes()


def write_lines(path, entries):
    path.write_text("".join(json.dumps(one) + "\n" for one in entries), encoding="utf-8")


def write_shard(path, samples: Iterator[dict[str, bytes]]):
    with tarfile.open(path, "w") as tar:
        for key, parts in enumerate(samples):
            for ending, content in parts.items():
                member = tarfile.TarInfo(f"{key:05d}.{ending}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def write_parquet(path, rows: dict, features: dict):
    table = datasets.Dataset.from_dict(rows, features=datasets.Features(features))
    datasets.disable_progress_bars()
    table.to_parquet(path)


def test_a_folder_of_images_has_classes_by_name_of_folder(tmp_path):
    for name, seed in (("cat/1.png", 1), ("dog/2.png", 2), ("dog/3.png", 3)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        picture(seed).save(tmp_path / name)
    (tmp_path / "dog/2.png").write_bytes(b"no picture")
    examples = list(DATA.get("huggingface").function(f"imagefolder:{tmp_path}"))
    assert [one.name for one in examples] == ["0", "1", "2"]
    assert [one.label for one in examples] == [0, 1, 1]
    assert [one.about["label_name"] for one in examples] == ["cat", "dog", "dog"]
    assert shows(examples[0].image, 1)
    assert shows(examples[2].image, 3)
    with pytest.raises(InputError, match="cannot be read"):  # only where it is opened
        read_image(examples[1].image)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_table_of_an_image_folder_is_kept(tmp_path):
    picture(1).save(tmp_path / "1.png")
    (tmp_path / "metadata.csv").write_text("file_name,caption\n1.png,a dark picture\n")
    (example,) = huggingface(f"imagefolder:{tmp_path}")
    assert example.text == "a dark picture"
    assert shows(example.image, 1)
    gc.collect()  # `datasets` leaves the table open: let it be said here, not in another test


def test_a_text_file_has_a_text_a_line_and_a_folder_a_text_a_file(tmp_path):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/a.txt").write_text("one line\nanother\n")
    (tmp_path / "texts/b.txt").write_text("a third")
    lines = list(huggingface(f"text:{tmp_path / 'texts/a.txt'}"))
    assert [(one.name, one.text) for one in lines] == [("0", "one line"), ("1", "another")]
    files = list(huggingface(f"text:{tmp_path / 'texts'}", split="test"))
    assert [one.text.strip() for one in files] == ["one line\nanother", "a third"]


def test_json_lines_with_the_columns_one_names(tmp_path):
    rows = [
        {"review": f"text {at}", "stars": at, "key": f"k{at}", "extra": [at]} for at in range(3)
    ]
    write_lines(tmp_path / "rows.jsonl", rows)
    address = f"json:{tmp_path / 'rows.jsonl'}"
    examples = list(huggingface(address, "val", text="review", label="stars", name="key"))
    assert [(one.name, one.text, one.label) for one in examples] == [
        ("k0", "text 0", 0),
        ("k1", "text 1", 1),
        ("k2", "text 2", 2),
    ]
    assert examples[2].about == {"extra": [2]}
    with pytest.raises(InputError, match=r"neither a picture nor a text .* review, stars"):
        huggingface(address)
    with pytest.raises(InputError, match="no column 'score' for label; it has review"):
        huggingface(address, text="review", label="score")


def test_a_csv_file_with_paths_and_missing_labels(tmp_path):
    picture(2).save(tmp_path / "2.png")
    text = "image,question,label\n2.png,what is it?,1\nnowhere.png,and this?,\n"
    (tmp_path / "rows.csv").write_text(text)
    first, second = huggingface(f"csv:{tmp_path / 'rows.csv'}")
    assert (first.text, first.label, second.label) == ("what is it?", 1, None)
    assert shows(first.image, 2)  # relative to the table
    with pytest.raises(InputError, match="not there"):
        read_image(second.image)


def test_whole_floats_are_labels_and_nan_is_none(
    tmp_path,
):
    rows = {"text": ["a", "b", "c", "d"], "label": [2.0, float("nan"), 0.5, None]}
    features = {"text": datasets.Value("string"), "label": datasets.Value("float64")}
    write_parquet(tmp_path / "rows.parquet", rows, features)
    labels = [one.label for one in huggingface(f"parquet:{tmp_path / 'rows.parquet'}")]
    assert labels == [2, None, "0.5", None]
    assert isinstance(labels[0], int)


def test_parquet_with_pictures_inside(tmp_path):
    rows = {
        "image": [{"bytes": as_bytes(1), "path": None}, {"bytes": b"broken", "path": None}, None],
        "sentence": ["a", "b", "c"],
        "label": [1, 0, 1],
    }
    features = {
        "image": datasets.Image(),
        "sentence": datasets.Value("string"),
        "label": datasets.ClassLabel(names=["no", "yes"]),
    }
    write_parquet(tmp_path / "rows.parquet", rows, features)
    examples = list(huggingface(f"parquet:{tmp_path / 'rows.parquet'}"))
    assert [(one.text, one.label) for one in examples] == [("a", 1), ("b", 0), ("c", 1)]
    assert [one.about for one in examples] == [{"label_name": n} for n in ("yes", "no", "yes")]
    assert shows(examples[0].image, 1)
    with pytest.raises(InputError, match="not a picture"):
        read_image(examples[1].image)
    assert examples[2].image is None


def test_shards_of_webdataset_follow_each_other(tmp_path):
    for shard in range(2):
        samples = (
            {"png": as_bytes(2 * shard + at), "txt": f"{shard}{at}".encode(), "cls": b"%d" % at}
            for at in range(2)
        )
        write_shard(tmp_path / f"part-{shard}.tar", samples)
    examples = list(huggingface(f"webdataset:{tmp_path}/part-*.tar"))
    assert [one.text for one in examples] == ["00", "01", "10", "11"]
    assert [one.label for one in examples] == [0, 1, 0, 1]
    assert [one.name for one in examples] == ["0", "1", "2", "3"]
    assert all(shows(one.image, at) for at, one in enumerate(examples))
    assert examples[3].about["__key__"] == "00001"


def test_a_local_folder_goes_where_a_name_on_the_hub_goes(tmp_path):
    (tmp_path / "set").mkdir()
    write_lines(tmp_path / "set/train.jsonl", [{"text": "learnt"}])
    write_lines(tmp_path / "set/test.jsonl", [{"text": "asked"}])
    assert [one.text for one in huggingface(tmp_path / "set", "test")] == ["asked"]


def test_a_picture_elsewhere_is_fetched(tmp_path):
    picture(3).save(tmp_path / "3.png")
    there, nowhere = f"file://{tmp_path}/3.png", f"file://{tmp_path}/4.png"
    write_lines(tmp_path / "rows.jsonl", [{"image": there}, {"image": nowhere}])
    first, second = huggingface(f"json:{tmp_path / 'rows.jsonl'}")
    assert shows(first.image, 3)
    with pytest.raises(InputError, match="not there"):
        read_image(second.image)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("json:nowhere.jsonl", "json:nowhere.jsonl cannot be read"),
        ("imagefolder:nowhere", "imagefolder:nowhere cannot be read"),
        ("nobody/nothing", "nobody/nothing cannot be read"),  # the Hub is out of reach here
    ],
)
def test_what_is_not_there_is_refused_at_once(tmp_path, monkeypatch, address, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=words):
        huggingface(address)


def test_a_split_that_is_not_there_and_an_empty_one_are_refused(tmp_path):
    picture(1).save(tmp_path / "1.png")
    with pytest.raises(InputError, match="test"):
        huggingface(f"imagefolder:{tmp_path}", split="test")
    write_parquet(tmp_path / "rows.parquet", {"text": []}, {"text": datasets.Value("string")})
    with pytest.raises(InputError, match=r"the split 'train' of .* is empty"):
        huggingface(f"parquet:{tmp_path / 'rows.parquet'}")


def test_a_file_that_breaks_off_says_where(tmp_path):
    write_shard(tmp_path / "0.tar", ({"txt": b"%d" % at} for at in range(20)))
    whole = (tmp_path / "0.tar").read_bytes()
    (tmp_path / "0.tar").write_bytes(whole[: 512 * 31 + 100])  # within the header of the 16th
    rows, found = huggingface(f"webdataset:{tmp_path}/*.tar"), []
    with pytest.raises(InputError, match=r"row \d+ of .* cannot be read"):
        found += rows
    assert [one.text for one in found] == [str(at) for at in range(len(found))]


def test_without_datasets_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r"relmap\[evaluate\]"):
        huggingface("json:rows.jsonl")


@pytest.mark.parametrize(
    ("kind", "count", "size"), [("json", 20_000, 5_000), ("webdataset", 4_000, 25_000)]
)
def test_memory_does_not_grow_with_the_number_of_samples(tmp_path, kind, count, size):
    file = tmp_path / f"rows.{kind}"
    if kind == "json":
        write_lines(file, ({"text": f"{at} " + size * "x"} for at in range(count)))
    else:
        write_shard(file, ({"txt": f"{at} ".encode() + size * b"x"} for at in range(count)))
    objects, buffers = [], []  # not the system's count, which moves with other programs
    for at, example in enumerate(huggingface(f"{kind}:{file}")):
        assert example.text.startswith(f"{at} ")
        if at % (count // 8) == 0:
            objects.append(sys.getallocatedblocks())
            buffers.append(pyarrow.total_allocated_bytes())
    assert at == count - 1
    # once a quarter has filled the buffers: of the 75 MB that come then nothing stays
    assert max(buffers[2:]) < buffers[2] + 25e6
    assert max(objects[2:]) < objects[2] + count // 2
