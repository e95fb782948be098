"""The source files of the project, for tests that hold them to the rules of the house."""

from __future__ import annotations

from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = (ROOT / "src" / "relmap", ROOT / "src" / "clipmapper")

# Rooms whose plug-ins do not know each other, and the registry that finds them.
REGISTRIES = {
    "methods": "METHODS",
    "backwards": "BACKWARDS",
    "metrics": "METRICS",
    "targets": "TARGETS",
    "data": "DATA",
    "scoring": "SCORES",
    "models": "SOURCES",
}


@cache
def sources() -> dict[str, Path]:
    """The modules of both packages by import name."""
    names = {}
    for package in PACKAGES:
        for path in sorted(package.rglob("*.py")):
            parts = path.relative_to(package.parent).with_suffix("").parts
            names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names
