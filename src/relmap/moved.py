"""Where things were before, for one version: old import paths answer, and say where to look now.

An old module is an empty stand-in in `sys.modules` that hands on every name it is asked for.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from functools import partial
from types import ModuleType
from typing import Any

MOVED = {
    "relmap.algebra": "relmap.relevance.attention_maps",
    "relmap.answers": "clipmapper.answers",
    "relmap.arguments": "relmap.request.forward_arguments",
    "relmap.attribution": "relmap.result.attribution",
    "relmap.captions": "relmap.generation.captions",
    "relmap.clipmapper": "clipmapper.model",
    "relmap.comparison": "relmap.explanation",
    "relmap.continuation": "relmap.generation.continuation",
    "relmap.demo": "clipmapper.demo",
    "relmap.disk": "relmap.files",
    "relmap.draw": "relmap.drawing",
    "relmap.draw.words": "relmap.result.token_text",
    "relmap.example": "relmap.data",
    "relmap.explain": "relmap.explanation",
    "relmap.gradients": "relmap.relevance.gradients",
    "relmap.graph": "relmap.trace.graph",
    "relmap.inputs": "relmap.request.readers",
    "relmap.interaction": "relmap.interactions",
    "relmap.interaction_map": "relmap.result.interaction",
    "relmap.layout": "relmap.result.layout",
    "relmap.maps": "relmap.relevance.maps",
    "relmap.outputs": "relmap.targets.answers",
    "relmap.points": "relmap.result.point_prompts",
    "relmap.preparation": "relmap.request.processors",
    "relmap.propagate": "relmap.relevance.rows",
    "relmap.ranking": "relmap.metrics.precision_recall",
    "relmap.record": "relmap.trace",
    "relmap.recorded_pass": "relmap.relevance.traced_pass",
    "relmap.rules": "relmap.backwards.operation_rules",
    "relmap.scenes": "clipmapper.scenes",
    "relmap.streams": "relmap.relevance.streams",
    "relmap.subject": "relmap.metrics.hiding",
    "relmap.train": "clipmapper.training",
    "relmap.trial": "relmap.metrics.trial",
    "relmap.words": "relmap.metrics.word_scores",
}

RENAMED = {"relmap.evaluation": {"Source": "DataSource"}}
"""Public names that were others, by their module."""


def answer_old_paths() -> None:
    """Put a stand-in for every old module where an import looks first."""
    for old, new in MOVED.items():
        stand_in = ModuleType(old, f"Moved to {new}.")
        stand_in.__getattr__ = partial(_handed_on, old, new)  # type: ignore[method-assign]
        sys.modules.setdefault(old, stand_in)


def renamed(module: str, name: str) -> Any:
    """What a module's old name stands for now, for the module's own `__getattr__`.

    Raises:
        AttributeError: The module never had such a name.
    """
    new = RENAMED[module].get(name)
    if new is None:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    warnings.warn(
        f"{module}.{name} is called {new}, and its old name goes with the next version",
        DeprecationWarning,
        stacklevel=3,
    )
    return getattr(importlib.import_module(module), new)


def _handed_on(old: str, new: str, name: str) -> Any:
    if name.startswith("__"):  # what the import system itself asks for
        raise AttributeError(name)
    value = getattr(importlib.import_module(new), name)
    warnings.warn(
        f"{old} moved to {new}, and its old name goes with the next version",
        DeprecationWarning,
        stacklevel=3,
    )
    return value
