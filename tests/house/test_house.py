"""The house rules that a machine can check: arrows, names, sizes, and what the pages promise.

Each rule is a small function over source text, tried first on a snippet that breaks it, so that a
rule which finds nothing is known to look.
"""

from __future__ import annotations

import ast
import importlib
import re
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

import jaxtyping
import pytest
from reference.house import REGISTRIES, ROOT, sources

import relmap
from relmap.errors import EXTRAS
from relmap.registry import Entry, Registry

FILE_LINES, FUNCTION_LINES, ARGUMENTS, README_LINES = 400, 60, 7, 150
LONG_FILES = {"docs/tables.py": "one generated page after the other"}  # path -> reason
LONG_FUNCTIONS: dict[str, str] = {}  # "path:function" -> reason
# path or "path:function" -> reason
MANY_ARGUMENTS = (
    {
        "src/clipmapper/commands/training.py": "typer declares every option as an argument",
    }
    | {
        f"src/relmap/cli/{name}.py": "typer declares every option of a command as an argument"
        for name in ("evaluating", "explaining")
    }
    | {"src/relmap/methods/tokentm.py:tokentm": "every ablation of the paper is an option"}
)

EMPTY_NAMES = {"base", "common", "helper", "helpers", "misc", "util", "utils"}


@cache
def tracked() -> list[Path]:
    """The files of the repository as they will be committed."""
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        found = subprocess.run(listing, cwd=ROOT, capture_output=True, check=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return sorted(
        path for name in found.stdout.split("\0") if name and (path := ROOT / name).is_file()
    )


def test_all_is_complete_and_sorted():
    public = {
        name
        for name, value in vars(relmap).items()
        if not name.startswith("_") and name != "annotations" and not isinstance(value, ModuleType)
    }
    assert set(relmap.__all__) == public | {"__version__"}
    # constants, then classes, then the rest: the order that ruff keeps everywhere else
    assert relmap.__all__ == sorted(
        relmap.__all__, key=lambda name: (not name.isupper(), not name[0].isupper(), name)
    )


def test_import_is_cheap():
    heavy = [
        "PIL",
        "matplotlib",
        "open_clip",
        "rich",
        "timm",
        "torchvision",
        "transformers",
        "typer",
    ]
    code = f"import relmap, sys; print(*(name for name in {heavy} if name in sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, text=True
    )
    assert loaded.stdout.split() == []


@pytest.mark.parametrize("room", [room for room in REGISTRIES if f"relmap.{room}" in sources()])
def test_everything_registered_introduces_itself(room):
    registry = getattr(importlib.import_module(f"relmap.{room}"), REGISTRIES[room])
    assert isinstance(registry, Registry)
    assert registry.package == f"relmap.{room}"
    assert len(registry) > 0
    mute = [entry.name for entry in registry.entries() if not (entry.about or entry.reference)]
    assert mute == []


def test_shapes_are_checked_under_pytest():
    with pytest.raises(jaxtyping.TypeCheckError):
        Registry("plant", 7, Entry)


@pytest.mark.parametrize("host", ["example.org", b"example.org", "192.0.2.1"])
def test_the_network_is_forbidden(host):
    with pytest.raises(RuntimeError, match=r"Tests talk to 127\.0\.0\.1 alone"):
        socket.create_connection((host, 80), timeout=1)


def test_a_local_server_is_allowed():
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), timeout=5).close()


def python_files() -> list[Path]:
    return [path for path in tracked() if path.suffix == ".py"]


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function, its docstring not counted."""
    lines = (function.end_lineno or 0) - function.lineno + 1
    if ast.get_docstring(function, clean=False) is not None:
        lines -= (function.body[0].end_lineno or 0) - function.body[0].lineno + 1
    return lines


def arguments(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    given = function.args
    names = [argument.arg for argument in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    return len([name for name in names if name not in ("self", "cls")])


def test_sizes_are_counted_as_said():
    (function,) = functions(
        ast.parse('def f(self, a, *, b):\n    """One.\n\n    Two."""\n    return a')
    )
    assert (length(function), arguments(function)) == (2, 2)


def test_files_are_short():
    assert ROOT / "tests" / "house" / "test_house.py" in python_files()
    long = {
        name: lines
        for path in python_files()
        if (name := path.relative_to(ROOT).as_posix()) not in LONG_FILES
        and (lines := len(path.read_text(encoding="utf-8").splitlines())) > FILE_LINES
    }
    assert long == {}


def test_functions_are_short_and_take_few_arguments():
    wrong = []
    for path in python_files():
        name = path.relative_to(ROOT).as_posix()
        for function in functions(ast.parse(path.read_text(encoding="utf-8"))):
            place = f"{name}:{function.name}"
            if length(function) > FUNCTION_LINES and place not in LONG_FUNCTIONS:
                wrong.append(f"{place} has {length(function)} lines")
            if arguments(function) > ARGUMENTS and not {name, place} & MANY_ARGUMENTS.keys():
                wrong.append(f"{place} takes {arguments(function)} arguments")
    assert wrong == []


def callable_only(tree: ast.AST) -> list[str]:
    """Classes that hold `__call__`, perhaps a constructor, and nothing else."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and not node.decorator_list:
            methods = {
                function.name for function in node.body if isinstance(function, ast.FunctionDef)
            }
            if "__call__" in methods and methods <= {"__call__", "__init__"}:
                found.append(node.name)
    return found


def test_no_class_is_a_function_in_disguise():
    assert callable_only(ast.parse("class A:\n    def __call__(self): ...")) == ["A"]
    found = {name: callable_only(ast.parse(path.read_text())) for name, path in sources().items()}
    assert not {name: classes for name, classes in found.items() if classes}


def test_no_file_has_an_empty_name():
    parts = {part for name in sources() for part in name.split(".")}
    assert not parts & EMPTY_NAMES


def machine_paths(text: str) -> list[str]:
    """Absolute paths of one machine in a text."""
    homes = "home|root|Users|work|mnt|scratch"
    return re.findall(rf"(?<![\w.$~<>}}-])/(?:{homes})/\S*|\b[A-Z]:\\Users\\\S*", text)


def test_no_tracked_file_names_a_path_of_one_machine():
    assert machine_paths("see " + "/".join(["", "home", "me", "x"])), "the rule finds one"
    assert not machine_paths("see https://example.org/home/x and ../shared/data")
    here = "|".join(re.escape(f"{path.as_posix()}/") for path in (ROOT.parent, Path.home()))
    found = {}
    for path in tracked():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        hits = machine_paths(text) + re.findall(rf"(?<![\w./])(?:{here})\w+", text)
        if hits:
            found[path.relative_to(ROOT).as_posix()] = hits
    assert found == {}


def test_the_readme_is_short():
    readme = ROOT / "README.md"
    assert len(readme.read_text(encoding="utf-8").splitlines()) <= README_LINES


def test_the_pages_agree_on_version_and_extras():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == relmap.__version__
    assert f"\nversion: {relmap.__version__}\n" in (ROOT / "CITATION.cff").read_text(
        encoding="utf-8"
    )
    extras = project["optional-dependencies"]
    assert set(extras) == EXTRAS.keys() | {"all"}
    assert extras["all"] == [f"relmap[{','.join(EXTRAS)}]"]
