"""Several methods on one prediction: from the library and from the command line."""

from __future__ import annotations

import pytest
import torch
from architectures import build
from reference.contract import METHOD_NAMES, REFUSED, shared
from typer.testing import CliRunner

import relmap
from relmap.backwards import BACKWARDS
from relmap.cli import app
from relmap.cli.comparing import method_names
from relmap.drawing.comparison_sheet import PANELS, sheet

DEFAULT = "genatt:backward=libra"


def test_every_method_explains_or_says_why_not():
    built = shared("ViT")
    one = {"pixel_values": built.inputs["pixel_values"][:1]}
    asked: list[str] = []
    found = relmap.compare(built.network, target=1, progress=asked.append, **one)
    assert asked == [DEFAULT, *METHOD_NAMES]
    refused = {method for method, kinds in REFUSED.items() if "ViT" in kinds}
    assert found.refused.keys() == refused
    assert list(found.found) == [DEFAULT, *(name for name in METHOD_NAMES if name not in refused)]
    first = relmap.explain(built.network, target=1, **one)
    assert torch.equal(found.found[DEFAULT].scores["pixel_values"], first.scores["pixel_values"])
    alone = relmap.explain(built.network, target=1, method="wra", **one)
    assert torch.equal(found.found["wra"].scores["pixel_values"], alone.scores["pixel_values"])


def test_named_methods_keep_their_order_and_share_a_backward():
    built = shared("BERT")
    names = ["wra", "genatt"]
    found = relmap.compare(built.network, names, backward="libra", target=1, **built.inputs)
    assert list(found.found) == names
    assert {one.meta["backward"] for one in found.found.values()} == {"libra"}


def test_nothing_to_show_is_an_error_with_the_reasons():
    built = shared("BERT")
    with pytest.raises(relmap.InputError, match=r"none of the methods.*reads no gradient"):
        relmap.compare(built.network, ["rollout"], backward="libra", target=1, **built.inputs)
    with pytest.raises(relmap.InputError, match="Did you mean 'genatt'"):
        relmap.compare(built.network, ["genat"], target=1, **built.inputs)


def test_a_sheet_of_many_methods_has_several_rows(tmp_path):
    built = build("ViT")
    one = {"pixel_values": built.inputs["pixel_values"][:1]}
    names = ["genatt", "wra", "rollout", "full-lrp", "attgrad", "raw-attention"]
    found = relmap.compare(built.network, names, target=1, **one)
    assert len(names) > PANELS
    few = sheet({"genatt": found.found["genatt"]})
    many = sheet(found.found, tmp_path / "sheet.png")
    assert many.get_figheight() > few.get_figheight() / 2
    assert len(many.axes) == len(names) + len(few.axes) - 1


def test_the_command_line_prints_a_line_for_each_method(monkeypatch, tmp_path):
    built = build("BERT")
    one = {name: value[:1] for name, value in built.inputs.items()}

    def explain(model, *, method="genatt", backward=None, target=None, text=None):
        return real(
            built.network, method=method, backward=backward, target=target, **one
        )  # fmt: skip

    real = relmap.explain
    monkeypatch.setattr("relmap.explanation.explain", explain)
    monkeypatch.setattr("relmap.load", lambda *_, **__: built.network)
    output = tmp_path / "sheet.png"
    words = ["explain", "--model", "x", "--text", "y", "--method", "genatt,tam,wra"]
    done = CliRunner().invoke(app, [*words, "--output", str(output)])
    assert done.exit_code == 0, done.output
    for word in ("genatt", "wra", "tam: tam reads", "wrote"):
        assert word in done.output
    assert output.stat().st_size > 0
    refused = CliRunner().invoke(app, [*words, "--json"])
    assert refused.exit_code == 2
    assert "single method" in refused.output


def test_options_stand_behind_the_name_of_a_method_everywhere():
    built = shared("BERT")
    written = ["genatt:backward=libra,start_layer=1", "wra:weights=equal"]
    found = relmap.compare(built.network, written, target=1, **built.inputs)
    assert list(found.found) == written
    spelled = (
        relmap.explain(
            built.network, method="genatt", backward="libra", start_layer=1, target=1,
            **built.inputs,
        ),
        relmap.explain(built.network, method="wra", weights="equal", target=1, **built.inputs),
    )  # fmt: skip
    for name, wanted in zip(written, spelled, strict=True):
        assert torch.equal(found.found[name].scores["input_ids"], wanted.scores["input_ids"])
        assert found.found[name].meta["options"] == wanted.meta["options"]
    single = relmap.compare(built.network, "wra", target=1, **built.inputs)
    assert list(single.found) == ["wra"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "genatt:start_laier=1"}, "Did you mean 'start_layer'"),
        ({"method": "wra:weights=most"}, "weights='most' is not one of"),
        ({"method": "genatt:start_layer=1", "start_layer": 2}, "given twice"),
        ({"method": "genatt:backward=libra", "backward": "gradient"}, "given twice"),
        ({"method": "transformer-attribution", "backward": "reslrp:gama=3"}, "'gamma'"),
        ({"method": "transformer-attribution", "backward": "reslrp:gamma=much"}, "of type"),
    ],
)
def test_what_is_written_behind_a_name_is_checked(settings, message):
    built = shared("BERT")
    with pytest.raises(relmap.InputError, match=message):
        relmap.explain(built.network, target=1, **settings, **built.inputs)


def test_an_option_of_a_backward_reaches_it():
    built = shared("BERT")

    def scores(backward):
        return relmap.explain(
            built.network, method="input-x-gradient", backward=backward, target=1,
            **built.inputs,
        ).scores["input_ids"]  # fmt: skip

    by_hand = BACKWARDS.get("reslrp").function
    assert torch.equal(scores("reslrp:gamma=3"), scores(by_hand(gamma=3.0)))
    assert not torch.equal(scores("reslrp:gamma=3"), scores("reslrp:gamma=1"))


def test_methods_on_the_command_line_are_split_between_their_options():
    assert method_names("genatt:start_layer=1,backward=libra,wra:weights=equal,rollout") == [
        "genatt:start_layer=1,backward=libra", "wra:weights=equal", "rollout",
    ]  # fmt: skip
    assert method_names("genatt:start_layer=1,backward=libra") is None
    assert method_names("all") == []
