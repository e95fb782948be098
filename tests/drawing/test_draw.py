"""Pictures: the map lies over its patches, words read as words, the session is left alone."""

import importlib
import io
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from relmap.drawing import colours, draw
from relmap.drawing.comparison_sheet import sheet
from relmap.errors import InputError, MissingExtraError
from relmap.result.attribution import Attribution, Layout
from relmap.result.token_text import Piece, pieces, readable

matplotlib = pytest.importorskip("matplotlib")

# The package imports functions that have the names of these modules.
coloured_words, heat_map, page = (
    importlib.import_module(f"relmap.drawing.{name}")
    for name in ("coloured_words", "heat_map", "page")
)
GRID = (4, 6)


def image(batch: int = 1, pictures: bool = True, signed: bool = False) -> Attribution:
    """A bright square in row 1, column 4 of a generated picture; relevance on that patch."""
    special = torch.zeros(batch, 25, dtype=torch.bool)
    special[:, 0] = True
    none = torch.zeros_like(special)
    layout = Layout(("pixel_values",), "image", special, none, None, GRID, torch.arange(1, 25))
    scores = torch.rand(batch, 25) * 0.1 - (0.05 if signed else 0.0)
    scores[:, 1 + 1 * 6 + 4] = 1.0
    pixels = np.full((80, 120, 3), 60, dtype=np.uint8)
    pixels[20:40, 80:100] = (240, 200, 40)
    shown = {"image": [Image.fromarray(pixels)] * batch} if pictures else {}
    names = tuple(f"class {at} $x_1$" for at in range(batch))
    meta = {"method": "genatt", "backward": "gradient", "model": "folder/tiny"}
    return Attribution(
        {"pixel_values": scores}, {"pixel_values": layout}, names, names, meta, shown
    )


def text(tokens: list[str], special: set[int] = frozenset(), padding: set[int] = frozenset()):
    flags = [
        torch.tensor([[at in chosen for at in range(len(tokens))]]) for chosen in (special, padding)
    ]
    layout = Layout(("input_ids",), "text", *flags, tokens=(tuple(tokens),))
    scores = {"input_ids": torch.linspace(-1, 2, len(tokens))[None]}
    return Attribution(scores, {"input_ids": layout}, ("good",), ("bad",), {"method": "wra"})


def both() -> Attribution:
    words, picture = text(["[CLS]", "red", "ball"], {0}), image()
    return replace(
        picture, scores=picture.scores | words.scores, layout=picture.layout | words.layout
    )


def pixels_of(figure) -> np.ndarray:
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return np.asarray(Image.open(content).convert("RGB"))


def texts_of(figure) -> list[str]:
    return [each.get_text() for each in figure.texts]


def test_the_map_lies_over_its_patch():
    (only,) = heat_map.maps_of(image(), "pixel_values")
    scale = heat_map.scale_of_maps([only])
    coloured = heat_map.coloured(only, scale)
    assert coloured.shape == only.picture.shape == (427, 640, 3)
    warm = coloured[..., 0] - coloured[..., 2]
    row, column = np.unravel_index(warm.argmax(), warm.shape)
    assert abs(row - 1.5 / 4 * 427) < 30
    assert abs(column - 4.5 / 6 * 640) < 30


def test_scores_without_a_picture_are_drawn_alone():
    (only,) = heat_map.maps_of(image(pictures=False), "pixel_values")
    assert only.picture is None
    assert len(draw(image(pictures=False)).axes) == 2  # the map and its bar
    assert len(draw(image()).axes) == 3


def test_padded_patches_are_grey_and_out_of_the_scale():
    whole = image()
    padding = torch.zeros(1, 25, dtype=torch.bool)
    padding[0, 1:7] = True  # the first row of the grid
    layout = replace(whole.layout["pixel_values"], padding=padding)
    scores = whole.scores["pixel_values"].clone()
    scores[0, 1:7] = 100.0
    padded = replace(whole, scores={"pixel_values": scores}, layout={"pixel_values": layout})
    (only,) = heat_map.maps_of(padded, "pixel_values")
    scale = heat_map.scale_of_maps([only])
    assert scale.high == 1.0
    coloured = heat_map.coloured(only, scale)
    assert np.allclose(coloured[:100], colours.GREY)
    assert not np.allclose(coloured[120:], colours.GREY)


def test_a_video_is_one_map_per_frame():
    special = torch.zeros(1, 8, dtype=torch.bool)
    layout = Layout(("pixel_values",), "image", special, special, None, (2, 2, 2), torch.arange(8))
    frames = torch.rand(2, 3, 20, 20)
    video = Attribution(
        {"pixel_values": torch.rand(1, 8)},
        {"pixel_values": layout},
        ("a",),
        ("a",),
        inputs={"image": [frames]},
    )
    assert [each.picture.shape for each in heat_map.maps_of(video, "pixel_values")] == [
        (640, 640, 3)
    ] * 2
    assert len(draw(video).axes) == 3


