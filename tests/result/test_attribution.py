"""Attributions: views, examples, rankings, and files that are written whole and read safely."""

import json
from dataclasses import replace

import numpy as np
import pytest
import safetensors.torch
import torch

from relmap.errors import InputError
from relmap.result.attribution import Attribution, Layout

GRID = (2, 3)


def image_layout(batch: int) -> Layout:
    special = torch.zeros(batch, 7, dtype=torch.bool)
    special[:, 0] = True
    patches = torch.arange(1, 7)
    none = torch.zeros_like(special)
    return Layout(("pixel_values",), "image", special, none, grid=GRID, patches=patches)


def text_layout(batch: int) -> Layout:
    special = torch.tensor([[True, False, False, True, False]]).expand(batch, -1)
    padding = torch.tensor([[False, False, False, False, True]]).expand(batch, -1)
    tokens = (("[CLS]", "red", "ball", "[SEP]", "[PAD]"),) * batch
    return Layout(("input_ids",), "text", special, padding, tokens=tokens)


def made(batch: int = 2) -> Attribution:
    scores = {
        "pixel_values": torch.arange(7.0 * batch).reshape(batch, 7),
        "input_ids": torch.tensor([[9.0, 1.0, 2.0, 9.0, 0.0]]).repeat(batch, 1),
    }
    layout = {"pixel_values": image_layout(batch), "input_ids": text_layout(batch)}
    names = tuple(f"class {at}" for at in range(batch))
    pictures = [f"picture {at}" for at in range(batch)]
    meta = {"method": "genatt", "options": {"start_layer": 1}}
    return Attribution(scores, layout, names, names[::-1], meta, {"image": pictures})


def test_the_image_holds_patches_only_on_their_grid():
    image = made().image
    assert image.scores.shape == (2, *GRID)
    assert image.scores[0].tolist() == [[1, 2, 3], [4, 5, 6]]
    assert (image.name, image.grid) == ("pixel_values", GRID)


def test_the_grid_follows_the_order_of_the_patches():
    whole = made(1)
    turned = replace(whole.layout["pixel_values"], patches=torch.tensor([6, 5, 4, 3, 2, 1]))
    result = replace(whole, layout=whole.layout | {"pixel_values": turned})
    assert result.image.scores[0].tolist() == [[6, 5, 4], [3, 2, 1]]
    assert turned.label(0, 6) == "row 0, column 0"


def test_the_text_has_tokens_scores_and_special_flags():
    text = made().text
    assert text.tokens[1] == ["[CLS]", "red", "ball", "[SEP]", "[PAD]"]
    assert text.scores.shape == (2, 5)
    assert text.special[0].tolist() == [True, False, False, True, False]


def test_audio_is_over_time_and_on_its_grid():
    none = torch.zeros(1, 4, dtype=torch.bool)
    sound = Layout(("input_values",), "audio", none, none)
    scores = {"input_values": torch.arange(4.0)[None]}
    result = Attribution(scores, {"input_values": sound}, ("a",), ("a",))
    assert result.audio.scores.shape == (1, 4)
    on_grid = replace(sound, grid=(2, 2), patches=torch.arange(4))
    assert replace(result, layout={"input_values": on_grid}).audio.scores.shape == (1, 2, 2)


def test_box_features_have_no_image_and_the_error_names_scores():
    none = torch.zeros(1, 4, dtype=torch.bool)
    boxes = Layout(("visual_feats", "visual_pos"), "features", none, none)
    result = Attribution(
        {"visual_feats": torch.rand(1, 4)}, {"visual_feats": boxes}, ("a",), ("a",)
    )
    with pytest.raises(InputError, match=r"scores\['visual_feats'\]"):
        _ = result.image
    with pytest.raises(InputError, match="no text went into this model"):
        _ = result.text
    with pytest.raises(InputError, match="no audio"):
        _ = result.audio


def test_one_example_stays_batched_and_brings_its_inputs():
    second = made()[1]
    assert len(second) == 1
    assert second.scores["pixel_values"].tolist() == [list(range(7, 14))]
    assert (second.target, second.prediction) == (("class 1",), ("class 0",))
    assert second.inputs == {"image": ["picture 1"]}
    assert second.layout["input_ids"].special.shape == (1, 5)
    assert made()[-1].target == made()[np.int64(1)].target == ("class 1",)


def test_iterating_gives_every_example_and_slices_several():
    assert [example.target for example in made(3)] == [("class 0",), ("class 1",), ("class 2",)]
    assert made(3)[1:].target == ("class 1", "class 2")
    for missing in (3, -4, slice(3, None)):
        with pytest.raises(IndexError):
            made(3)[missing]


