"""Tiny random models of every architecture that the library is tested on.

One file per kind; each architecture is a small function under the decorator `architecture`, and
this collection is whatever the decorator found. Nothing is downloaded.
"""

import importlib
import pkgutil

from .registration import ARCHITECTURES, SKIPPED, Architecture, Built, architecture

__all__ = ["ARCHITECTURES", "SKIPPED", "Architecture", "Built", "architecture", "build"]

OPTIONAL = ("timm", "open_clip", "torchvision")

for _file in pkgutil.iter_modules(__path__):
    if _file.name == "conftest":
        continue
    try:
        importlib.import_module(f"{__name__}.{_file.name}")
    except ImportError as error:
        if error.name not in OPTIONAL:
            raise
        SKIPPED[_file.name] = f"{error.name} is not installed"


def build(name: str, implementation: str | None = None, seed: int = 0) -> Built:
    """Build the architecture `name`; `implementation` is one of its `implementations`."""
    return ARCHITECTURES[name].build(implementation, seed)
