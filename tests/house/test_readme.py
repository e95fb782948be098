"""The README is true: its Python runs, its commands exist, its table is up to date."""

import re
import runpy
import sys
from pathlib import Path

import pytest
import torch
import transformers as hf
from tiny.folders import Folders, make_image, make_tokenizer, save
from typer.testing import CliRunner

import relmap
from relmap.backwards import BACKWARDS
from relmap.cli import program
from relmap.cli.listing import REGISTRIES
from relmap.methods import METHODS

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
SMALL = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24,
}  # fmt: skip


def pictures_classifier(labels, size=16):
    config = hf.ViTConfig(image_size=size, patch_size=8, id2label=labels, **SMALL)
    return hf.ViTForImageClassification(config)


@pytest.fixture
def stand_ins(tmp_path, monkeypatch):
    """Tiny random models under the names of the README, and its files, in an empty folder."""
    images = hf.ViTImageProcessor(size={"height": 16, "width": 16})
    labels = dict(enumerate(("red", "blue", "green", "gold")))
    save(tmp_path / "shapes", pictures_classifier(labels), images)
    clip = Folders(tmp_path)("clip")
    make_image().save(tmp_path / "scene.png")
    make_image(seed=1).save(tmp_path / "cat.jpg")
    load = relmap.load
    known = {"shapes": tmp_path / "shapes", "openai/clip-vit-base-patch32": clip}
    monkeypatch.setattr(relmap, "load", lambda name: load(known[name]))
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    network = pictures_classifier({number: f"class {number}" for number in range(300)})
    return {"my_network": network.eval(), "x": torch.randn(2, 3, 16, 16)}


def test_there_are_blocks_to_run():
    assert len(BLOCKS) >= 3


@pytest.mark.parametrize("number", range(len(BLOCKS)))
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_the_python_of_the_readme_runs(number, stand_ins, tmp_path):
    pytest.importorskip("matplotlib")
    names = {"relmap": relmap, **stand_ins}
    exec(compile(BLOCKS[number], f"README block {number}", "exec"), names)
    written = re.findall(r'save\("([^"]+)"\)', BLOCKS[number])
    assert all((tmp_path / name).stat().st_size > 1000 for name in written)


def test_the_documented_words_are_tokens_of_the_tiny_tokenizer():
    # The caption stands for itself only if the stand-in knows its words.
    assert "[UNK]" not in make_tokenizer().tokenize("a cat on a sofa")


def tables():
    return runpy.run_path(str(ROOT / "docs" / "tables.py"))


def test_the_table_of_methods_is_up_to_date():
    assert tables()["with_table"](README) == README, "run: python docs/tables.py methods"
    assert all(f"`{name}`" in README for name in [*METHODS.names(), *BACKWARDS.names()])


def test_every_list_command_prints_every_name():
    found = re.findall(r"`relmap list\s+([\w|]+)`", README)
    kinds = dict.fromkeys(kind for one in found for kind in one.split("|"))
    assert set(kinds) == REGISTRIES.keys()
    for kind in kinds:
        result = CliRunner().invoke(program(), ["list", kind])
        assert result.exit_code == 0
        module, name = REGISTRIES[kind]
        registry = getattr(sys.modules[module], name)
        assert [line.split()[0] for line in result.stdout.splitlines()] == registry.names()


def test_every_option_of_the_command_line_exists():
    shown = [
        CliRunner().invoke(program(), [name, "--help"]).stdout for name in ("explain", "evaluate")
    ]
    help_text = re.sub(r"\x1b\[[0-9;]*m", "", "".join(shown))
    part = README.partition("## Command line")[2].partition("## How it works")[0]
    options = set(re.findall(r"--[a-z]+", part))
    assert options
    assert all(option in help_text for option in options)


def test_every_link_leads_to_a_file():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert links
    assert all((ROOT / link).is_file() for link in links)


def test_the_pictures_are_small():
    for picture in (ROOT / "docs" / "pictures").glob("*.png"):
        assert picture.stat().st_size < 150_000


def test_the_file_tree_names_what_is_there():
    tree = README.partition("src/relmap/\n")[2].partition("```")[0]
    named = re.findall(r"^  ([a-z_]+(?:\.py|/))", tree, re.MULTILINE)
    assert named
    assert all((ROOT / "src" / "relmap" / name).exists() for name in named)
    rooms = {path.parent.name for path in (ROOT / "src" / "relmap").glob("*/__init__.py")}
    assert rooms <= set(re.findall(r"([a-z_]+)/", tree))
