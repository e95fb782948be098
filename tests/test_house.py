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

import relmap
from relmap.errors import EXTRAS
from relmap.registry import Registry

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "relmap"

# A module imports from earlier rows only: never from its own row or a later one.
ROWS = (
    {"errors", "clipmapper"},
    {"layout", "example", "ranking", "words"},
    {"answers", "choices", "disk", "registry", "graph", "scenes"},
    {"attribution", "record", "algebra", "streams"},
    {"points", "recorded_pass", "rules"},
    {"propagate", "backwards", "arguments", "inputs", "outputs"},
    {"subject"},
    {
        "trial",
        "entrance",
        "replaying",
        "maps",
        "gradients",
        "single_layer",
        "preparation",
        "transformations",
    },
    {"methods", "targets", "models", "data", "metrics", "scoring", "draw"},
    {"reporting", "interaction_map", "compatibility"},
    {"request"},
    {"explain", "interaction", "continuation", "train"},
    {"captions", "comparison", "demo"},
    {"evaluation"},
    {"relmap"},  # the package's own __init__
    {"cli", "app"},
    {"__main__"},
)
RANK = {room: rank for rank, row in enumerate(ROWS) for room in row}

# (from, to): allowed inside a function or for type checkers only, with the reason.
LATE = {
    ("attribution", "draw"): "saving as .png draws, and only then",
    ("disk", "attribution"): "names in signatures what it writes",
}

# Nothing of ours: clipmapper can be lifted out and used with transformers alone.
ALONE = {"clipmapper"}

# Rooms whose files do not know each other, and the registry that finds them.
REGISTRIES = {
    "methods": "METHODS",
    "backwards": "BACKWARDS",
    "metrics": "METRICS",
    "targets": "TARGETS",
    "data": "DATA",
    "scoring": "SCORES",
    "models": "SOURCES",
}

FILE_LINES, FUNCTION_LINES, ARGUMENTS, README_LINES = 400, 60, 7, 150
LONG_FILES: dict[str, str] = {}  # path -> reason
LONG_FUNCTIONS: dict[str, str] = {}  # "path:function" -> reason
# path or "path:function" -> reason
MANY_ARGUMENTS = {
    f"src/relmap/cli/{name}.py": "typer declares every option of a command as an argument"
    for name in ("evaluating", "explaining", "training")
} | {"src/relmap/methods/tokentm.py:tokentm": "every ablation of the paper is an option"}

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


def sources() -> dict[str, Path]:
    """The package's modules by import name."""
    names = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else module


def imports(source: str, module: str, is_package: bool) -> Iterator[tuple[str, bool]]:
    """Every module of relmap that a source imports, and whether not when the module is imported."""
    tree = ast.parse(source)
    late = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        or (isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"))
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parent = module.split(".")[: None if is_package else -1]
            above = parent[: len(parent) - node.level + 1] if node.level else []
            start = ".".join([*above, *([node.module] if node.module else [])])
            found = [f"{start}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from ((name, id(node) in late) for name in found if room_name(name))


def room_name(name: str) -> bool:
    return name.split(".")[0] == "relmap"


def target_room(name: str) -> str:
    """The room that `relmap.x.y` is in; a name that is no room comes from the package itself."""
    room = room_of(name)
    return room if room in RANK else "relmap"


def arrows(source: str, module: str, is_package: bool = False) -> list[str]:
    """The imports of a source that point the wrong way."""
    room, wrong = room_of(module), []
    for name, late in imports(source, module, is_package):
        target = target_room(name)
        if target == room:
            sibling = ".".join(name.split(".")[:3])
            is_sibling = sibling in sources() and sibling not in (module, f"relmap.{room}")
            if room in REGISTRIES and not is_package and is_sibling:
                wrong.append(f"{module} imports its sibling {sibling}")
        elif (room in ALONE or RANK[target] >= RANK.get(room, -1)) and not (
            late and (room, target) in LATE
        ):
            wrong.append(f"{module} imports {name}")
    return wrong


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("relmap.graph", "from relmap.methods import METHODS"),
        ("relmap.graph", "import relmap.registry"),
        ("relmap.graph", "from relmap import explain"),
        ("relmap.graph", "from relmap import Attribution"),
        ("relmap.graph", "from . import explain"),
        ("relmap.methods.wra", "def f():\n    from relmap.models import load"),
        ("relmap.methods.wra", "from ..draw import heat_map"),
        ("relmap.attribution", "from relmap.draw import heat_map"),
        ("relmap.clipmapper.model", "from relmap.errors import InputError"),
        ("relmap.evaluate", "import relmap.cli"),
        ("relmap.app", "import relmap.cli"),
    ],
)
def test_a_wrong_arrow_is_seen(module, source):
    assert arrows(source, module)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("relmap.methods.wra", "from relmap.methods import METHODS\nimport torch"),
        ("relmap.methods.wra", "from relmap.propagate import push"),
        ("relmap.record.labels", "from relmap.record.rules import RULES"),
        ("relmap.attribution", "def save():\n    from relmap.draw import heat_map"),
        ("relmap.clipmapper.model", "from relmap.clipmapper.config import Config"),
        ("relmap.cli", "import relmap\nfrom relmap import explain, Attribution"),
    ],
)
def test_a_right_arrow_is_allowed(module, source):
    assert arrows(source, module) == []


def test_a_sibling_is_seen():
    files = [name for name in sources() if name.count(".") == 2 and room_of(name) in REGISTRIES]
    for name in files:
        assert arrows(f"import {name}", f"{name.rpartition('.')[0]}.another")
        assert arrows(f"import {name}", name.rpartition(".")[0], is_package=True) == []


def test_every_module_has_its_place():
    rooms = {room_of(name) for name in sources()}
    assert {"errors", "registry", "relmap"} <= rooms
    assert rooms <= RANK.keys(), "a new room needs its row in ROWS"


@pytest.mark.parametrize("module", sources())
def test_arrows_point_one_way(module):
    path = sources()[module]
    assert arrows(path.read_text(encoding="utf-8"), module, path.name == "__init__.py") == []


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
        Registry("plant", 7)


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
    assert ROOT / "tests" / "test_house.py" in python_files()
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
