"""Lets a network run unchanged and decides what flows back through it.

The recorder sees a function of the network and hands it over; here it is run.
Functions that only move values keep their own gradient, since moving relevance is the same. All
others need a rule: a plain gradient in the middle of a relevance pass would be a wrong map that
looks like a right one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from relmap.backwards.operation_rules.operation import (
    BackwardContext,
    BackwardRule,
    Operation,
    tensors_of,
)
from relmap.errors import TraceError
from relmap.trace.calls import function_name, plain_name
from relmap.trace.operations import concatenation, movement, writes
from relmap.trace.operations.registered import OPERATIONS
from relmap.trace.recorder import Recorder
from relmap.trace.spellings import REFLECTED, Spelling, spell
from relmap.trace.table import RULES, drop

ADDING_UP = frozenset(["index_add", "scatter_add", "scatter_reduce"])
"""Functions that add what they write to what is there."""

_MOVES = {movement.__name__, concatenation.__name__, writes.__name__}
MOVEMENT = (
    frozenset(name for name, rule in RULES.items() if rule.__module__ in _MOVES or rule is drop)
    | {"__iter__"}
) - ADDING_UP
"""Functions that move values and compute nothing."""


@dataclass(frozen=True, eq=False)
class Backward:
    """What every operation passes back: a table from operations to rules.

    `family` "gradient": the rules change the gradient, and dA with it; "relevance": they
    distribute relevance, which gives every attention map its R_A beside the plain dA.
    """

    name: str
    family: Literal["gradient", "relevance"]
    rules: Mapping[str, BackwardRule]
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])


class BackwardMode:
    """Runs every torch function of a network with the rule that a backward has for it."""

    def __init__(self, backward: Backward, recorder: Recorder) -> None:
        self.backward = backward
        self.context = BackwardContext(recorder, backward.family, backward.settings)

    def run(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Run one torch function."""
        raw = function_name(function)
        spelled, in_place = plain_name(raw)
        name, registered = self._registered(spelled)
        spelling = spell(function, args, kwargs)
        in_place = in_place or bool(spelling.given.get("inplace"))
        if in_place:
            self.context.overwrite(spelling.argument(0, "input"))
        if name in MOVEMENT and not _adds_up(name, spelling):
            return self._moved(function(*args, **kwargs), args, kwargs)
        context = self.context
        operands = [one for one in tensors_of(args, kwargs) if one.requires_grad]
        if not operands or not torch.is_grad_enabled():
            return function(*args, **kwargs)
        if not any(context.carries(one) for one in operands):
            return self._stopped(function(*args, **kwargs))
        rule = registered or self.backward.rules.get(name)
        if rule is None:
            return self._without_rule(spelled, function(*args, **kwargs))
        return self._ruled((rule, name), raw, in_place, function, spelling)

    def _registered(self, name: str) -> tuple[str, BackwardRule | None]:
        """The name under which an operation is looked up, and the rule it was registered with."""
        entry = OPERATIONS.find(name)
        if entry is None:
            return name, None
        rule = entry.relevance if self.backward.family == "relevance" else entry.gradient
        return (rule, None) if isinstance(rule, str) else (name, rule)

    def _ruled(
        self, known: tuple[BackwardRule, str], raw: str, in_place: bool,
        function: Callable[..., Any], spelling: Spelling,
    ) -> Any:  # fmt: skip
        (rule, name), (spelled, named_in_place) = known, plain_name(raw)
        args, kwargs = spelling.in_order(without="inplace")
        written: Tensor | None = None
        if in_place:
            written = args[0]
            # The rule needs the operand as it was.
            args = (self.context.mark_like(args[0].clone(), args[0]), *args[1:])
            if named_in_place:
                function = self._out_of_place(spelled)
        if raw.strip("_") in REFLECTED and len(args) == 2:
            operator = function
            args, function = args[::-1], lambda input, other, **more: operator(other, input, **more)
        result = rule(Operation(name, function, args, kwargs, self.context, spelled))
        if written is None:
            return result
        with torch.enable_grad():
            return self.context.mark_like(written.copy_(result), result)

    def _out_of_place(self, name: str) -> Callable[..., Any]:
        """The function that gives what an in-place one writes."""
        library, dot, operation = name.partition(".")
        places = [getattr(torch.ops, library)] if dot else [torch, torch.Tensor]
        found = [getattr(place, operation or name, None) for place in places]
        function = next((one for one in found if one is not None), None)
        if function is None:
            raise TraceError(
                self.context.recorder.at(
                    f"'{name}_' writes in place, and there is no '{name}' to compute its value"
                )
            )
        return function

    def _without_rule(self, name: str, result: Any) -> Any:
        """Sizes, comparisons and counts need no rule: nothing flows back through them."""
        parts = result if isinstance(result, (tuple, list)) else [result]
        if not any(isinstance(part, Tensor) and part.requires_grad for part in parts):
            return result
        raise TraceError(
            self.context.recorder.at(
                f"the backward {self.backward.name!r} has no rule for '{name}', and a plain "
                "gradient there would make a wrong map; use another backward"
                + (", or register one with OPERATIONS.register" if "." in name else "")
            )
        )

    def _stopped(self, result: Any) -> Any:
        if isinstance(result, Tensor) and result.requires_grad:
            self.context.stop(result)
        return result

    def _moved(self, result: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Marks stay on values that were only moved."""
        if not self.context.marked:
            return result
        operands = [one for one in tensors_of(args, kwargs) if one.requires_grad]
        parts = result if isinstance(result, (tuple, list)) else [result]
        if operands and not any(self.context.carries(one) for one in operands):
            for part in parts:
                self._stopped(part)
        elif operands and all(self.context.is_gate(one) for one in operands):
            for part in parts:
                if isinstance(part, Tensor):
                    self.context.gate(part)
        return result


def _adds_up(name: str, spelling: Spelling) -> bool:
    """Whether `index_put` or `scatter` adds to what is there, as they can be told to."""
    if name == "index_put":
        return bool(spelling.argument(3, "accumulate", False))
    return name == "scatter" and spelling.given.get("reduce") is not None
