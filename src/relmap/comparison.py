"""Several methods on the same prediction, each with its own backward unless one is named.

A method that cannot explain this model says why, and the others go on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from relmap.attribution import Attribution
from relmap.errors import InputError, RelmapError
from relmap.explain import explain
from relmap.methods import METHODS

__all__ = ["Comparison", "compare"]


@dataclass(frozen=True, eq=False)
class Comparison:
    """Attributions of the same inputs by method, and why some methods gave none."""

    found: dict[str, Attribution]
    refused: dict[str, str]


def compare(
    model: Any,
    methods: Sequence[str] | None = None,
    *,
    backward: str | None = None,
    target: Any = None,
    progress: Callable[[str], None] | None = None,
    **inputs: Any,
) -> Comparison:
    """The same prediction explained by several methods, by all of them if none are named.

    `backward`, `target` and `inputs` are those of `relmap.explain`; methods keep their default
    options. `progress` is called with the name of each method before it runs.

    Raises:
        InputError: There is no such method, or none of them can explain the model.

    Example:
        >>> import torch
        >>> network = torch.nn.TransformerEncoderLayer(8, 2, batch_first=True)
        >>> read = lambda output: output[:, 0, 3]
        >>> both = compare(network, ["genatt", "rollout"], src=torch.randn(1, 5, 8), target=read)
        >>> list(both.found), both.refused
        (['genatt', 'rollout'], {})
    """
    names = [METHODS.get(name).name for name in methods] if methods else METHODS.names()
    found: dict[str, Attribution] = {}
    refused: dict[str, str] = {}
    for name in names:
        if progress is not None:
            progress(name)
        try:
            found[name] = explain(model, target=target, method=name, backward=backward, **inputs)
        except RelmapError as error:
            refused[name] = str(error)
    if not found:
        reasons = "; ".join(dict.fromkeys(refused.values()))
        raise InputError(f"none of the methods can explain this: {reasons}")
    return Comparison(found, refused)
