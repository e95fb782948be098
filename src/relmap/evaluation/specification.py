"""What is compared, in one line each: a method or metric with the options it is called with.

    genatt        wra:weights=equal        genatt:backward=libra,start_layer=1

The same line is written on the command line, in the rows of the results and over the tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from relmap.methods import METHODS
from relmap.metrics import METRICS
from relmap.registry import Registry

__all__ = ["CENTRE", "Specification", "read_method", "read_metric"]

CENTRE = "centre-blob"
"""A control in the place of a method: relevance that only knows where photographers aim."""


@dataclass(frozen=True)
class Specification:
    """The name of a method or metric and the options that were chosen for it."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def settings(self) -> str:
        """The options as they are written: "weights=equal"."""
        return ",".join(f"{key}={value}" for key, value in self.options.items())

    def __str__(self) -> str:
        """As on the command line."""
        return f"{self.name}:{self.settings}" if self.options else self.name


def read_method(text: str | Specification) -> Specification:
    """A method with its options, `backward` among them.

    Raises:
        InputError: There is no such method, or an option that it does not have.

    Example:
        >>> str(read_method("GenAtt:start_layer=1,backward=libra"))
        'genatt:start_layer=1,backward=libra'
    """
    if str(text) == CENTRE:
        return Specification(CENTRE)
    return _read(text, METHODS, ("backward",))


def read_metric(text: str | Specification) -> Specification:
    """A metric with its options.

    Raises:
        InputError: There is no such metric, or an option that it does not have.

    Example:
        >>> read_metric("perturbation:preset=chefer-vit").options
        {'preset': 'chefer-vit'}
    """
    return _read(text, METRICS, ())


def _read(
    text: str | Specification, registry: Registry[Any], more: tuple[str, ...]
) -> Specification:
    if isinstance(text, Specification):
        return text
    entry, options = registry.read(text, more)
    own = {name: value for name, value in options.items() if name not in more}
    return Specification(entry.name, options | entry.check_options(own))
