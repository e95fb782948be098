"""Packages that are installed beside relmap: found, whatever is asked first, and left out by name.

Each test runs an interpreter of its own, with a package in its path that was never imported.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from reference.house import REGISTRIES, ROOT

GROUPS = (*REGISTRIES, "operations")

# It uses the public names at its top, some of them found in registries themselves.
PLUGIN = """
import torch
import relmap
from relmap import Attribution, InputError, explain
from relmap.backwards import BACKWARDS, Backward, libra
from relmap.data import DATA
from relmap.methods import METHODS, Need
from relmap.metrics import METRICS
from relmap.models import SOURCES
from relmap.scoring import SCORES, Score
from relmap.targets import TARGETS, Target, contrast
from relmap.trace.operations import OPERATIONS

NETWORK = torch.nn.TransformerEncoderLayer(8, 2, 8, batch_first=True)
FOUND = explain(NETWORK, src=torch.randn(1, 3, 8), target=lambda output: output[:, 0, 0])

@METHODS.register("my-method", needs=(Need.ATTENTION,))
def my_method(passed):
    return {}

@BACKWARDS.register("my-backward", family="gradient")
def my_backward():
    return libra()

@METRICS.register("my-metric", needs=("words",), direction="higher", category="plausibility")
def my_metric(scores, marked):
    return {}

@TARGETS.register("my-target")
def my_target(first, second):
    return contrast(first, second)

@DATA.register("my-data")
def my_data(path):
    return []

@SCORES.register("my-score")
def my_score(captions, references):
    return Score(0.0, torch.zeros(len(captions)))

@SOURCES.register("my-source")
def my_source(name, *, device=None, dtype=None, trust_remote_code=False):
    raise InputError("none")

OPERATIONS.register("mylib.swish", like="silu")
"""

REGISTRY_OF = {**REGISTRIES, "operations": "OPERATIONS"}
MODULE_OF = {room: f"relmap.{room}" for room in REGISTRIES}
MODULE_OF["operations"] = "relmap.trace.operations"
REGISTERED = {
    "methods": "my-method",
    "backwards": "my-backward",
    "metrics": "my-metric",
    "targets": "my-target",
    "data": "my-data",
    "scoring": "my-score",
    "models": "my-source",
    "operations": "mylib.swish",
}

# Each room is asked in a process of its own that has imported relmap and asked nothing yet.
ASK = f"""
import importlib, os, warnings
registries, modules, registered = {REGISTRY_OF!r}, {MODULE_OF!r}, {REGISTERED!r}
def registry(room):
    return getattr(importlib.import_module(modules[room]), registries[room])
for room in registered:
    registry(room)
wrong = []
for room in registered:
    child = os.fork()
    if child == 0:
        try:
            check(room)
        except BaseException as error:
            print(room, repr(error), flush=True)
            os._exit(1)
        os._exit(0)
    wrong += [room] * os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
assert not wrong, wrong
"""


def installed(folder: Path, source: str, *groups: str) -> Path:
    """A package in a folder, as pip would leave it there."""
    (folder / "my_package.py").write_text(source)
    about = folder / "my_package-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: my_package\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(
        "".join(f"[relmap.{group}]\nmine = my_package\n" for group in groups)
    )
    return folder


def run(folder: Path, code: str) -> str:
    path = f"{ROOT / 'src'}:{folder}"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": path}
    )
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout + found.stderr


FOUND = """
def check(first):
    warnings.simplefilter("error")
    for room in (first, *(room for room in registered if room != first)):
        names = registry(room).names()
        assert registered[room] in names, (room, names)
"""
LEFT_OUT = """
def check(room):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        names = registry(room).names()
    (warning,) = [one for one in seen if "mine" in str(one.message)]
    assert warning.category is RuntimeWarning and "no licence" in str(warning.message)
    assert registered[room] not in names, names
"""


def test_a_plugin_that_uses_public_names_is_found_whatever_is_asked_first(tmp_path):
    run(installed(tmp_path, PLUGIN, *GROUPS), FOUND + ASK)


def test_a_plugin_may_be_imported_before_relmap(tmp_path):
    run(installed(tmp_path, PLUGIN, *GROUPS), "import my_package\n" + FOUND + ASK)


def test_a_plugin_that_fails_is_left_out_by_name(tmp_path):
    run(installed(tmp_path, PLUGIN + "raise OSError('no licence')", *GROUPS), LEFT_OUT + ASK)


def test_nothing_is_discovered_while_modules_are_imported(tmp_path):
    # A plug-in that cannot be imported at all would be named in a warning.
    installed(tmp_path, "raise OSError('asked')", *GROUPS, "files")
    code = """
import importlib, pkgutil, warnings
warnings.simplefilter("error")
import relmap
for module in pkgutil.walk_packages(relmap.__path__, "relmap."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
"""
    run(tmp_path, code)