@pytest.mark.parametrize(
    "given",
    [
        torch.randn(3, 20, 30),
        torch.randn(1, 20, 30),
        torch.rand(20, 30, 3).numpy(),
        torch.rand(20, 30),
    ],
)
def test_pixel_tensors_are_pictures(given):
    picture = heat_map.picture_of(given)
    assert picture.shape == (427, 640, 3)
    assert picture.min() >= 0
    assert picture.max() <= 1


def test_scales_are_symmetric_for_both_signs_and_min_to_max_for_one():
    everything = torch.ones(3, dtype=torch.bool)
    assert colours.scale_of(torch.tensor([-1.0, 0.5, 3.0]), everything).low == -3.0
    positive = colours.scale_of(torch.tensor([1.0, 2.0, 3.0]), everything)
    assert (positive.low, positive.high, positive.signed) == (1.0, 3.0, False)
    constant = colours.scale_of(torch.full((3,), 2.0), everything)
    assert (constant.low, constant.high) == (0.0, 2.0)
    nothing = colours.scale_of(torch.zeros(3), everything)
    assert nothing.low < nothing.high
    assert colours.scale_of(torch.zeros(3), ~everything) == colours.Scale(0.0, 1.0)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0, "0"), (0.001234, "0.00123"), (-2.0, "−2"), (3.4e-5, "3.4e−5"), (1e20, "1e+20")],
)
def test_numbers_are_short(value, shown):
    assert colours.number(value) == shown


@pytest.mark.parametrize(
    ("tokens", "shown"),
    [
        (["play", "##ing", "chess"], ["play", "+ing", "chess"]),
        (["Hello", "Ġwor", "ld", "!"], ["Hello", "wor", "+ld", "+!"]),
        (["▁the", "▁cat", "s", "<0x0A>"], ["the", "cat", "+s", "+↵"]),
        (["a</w>", "spark", "ling</w>", "sea</w>"], ["a", "spark", "+ling", "sea"]),
        (["ĠcafÃ©", "Ċ", "Ġx"], ["café", "↵", "x"]),
        (["101", "2023", "102"], ["101", "2023", "102"]),
        (["▁", "a"], ["·", "+a"]),
    ],
)
def test_markers_are_cleaned_and_words_known(tokens, shown):
    found = pieces(tokens)
    assert [("" if piece.opens else "+") + piece.text for piece in found] == shown


def test_special_tokens_stand_alone():
    found = pieces(["<s>", "ab", "▁c", "</s>"], [True, False, False, True])
    assert found == [Piece("<s>", True), Piece("ab", True), Piece("c", True), Piece("</s>", True)]


def test_words_of_the_layout_win():
    layout = replace(text(["Ġa", "b"]).layout["input_ids"], words=((" A ", ""),))
    assert [piece.text for piece in readable(layout)] == ["A", "b"]


def test_special_tokens_are_grey_and_padding_is_one_chip():
    result = text(["[CLS]", "red", "[SEP]", "[PAD]", "[PAD]", "[PAD]"], {0, 2}, {3, 4, 5})
    chips = coloured_words.chips_of(result, "input_ids")
    assert [chip.text for chip in chips] == ["[CLS]", "red", "[SEP]", "[PAD] × 3"]
    assert [chip.score is None for chip in chips] == [True, False, True, True]


def test_lines_hold_whole_words_within_the_width():
    tokens = ["▁" + word for word in ["relevance", "of", "words"] * 30]
    tokens[7:7] = ["ed", "ly"]
    chips = coloured_words.chips_of(text(tokens), "input_ids")
    lines = coloured_words.wrapped(chips, 3.0)
    assert sum(map(len, lines)) == len(tokens)
    for line in lines:
        assert line[0][1].opens
        ends = [left + chip.width for left, chip in line]
        assert ends[-1] <= 3.0
        starts = [left for left, _ in line[1:]]
        assert all(start >= end - 1e-9 for start, end in zip(starts, ends[:-1], strict=True))


def test_a_token_longer_than_a_line_is_cut_and_a_word_longer_than_a_line_broken():
    chips = [coloured_words.Chip("x" * 500, 1.0, True)]
    ((_, shown),) = coloured_words.wrapped(chips, 2.0)[0]
    assert shown.text.endswith("…")
    pieces_of_one = [coloured_words.Chip("abcdefgh", 1.0, at == 0) for at in range(20)]
    assert len(coloured_words.wrapped(pieces_of_one, 2.0)) > 1


def test_titles_name_target_method_and_the_models_own_answer():
    shown = texts_of(draw(text(["good"])))
    assert "good" in shown
    assert "method wra · the model says bad" in shown
    assert "class 0 $x_1$" in texts_of(draw(image()))


