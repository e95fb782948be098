"""Imports point one way: from room to room by a table, from file to file without a circle.

Each rule is a small function over source text, tried first on a snippet that breaks it, so that a
rule which finds nothing is known to look.
"""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest
from reference.house import REGISTRIES, sources

from relmap.moved import MOVED, RENAMED

# A room, or a file of one, imports from earlier rows only: never from its own row or a later one.
# The longest name that fits a module counts; files inside a room are held apart by the circles.
ROWS = (
    {"errors", "plain_text"},
    {"options"},
    {"registry"},
    {"files", "moved", "_torch_private"},
    {"trace"},
    {"relevance.attention_maps"},
    {"backwards.operation_rules"},
    {"relevance", "targets.answers"},
    {"backwards", "methods", "targets", "result"},
    {"request.readers", "request.forward_arguments"},
    {"request.processors"},
    {"models", "scoring", "data"},
    {"request"},
    {"metrics"},
    {"drawing"},
    {"explanation"},
    {"interactions", "generation"},
    {"evaluation"},
    {"testing"},
    {"relmap"},  # the package's own __init__
    {"cli"},
    {"__main__"},
)
RANK = {name: rank for rank, row in enumerate(ROWS) for name in row}

# What relmap means to be used from outside; clipmapper is held to it as everybody is.
PUBLIC = {"", "cli", "errors", "files", "options", "registry", "testing", *REGISTRIES}
PUBLIC |= {"scoring.captions", "scoring.clip_score", "trace.operations", "drawing"}


def imports(source: str, module: str, is_package: bool) -> Iterator[str]:
    """Every module of ours that a source imports, at its top, in functions or for type checkers."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parent = module.split(".")[: None if is_package else -1]
            above = parent[: len(parent) - node.level + 1] if node.level else []
            start = ".".join([*above, *([node.module] if node.module else [])])
            found = [f"{start}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name for name in found if name.split(".")[0] in ("relmap", "clipmapper"))


def module_of(name: str) -> str:
    """The module that an imported name is in."""
    while name not in sources():
        name = name.rpartition(".")[0]
    return name


def place(module: str) -> str:
    """The longest name in ROWS that a module is, or is in."""
    parts = module.split(".")[1:] or ["relmap"]
    for end in range(len(parts), 0, -1):
        if ".".join(parts[:end]) in RANK:
            return ".".join(parts[:end])
    return ""


def arrows(source: str, module: str, is_package: bool = False) -> list[str]:
    """The imports of a source that point the wrong way."""
    here, wrong = place(module), []
    for name in imports(source, module, is_package):
        target = module_of(name)
        if module.split(".")[0] == "clipmapper":
            if target.split(".")[0] == "relmap" and target.partition(".")[2] not in PUBLIC:
                wrong.append(f"{module} imports {name}, which is not public")
        elif target.split(".")[0] == "clipmapper":
            wrong.append(f"{module} imports {name}: relmap does not know clipmapper")
        elif place(target) != here and RANK[place(target)] >= RANK.get(here, -1):
            wrong.append(f"{module} imports {name}")
    return wrong


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("relmap.trace.graph", "from relmap.methods import METHODS"),
        ("relmap.trace.graph", "import relmap.relevance.maps"),
        ("relmap.trace.graph", "from relmap import explain"),
        ("relmap.trace.graph", "from .. import explain"),
        ("relmap.trace.graph", "def f():\n    from relmap.models import load"),
        ("relmap.trace.graph", "if TYPE_CHECKING:\n    from relmap.models import Model"),
        ("relmap.methods.wra", "from ..drawing import heat_map"),
        ("relmap.methods.wra", "import clipmapper"),
        ("relmap.result.attribution", "from relmap.drawing import heat_map"),
        ("relmap.request.readers", "from relmap.request.request import Request"),
        ("relmap.evaluation.runs", "import relmap.cli"),
        ("clipmapper.demo", "from relmap.trace.graph import TokenGraph"),
        ("clipmapper.demo", "from relmap.relevance import maps"),
    ],
)
def test_a_wrong_arrow_is_seen(module, source):
    assert arrows(source, module)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("relmap.methods.wra", "from relmap.methods import METHODS\nimport torch"),
        ("relmap.methods.wra", "from relmap.relevance.rows import push_rows"),
        ("relmap.trace.labels", "from relmap.trace.table import RULES"),
        ("relmap.request.request", "from relmap.request.readers import read_image"),
        ("clipmapper.demo", "import relmap\nfrom relmap.models import SOURCES"),
        ("relmap.cli", "import relmap\nfrom relmap import explain, Attribution"),
    ],
)
def test_a_right_arrow_is_allowed(module, source):
    assert arrows(source, module) == []


def test_every_module_has_its_place():
    lost = [name for name in sources() if name.startswith("relmap.") and not place(name)]
    assert lost == [], "a new room needs its row in ROWS"


@pytest.mark.parametrize("module", sources())
def test_arrows_point_one_way(module):
    path = sources()[module]
    assert arrows(path.read_text(encoding="utf-8"), module, path.name == "__init__.py") == []


def import_graph(texts: dict[str, str]) -> dict[str, set[str]]:
    """For every module those of ours that it imports."""
    packages = {name for name, path in sources().items() if path.name == "__init__.py"}
    return {
        name: {module_of(found) for found in imports(text, name, name in packages)} - {name}
        for name, text in texts.items()
    }


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Modules that import each other round in a circle; empty where there is none."""
    left = {name: set(found) for name, found in graph.items()}
    while free := [name for name, found in left.items() if not found]:
        for name in free:
            del left[name]
        for found in left.values():
            found.difference_update(free)
    return sorted(left)


