"""The generated pages of the documentation are up to date, and their links lead somewhere."""

import json
import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("**/*.md"))


@pytest.fixture(scope="module")
def tables():
    return runpy.run_path(str(DOCS / "tables.py"))


def test_the_page_of_methods_is_up_to_date(tables):
    page = (DOCS / "methods.md").read_text(encoding="utf-8")
    assert page == tables["methods_page"](), "run: python docs/tables.py methods"


def test_the_page_of_metrics_is_up_to_date(tables):
    page = (DOCS / "metrics.md").read_text(encoding="utf-8")
    assert page == tables["metrics_page"](), "run: python docs/tables.py metrics"


def test_the_page_of_coverage_is_written_from_its_rows(tables):
    # Whether the rows are true is what tests/trace/test_coverage.py says; that takes minutes.
    rows = json.loads((DOCS / "coverage.json").read_text(encoding="utf-8"))
    page = (DOCS / "coverage.md").read_text(encoding="utf-8")
    assert page == tables["coverage_page"](rows)


def test_coverage_has_a_row_for_every_architecture_that_can_be_built_here():
    from architectures import ARCHITECTURES

    rows = json.loads((DOCS / "coverage.json").read_text(encoding="utf-8"))
    assert ARCHITECTURES.keys() <= rows.keys()
    explained = [row for row in rows.values() if row["status"] == "explained"]
    assert len(explained) >= 120


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_every_link_leads_to_a_file(page):
    text = page.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text) if "://" not in link]
    assert all((page.parent / link).exists() for link in links)


def absent_paths(text: str) -> set[str]:
    """Files and folders named in backticks that end no path of the repository."""
    named = set(re.findall(r"`((?:[\w-]+/)*[\w-]+(?:\.py|/))`", text))
    files = [file for room in ("src", "tests", "docs") for file in (ROOT / room).rglob("*.py")]
    there = {f"/{file.relative_to(ROOT).as_posix()}" for file in files}
    there |= {f"{path.rpartition('/')[0]}/" for path in there}
    return {path for path in named if not any(known.endswith(f"/{path}") for known in there)}


def test_a_path_that_is_gone_is_noticed():
    assert absent_paths("`trace/graph.py`, `trace/`, `record/`, `trace/algebra.py`") == {
        "record/",
        "trace/algebra.py",
    }


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"], ids=lambda page: page.stem
)
def test_every_path_that_is_named_is_there(page):
    assert not absent_paths(page.read_text(encoding="utf-8"))
