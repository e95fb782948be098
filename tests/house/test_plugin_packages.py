"""Packages of strangers: each is built, installed into an environment of its own, and used there.

They are what the pages of docs/extend show. An environment sees the packages of this one, so that
nothing is downloaded; only the plug-in itself is installed into it.
"""

import os
import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from reference.house import ROOT

PLUGINS = sorted(path.parent for path in (ROOT / "tests" / "plugins").glob("*/pyproject.toml"))
NAMES = [path.name for path in PLUGINS]
PAGES = ROOT / "docs" / "extend"


def run(*command: str | Path, cwd: Path) -> str:
    """What a command prints; a failure shows all of it."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}"
    return done.stdout


def environment_with(wheel: Path, folder: Path) -> Path:
    """The interpreter of a new environment that holds one wheel beside what is installed here."""
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    scheme = {"base": str(folder), "platbase": str(folder)}
    packages = Path(sysconfig.get_path("purelib", "venv", scheme))
    (packages / "here.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    command = ["install", "--quiet", "--no-deps", "--no-index", wheel]
    run(sys.executable, "-m", "pip", "--python", python, *command, cwd=folder)
    return python


@pytest.mark.parametrize("plugin", PLUGINS, ids=NAMES)
def test_a_package_is_built_installed_and_used(plugin, tmp_path):
    build = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path]
    run(sys.executable, "-m", "pip", *build, plugin, cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    python = environment_with(wheel, tmp_path / "environment")
    run(python, "-W", "error", plugin / "check.py", cwd=tmp_path)


def test_a_plug_in_is_one_module():
    assert len(PLUGINS) >= 9
    for plugin in PLUGINS:
        modules = {path.name for path in plugin.glob("*.py")} - {"check.py"}
        assert len(modules) == 1, f"{plugin.name} touches {sorted(modules)}"


@pytest.mark.parametrize("plugin", PLUGINS, ids=NAMES)
def test_its_page_shows_its_code(plugin):
    (module,) = [path for path in plugin.glob("*.py") if path.name != "check.py"]
    code = module.read_text(encoding="utf-8")
    pages = [
        path
        for path in PAGES.glob("write-*.md")
        if f"```python\n{code}```" in path.read_text(encoding="utf-8")
    ]
    assert len(pages) == 1, f"the code of {plugin.name} stands in {len(pages)} pages"


@pytest.mark.parametrize("page", sorted(PAGES.glob("write-*.md")), ids=lambda page: page.stem)
def test_every_page_has_its_pair(page):
    kind = re.sub(r"write-an?-", "", page.stem)
    assert (page.parent / f"use-{kind}s.md").is_file()
    index = (page.parent / "index.md").read_text(encoding="utf-8")
    assert f"]({page.name})" in index
    assert f"](use-{kind}s.md)" in index


@pytest.mark.parametrize("page", sorted(PAGES.glob("use-*.md")), ids=lambda page: page.stem)
def test_the_python_of_a_page_runs(page):
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, object] = {}
    for number, block in enumerate(blocks):
        exec(compile(block, f"{page.name}, block {number}", "exec"), names)