def test_top_ranks_content_only():
    assert made().top("input_ids", 5)[0] == [(2, "ball", 2.0), (1, "red", 1.0)]
    assert made().top("pixel_values", 2)[1] == [
        (6, "row 1, column 2", 13.0),
        (5, "row 1, column 1", 12.0),
    ]
    with pytest.raises(InputError, match="no source 'image'"):
        made().top("image", 1)
    with pytest.raises(InputError, match="at least 1"):
        made().top("input_ids", 0)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (dict.fromkeys(("special", "padding"), torch.zeros(2, 6, dtype=torch.bool)), "special of"),
        ({"patches": torch.arange(5)}, "6 cells"),
        ({"patches": torch.arange(2, 8)}, "none of its 7 tokens"),
        ({"tokens": (("a",) * 7, ("a",) * 6)}, "not 7 per example"),
    ],
)
def test_a_layout_that_does_not_fit_is_refused(parts, message):
    whole = made()
    layout = whole.layout | {"pixel_values": replace(image_layout(2), **parts)}
    with pytest.raises(InputError, match=message):
        replace(whole, layout=layout)


def test_parts_of_different_batches_are_refused():
    with pytest.raises(InputError, match="predictions"):
        replace(made(), prediction=("one",))
    with pytest.raises(InputError, match="shape"):
        replace(made(), target=("one",), prediction=("one",))
    with pytest.raises(InputError, match="one layout per source"):
        replace(made(), layout={})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_safetensors_bring_everything_back_exactly(tmp_path, dtype):
    whole = made()
    whole = replace(whole, scores={name: s.to(dtype) for name, s in whole.scores.items()})
    whole.save(tmp_path / "result.safetensors")
    back = Attribution.load(tmp_path / "result.safetensors")
    assert list(back.scores) == list(whole.scores)
    for name, scores in whole.scores.items():
        assert back.scores[name].dtype == dtype
        assert torch.equal(back.scores[name], scores)
        for part in ("names", "modality", "tokens", "grid", "words"):
            assert getattr(back.layout[name], part) == getattr(whole.layout[name], part)
        for part in ("special", "padding"):
            assert torch.equal(getattr(back.layout[name], part), getattr(whole.layout[name], part))
    assert torch.equal(back.layout["pixel_values"].patches, torch.arange(1, 7))
    assert (back.target, back.prediction, back.meta) == (
        whole.target,
        whole.prediction,
        whole.meta,
    )
    assert back.inputs == {}


def test_scores_with_gradient_and_shared_memory_can_be_saved(tmp_path):
    example = made(3)[1]
    shared = example.scores["pixel_values"].clone().requires_grad_()
    replace(example, scores=example.scores | {"pixel_values": shared}).save(
        tmp_path / "one.safetensors"
    )
    assert len(Attribution.load(tmp_path / "one.safetensors")) == 1


def test_json_is_for_people(tmp_path):
    made().save(tmp_path / "result.json")
    content = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    first = content["examples"][0]
    assert (first["target"], first["prediction"]) == ("class 0", "class 1")
    image, text = first["sources"]["pixel_values"], first["sources"]["input_ids"]
    assert image["grid"] == [2, 3]
    assert image["grid_scores"] == [[1, 2, 3], [4, 5, 6]]
    assert image["tokens"] == [{"index": 0, "label": "token 0", "score": 0, "kind": "special"}]
    assert [token["label"] for token in text["tokens"]][:3] == ["[CLS]", "red", "ball"]
    assert [token["kind"] for token in text["tokens"]][2:] == ["content", "special", "padding"]


def test_what_json_cannot_hold_is_an_error_and_leaves_the_old_file(tmp_path):
    path = tmp_path / "result.json"
    path.write_text("old", encoding="utf-8")
    whole = made()
    broken = {"input_ids": torch.full((2, 5), float("nan"))}
    with pytest.raises(InputError, match="JSON"):
        replace(whole, scores=whole.scores | broken).save(path)
    with pytest.raises(InputError, match="JSON"):
        replace(whole, meta={"model": object()}).save(tmp_path / "result.safetensors")
    assert [file.name for file in tmp_path.iterdir()] == ["result.json"]
    assert path.read_text(encoding="utf-8") == "old"


def test_unknown_endings_and_missing_folders_are_errors(tmp_path):
    with pytest.raises(InputError, match=r"must end in one of .*\.safetensors"):
        made().save(tmp_path / "result.pt")
    with pytest.raises(InputError, match="cannot write"):
        made().save(tmp_path / "missing" / "result.json")


def test_a_file_is_replaced_whole_and_nothing_is_left_beside_it(tmp_path):
    for batch in (2, 1):
        made(batch).save(tmp_path / "result.safetensors")
    assert len(Attribution.load(tmp_path / "result.safetensors")) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["result.safetensors"]