def test_no_files_import_each_other_in_a_circle():
    texts = {name: path.read_text(encoding="utf-8") for name, path in sources().items()}
    assert circle(import_graph(texts)) == []
    # A copy is broken first: by one line in a file that others stand on, in the same room.
    broken = texts | {"relmap.trace.labels": "import relmap.trace.recorder"}
    assert {"relmap.trace.labels", "relmap.trace.recorder"} <= set(circle(import_graph(broken)))


@pytest.mark.parametrize("room", REGISTRIES)
def test_plug_ins_of_a_room_do_not_know_each_other(room):
    registry = getattr(importlib.import_module(f"relmap.{room}"), REGISTRIES[room])
    modules = {entry.function.__module__ for entry in registry.entries()}
    own = {name for name in modules if name in sources()}
    assert own
    for name in own:
        text = sources()[name].read_text(encoding="utf-8")
        assert {module_of(found) for found in imports(text, name, False)} & (own - {name}) == set()


@pytest.mark.parametrize("old", MOVED)
def test_old_paths_answer_and_say_where_to_look(old):
    new = importlib.import_module(MOVED[old])
    name = next(name for name in vars(new) if not name.startswith("_"))
    with pytest.warns(DeprecationWarning, match=f"{old} moved to {MOVED[old]}"):
        exec(f"from {old} import {name}", {})
    assert not hasattr(sys.modules[old], "no_such_name")


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [(module, *pair) for module, names in RENAMED.items() for pair in names.items()],
)
def test_old_names_answer_and_say_how_they_are_called_now(module, old, new):
    room = importlib.import_module(module)
    with pytest.warns(DeprecationWarning, match=f"{module}.{old} is called {new}"):
        assert getattr(room, old) is getattr(room, new)
    with pytest.raises(AttributeError, match="no_such_name"):
        room.no_such_name  # noqa: B018


@pytest.mark.parametrize("module", [name for name in sources() if not name.endswith("__main__")])
def test_every_module_is_importable_by_its_path(module):
    # Not only by `importlib`: no public function may stand where its module is looked for.
    namespace: dict[str, object] = {}
    exec(f"import {module} as found", namespace)
    assert isinstance(namespace["found"], ModuleType)
    assert namespace["found"].__name__ == module
