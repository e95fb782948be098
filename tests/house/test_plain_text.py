"""Text from outside never steers the terminal, the table or the file that shows it."""

import json
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

import relmap
from relmap.cli import app
from relmap.plain_text import visible
from relmap.result.layout import Layout

ODD = "\x1b]0;owned\x07cat\u202egod\u2066\x9b31m\r"


def raw(text: str) -> list[str]:
    return [letter for letter in text if visible(letter) != letter]


@pytest.fixture
def attribution():
    none = torch.zeros(1, 2, dtype=torch.bool)
    layout = Layout(("input_ids",), "text", none, none, tokens=((ODD, "##ing"),))
    scores = {"input_ids": torch.tensor([[0.5, 0.25]])}
    return relmap.Attribution(scores, {"input_ids": layout}, (ODD,), (ODD,), {"model": ODD})


@pytest.mark.parametrize("words", [None, ((ODD, "a"),)])
def test_nothing_raw_reaches_the_terminal(monkeypatch, attribution, words):
    layout = {"input_ids": replace(attribution.layout["input_ids"], words=words)}
    odd = replace(attribution, layout=layout)
    monkeypatch.setattr(relmap, "load", lambda *_args, **_settings: None)
    monkeypatch.setattr(relmap, "explain", lambda *_args, **_settings: odd)
    for more in ([], ["--json"]):
        done = CliRunner().invoke(app, ["explain", "--model", "m", "--text", "t", *more])
        assert done.exit_code == 0, done.output
        assert "cat" in done.output
        assert raw(done.output.replace("\x1b[1m", "").replace("\x1b[0m", "")) == []


def test_json_says_the_same_without_a_raw_letter(tmp_path, attribution):
    attribution.save(tmp_path / "map.json")
    written = (tmp_path / "map.json").read_text(encoding="utf-8")
    assert raw(written) == []
    assert json.loads(written)["examples"][0]["target"] == ODD
    attribution.save(tmp_path / "map.safetensors")
    assert relmap.Attribution.load(tmp_path / "map.safetensors").target == (ODD,)


def test_an_error_that_quotes_what_was_given():
    done = CliRunner().invoke(app, ["list", ODD])
    assert done.exit_code == 2
    assert "\x07" not in done.output
    assert "\u202e" not in done.output


def test_all_scripts_stay_what_they_are():
    for text in ("naïve", "猫が好き", "สวัสดี", "مرحبا", "שלום", "👩‍💻", "a\tb\nc"):
        assert visible(text) == text