def test_legends_show_raw_values():
    assert {"1", "relevance"} <= set(texts_of(draw(image())))
    shown = texts_of(draw(text(["a", "b", "c"])))
    assert {"relevance  −2", "2"} <= set(shown)


def test_image_and_text_share_one_figure(tmp_path):
    figure = draw(both(), tmp_path / "both.png")
    assert {"red", "ball", "[CLS]"} <= set(texts_of(figure))
    assert len(figure.axes) > 3
    with Image.open(tmp_path / "both.png") as saved:
        assert saved.width == 1440


def test_the_examples_of_a_batch_stand_one_under_the_other():
    one, three = draw(image()), draw(image(3))
    assert three.get_figheight() > 2.9 * one.get_figheight() - 1
    assert [name for name in texts_of(three) if name.startswith("class")] == [
        "class 0 $x_1$",
        "class 1 $x_1$",
        "class 2 $x_1$",
    ]


def test_large_batches_and_long_texts_say_what_is_left_out():
    batch = 30
    none = torch.zeros(batch, 2, dtype=torch.bool)
    layout = {"ids": Layout(("ids",), "text", none, none, tokens=(("a", "b"),) * batch)}
    names = ("x",) * batch
    many = Attribution({"ids": torch.rand(batch, 2)}, layout, names, names)
    assert "24 of 30 examples" in texts_of(draw(many))
    lines = coloured_words.MOST
    chips = coloured_words.chips_of(text(["wide" * 12] * (3 * lines)), "input_ids")
    assert len(coloured_words.wrapped(chips, page.WIDTH)) > lines
    long = texts_of(draw(text(["wide" * 12] * (3 * lines))))
    assert any("more tokens" in shown for shown in long)


@pytest.mark.parametrize("modality", ["audio", "features"])
def test_tokens_in_a_row_are_a_strip(modality):
    none = torch.zeros(1, 10, dtype=torch.bool)
    result = Attribution(
        {"input_values": torch.rand(1, 10)},
        {"input_values": Layout(("input_values",), modality, none, none)},
        ("yes",),
        ("yes",),
        inputs={"audio": [torch.sin(torch.arange(8000) / 9)], "sampling_rate": 16000},
    )
    shown = texts_of(draw(result))
    assert ("0.50 s" in shown) == (modality == "audio")
    assert ("token 9" in shown) == (modality == "features")


def test_two_texts_are_told_apart():
    one = text(["a", "b"])
    scores = one.scores | {"decoder_input_ids": one.scores["input_ids"]}
    layout = one.layout | {"decoder_input_ids": one.layout["input_ids"]}
    shown = texts_of(draw(replace(one, scores=scores, layout=layout)))
    assert {"input_ids", "decoder_input_ids"} <= set(shown)


def test_letters_no_font_has_are_no_error(tmp_path):
    draw(text(["\U0001f9d1", "語", "\U00012345"]), tmp_path / "words.png")


def test_drawing_is_repeatable():
    result = both()
    assert np.array_equal(pixels_of(draw(result)), pixels_of(draw(result)))


def test_the_session_is_left_alone():
    sys.modules.pop("matplotlib.pyplot", None)
    with matplotlib.rc_context({"text.usetex": True, "image.origin": "lower"}):
        before = dict(matplotlib.rcParams)
        styled = pixels_of(draw(image()))
        assert dict(matplotlib.rcParams) == before
    assert "matplotlib.pyplot" not in sys.modules
    assert styled.shape[1] == 1440


@pytest.mark.parametrize("ending", ["png", "pdf", "svg"])
def test_figures_are_written_by_ending(tmp_path, ending):
    draw(image(), tmp_path / f"map.{ending}")
    assert [file.name for file in tmp_path.iterdir()] == [f"map.{ending}"]


def test_what_cannot_be_written_is_an_error(tmp_path):
    with pytest.raises(InputError, match=r"must end in one of .*\.png"):
        draw(image(), tmp_path / "map.gif")
    with pytest.raises(InputError, match="cannot write"):
        draw(image(), tmp_path / "missing" / "map.png")
    with pytest.raises(InputError, match="inches tall"):
        page.page([page.Block(1000.0, lambda area: None)])


def test_without_matplotlib_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'relmap\[plot\]'"):
        draw(image())


def test_a_sheet_shows_methods_side_by_side(tmp_path):
    figure = sheet({"genatt": both(), "wra": both()}, tmp_path / "sheet.png")
    shown = texts_of(figure)
    assert shown.count("genatt") == 2  # over its map and over its words
    assert shown.count("red") == 2
    assert (tmp_path / "sheet.png").stat().st_size > 0
    for wrong in ({}, {"one": image(1), "two": image(2)}):
        with pytest.raises(InputError, match="same examples"):
            sheet(wrong)
