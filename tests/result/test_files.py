"""Drawings and file endings that other packages bring along."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass

import pytest
import torch

import relmap
from relmap import files
from relmap.drawing import Block, draws_source
from relmap.errors import InputError
from relmap.files import draws, endings_of, fingerprint, writes


@pytest.fixture(autouse=True)
def tables():
    """The tables of all, put back as they were."""
    files._discover()
    before = dict(files._WRITERS), dict(files._DRAWERS)
    yield
    for table, kept in zip((files._WRITERS, files._DRAWERS), before, strict=True):
        table.clear()
        table.update(kept)


@pytest.fixture(scope="module")
def attribution():
    network = torch.nn.TransformerEncoderLayer(8, 2, 8, batch_first=True)
    return relmap.explain(
        network, src=torch.randn(2, 3, 8), target=lambda output: output[:, 0, 0], method="genatt"
    )


def test_another_ending_is_written_by_whoever_registered_it(attribution, tmp_path):
    @writes(relmap.Attribution, ".sum", ".total")
    def write(result, path):
        path.write_text(f"{sum(float(one.sum()) for one in result.scores.values()):.3f}")

    assert {".sum", ".total", ".json", ".png"} <= set(endings_of(relmap.Attribution))
    attribution.save(tmp_path / "map.TOTAL")
    assert float((tmp_path / "map.TOTAL").read_text()) > 0


def test_another_drawing_is_chosen_by_its_name_and_changes_nothing_else(attribution, tmp_path):
    before = relmap.draw(attribution).get_size_inches()

    @draws(relmap.Attribution, "count")
    def count(result, path=None):
        return len(result) if path is None else path.write_text("drawn")

    assert relmap.draw(attribution, drawing="count") == 2
    relmap.draw(attribution, tmp_path / "x.svg", drawing="count")
    assert (tmp_path / "x.svg").read_text() == "drawn"
    assert (relmap.draw(attribution).get_size_inches() == before).all()
    with pytest.raises(
        InputError, match=r"no drawing 'cont' of a Attribution. Did you mean 'count'"
    ):
        relmap.draw(attribution, drawing="cont")


def test_sources_of_a_modality_are_drawn_another_way_on_the_same_page(attribution, tmp_path):
    seen = []

    @draws_source(attribution.layout["src"].modality, "bars")
    def bars(example, name):
        seen.append((len(example), name))
        return Block(0.5, lambda area: area.text(0.0, 0.2, "here", 8.0))

    relmap.draw(attribution, tmp_path / "x.png", drawing="bars")
    assert seen == [(1, "src"), (1, "src")]
    assert (tmp_path / "x.png").stat().st_size > 1000
    relmap.draw(attribution)
    assert len(seen) == 2


@dataclass
class Wide:
    """A result of a stranger's own."""

    numbers: tuple[int, ...]


class Wider(Wide):
    pass


def test_a_type_of_ones_own_is_drawn_and_written_and_what_is_one_of_it_too(tmp_path):
    with pytest.raises(InputError, match=r"a Wide cannot be drawn; what can is: .*Attribution"):
        relmap.draw(Wide((1,)))
    draws(Wide)(lambda result, path=None: ("wide", path))
    writes(Wide, ".numbers")(lambda result, path: path.write_text(str(result.numbers)))
    assert relmap.draw(Wider((1,))) == ("wide", None)
    files.save(Wider((1, 2)), tmp_path / "x.numbers")
    assert (tmp_path / "x.numbers").read_text() == "(1, 2)"


@pytest.mark.parametrize(
    ("register", "message"),
    [
        (lambda: writes(Wide, "json"), "'json' is no ending"),
        (lambda: writes(Wide), "say which endings a Wide is written to"),
        (
            lambda: writes(Wide, ".n")(lambda result: None),
            r"ending .n of a Wide cannot be .*result",
        ),
        (lambda: draws(Wide, "My Name"), "not in kebab case"),
        (lambda: draws(Wide, "mine")(lambda: None), "called with .result, path."),
        (lambda: draws_source("text", "mine")(lambda example: None), "called with"),
        (
            lambda: draws(relmap.Attribution)(lambda a, b: None),
            "is taken by relmap.drawing.figures",
        ),
        (
            lambda: writes(relmap.Attribution, ".json")(lambda a, b: None),
            "is taken by relmap.result",
        ),
    ],
)
def test_what_cannot_be_used_is_refused_when_it_is_registered(register, message):
    with pytest.raises(InputError, match=message):
        register()


def test_a_package_that_fails_is_left_out_by_name(monkeypatch, attribution):
    class Point:
        name, value = "mine", "my_package"

        def load(self):
            draws(relmap.Attribution, "half-made")(lambda result, path=None: None)
            raise OSError("no ink")

    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [Point()])
    files._discover_once.cache_clear()
    with pytest.warns(RuntimeWarning, match=r"'mine' \(my_package\) was left out.*no ink"):
        names = files.drawings_of(relmap.Attribution)
    assert "page" in names
    assert "half-made" not in names


def test_a_fingerprint_sees_contents_types_and_where_parts_end(tmp_path):
    for name, content in (("one", b"alike"), ("two", b"alike"), ("three", b"other")):
        (tmp_path / name).write_bytes(content)
    one, two, three = (fingerprint(tmp_path / name) for name in ("one", "two", "three"))
    assert one == two
    numbers = torch.arange(6.0)
    different = [
        one, three, fingerprint("alike"), fingerprint("al", "ike"), fingerprint(),
        fingerprint(numbers), fingerprint(numbers.view(2, 3)), fingerprint(numbers.bfloat16()),
    ]  # fmt: skip
    assert len(set(different)) == len(different)
    assert fingerprint(numbers.view(2, 3).T) != fingerprint(numbers.view(3, 2))
    assert fingerprint(numbers[::2]) == fingerprint(torch.tensor([0.0, 2.0, 4.0]))
    assert fingerprint(torch.tensor(1.0)) != fingerprint(torch.tensor(True))