def test_corrupt_files_are_clear_errors(tmp_path):
    path = tmp_path / "result.safetensors"
    with pytest.raises(InputError, match="no file"):
        Attribution.load(path)
    made().save(path)
    content = path.read_bytes()
    for broken in (b"", b"nonsense" * 20, content[:-9], content[:40]):
        path.write_bytes(broken)
        with pytest.raises(InputError, match="not a readable safetensors file"):
            Attribution.load(path)
    safetensors.torch.save_file({"weight": torch.ones(2)}, path)
    with pytest.raises(InputError, match="no attribution"):
        Attribution.load(path)


@pytest.mark.parametrize(
    "header",
    [
        "{",
        "[]",
        '{"relmap": 99}',
        '{"relmap": 1, "sources": [{"name": "x"}]}',
        '{"relmap": 1, "sources": [], "target": [], "prediction": [], "meta": {}}',
    ],
)
def test_a_damaged_header_is_a_clear_error(tmp_path, header):
    path = tmp_path / "result.safetensors"
    safetensors.torch.save_file({"0.scores": torch.ones(1, 2)}, path, {"relmap": header})
    with pytest.raises(InputError, match="damaged"):
        Attribution.load(path)


def test_a_png_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    replace(made(), inputs={}).save(tmp_path / "result.png")
    assert (tmp_path / "result.png").read_bytes().startswith(b"\x89PNG")


def test_the_repr_is_short():
    assert repr(made()) == (
        "Attribution(pixel_values (2, 7), input_ids (2, 5); "
        "method='genatt', target=('class 0', 'class 1'))"
    )


@pytest.mark.parametrize(
    "change",
    [
        {"target": "class 0"},
        {"target": [0, 1]},
        {"prediction": [["class 0"], "class 1"]},
        {"meta": []},
        {"sources": {}},
        {"sources": [{}]},
    ],
)
def test_a_header_of_the_wrong_kind_is_a_clear_error(tmp_path, change):
    tensors, header = _apart(tmp_path)
    with pytest.raises(InputError, match="damaged"):
        Attribution.load(_whole(tmp_path, tensors, {**header, **change}))


@pytest.mark.parametrize(
    "change",
    [
        {"grid": [2.0, 3]},
        {"grid": [True, 6]},
        {"grid": [-2, -3]},
        {"grid": []},
        {"grid": [1, 1, 2, 3]},
        {"grid": 6},
        {"modality": "picture"},
        {"modality": None},
        {"names": "pixel_values"},
        {"tokens": ["seven", "letters"]},
        {"tokens": [[1, 2, 3, 4, 5, 6, 7]] * 2},
        {"tokens": [[["deep"]] * 7] * 2},
        {"name": "input_ids"},
    ],
)
def test_a_source_of_the_wrong_kind_is_a_clear_error(tmp_path, change):
    tensors, header = _apart(tmp_path)
    header["sources"][0] |= change
    with pytest.raises(InputError, match="damaged"):
        Attribution.load(_whole(tmp_path, tensors, header))


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("0.scores", torch.zeros(2, 7, dtype=torch.long)),
        ("0.scores", torch.zeros(2, 7, dtype=torch.complex64)),
        ("0.scores", torch.zeros(7)),
        ("0.patches", torch.arange(1.0, 7.0)),
        ("0.patches", torch.arange(1, 7).reshape(2, 3)),
        ("0.patches", torch.arange(2, 8)),
        ("0.special", torch.zeros(2, 7)),
    ],
)
def test_a_tensor_of_the_wrong_kind_is_a_clear_error(tmp_path, name, tensor):
    tensors, header = _apart(tmp_path)
    tensors[name] = tensor
    with pytest.raises(InputError, match="damaged"):
        Attribution.load(_whole(tmp_path, tensors, header))


def test_a_header_that_is_nested_without_end_is_a_clear_error(tmp_path):
    tensors, _ = _apart(tmp_path)
    deep = "[" * 100_000 + "]" * 100_000
    path = tmp_path / "deep.safetensors"
    safetensors.torch.save_file(tensors, path, {"relmap": deep})
    with pytest.raises(InputError, match="damaged"):
        Attribution.load(path)


def _apart(folder):
    """The tensors and the header of a file that was written."""
    made().save(folder / "written.safetensors")
    with safetensors.safe_open(folder / "written.safetensors", framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        return tensors, json.loads(file.metadata()["relmap"])


def _whole(folder, tensors, header):
    path = folder / "changed.safetensors"
    safetensors.torch.save_file(tensors, path, {"relmap": json.dumps(header)})
    return path
