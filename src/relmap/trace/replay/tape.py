"""The tape: what every torch function of a forward pass was given and returned, in order.

Kept only for methods that run the network again (`relmap.trace.replay.replay`). Nothing is copied:
the tape holds the tensors of the pass, and lets go of them when the pass ends.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge

from relmap._torch_private import inside_transform, storage_of, version_of
from relmap.errors import TraceError
from relmap.trace.calls import function_name
from relmap.trace.graph import Activation
from relmap.trace.operations.multi_head import HIDDEN_ATTENTION
from relmap.trace.recorder import Recorder

UNNUMBERED = frozenset([HIDDEN_ATTENTION, "__iter__"])
"""Functions that the recorder runs as other functions, which are numbered instead."""


Place = tuple[int | str, int | None]
"""The number of a call and the part of its result, or the name of an argument and None."""


@dataclass(slots=True, eq=False)
class Made:
    """One call: its name, its operands one by one, what it returned, and where that is stored.

    `version` is that of the result right after the call, `storage` names its memory (of several
    results: those of the last).
    """

    name: str
    operands: list[Any]
    result: Any
    version: int = 0
    storage: int | None = None


class Tape:
    """The calls of a forward pass, by number.

    `births` says which call made a piece of memory, `writes` which later calls wrote into it.
    `order` are the calls that a replay makes as long as nothing is changed: all of them, unless the
    network kept something from the recorded pass.
    """

    def __init__(self) -> None:
        self.calls: list[Made] = []
        self.arguments: dict[str, Any] = {}
        self.births: dict[int, int] = {}
        self.writes: list[tuple[int, int]] = []
        self.order: list[int] = []
        self.closed = False
        self._places: dict[tuple[Any, int], Place] = {}
        self._twins: dict[int, tuple[Tensor, Tensor]] = {}

    def note(
        self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], run: Callable[[], Any]
    ) -> Any:
        """Run a call and keep what it was given and returned."""
        operands = leaves(args, kwargs)
        tensors = [one for one in operands if isinstance(one, Tensor)]
        before = [version_of(tensor) for tensor in tensors]
        result = run()
        number = len(self.calls)
        for tensor, version in zip(tensors, before, strict=True):
            if version_of(tensor) != version:
                self.writes.append((number, storage_of(tensor)))
        made = Made(name, operands, result)
        # An assignment returns nothing: what it wrote on is what it made.
        kept = args[0] if name == "__setitem__" else result
        if isinstance(kept, Tensor):
            made.version, made.storage = version_of(kept), storage_of(kept)
            self.births.setdefault(made.storage, number)
            self._places.setdefault(_edge(kept), (number, None))
        elif isinstance(result, (tuple, list)):
            for index, part in enumerate(result):
                if isinstance(part, Tensor):
                    self.births.setdefault(storage_of(part), number)
                    self._places.setdefault(_edge(part), (number, index))
                    made.version, made.storage = version_of(part), storage_of(part)
        self.calls.append(made)
        return result

    def enter(self, arguments: dict[str, Any]) -> None:
        """Keep the arguments that the network is about to be given; caches as they are now."""
        for name, value in arguments.items():
            self.arguments[name] = value if isinstance(value, Tensor) else copy.deepcopy(value)
            if isinstance(value, Tensor):
                self._places[_edge(value)] = (name, None)

    def place_of(self, activation: Activation) -> Place:
        """Which call made an activation, or which argument it is.

        Raises:
            TraceError: no call returned it, or it was overwritten by the call that returned it.
        """
        edge = activation.edge
        place = None if edge is None else self._places.get((edge.node, edge.output_nr))
        if place is None:
            raise TraceError(
                "the network cannot be run again from an activation that no function returned; "
                "use a method that runs it once"
            )
        kept = activation.value
        # Of an in-place addition the operand was kept, but not the call that made it.
        if isinstance(place[0], int) and kept is not None:
            call = self.calls[place[0]]
            if place[1] is None and call.storage != storage_of(kept):
                raise TraceError(OVERWRITTEN)
        return place

    def twin(self, value: Any) -> Any:
        """A taped value cut off from the gradients of the recorded pass, always the same one."""
        if isinstance(value, Tensor):
            if not value.requires_grad:
                return value
            found = self._twins.get(id(value))
            if found is None:
                found = self._twins[id(value)] = (value, value.detach())
            return found[1]
        if isinstance(value, list) or (
            isinstance(value, tuple) and any(isinstance(part, Tensor) for part in value)
        ):
            return like(value, [self.twin(part) for part in value])
        return value

    def close(self) -> None:
        """Let go of all tensors."""
        self.closed = True
        for held in (self.calls, self.arguments, self.births, self.writes, self.order):
            held.clear()
        self._places.clear()
        self._twins.clear()


OVERWRITTEN = (
    "the network overwrote an activation in place that the explanation needs; replace the in-place "
    "operation, or use a method that runs the network once"
)


class TapedRecorder(Recorder):
    """A recorder that keeps a tape of the pass beside its drafts."""

    taped = True

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network, keep_values=True)
        self.tape = Tape()

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run one torch function, tag what it returns and keep it."""
        name = function_name(function)
        watched = super().__torch_function__
        if name in UNNUMBERED or inside_transform():
            return watched(function, types, args, kwargs)
        return self.tape.note(
            name, args, kwargs or {}, lambda: watched(function, types, args, kwargs)
        )


def leaves(args: Any, kwargs: Any) -> list[Any]:
    """The operands of a call one by one, with the lengths of the lists they stand in."""
    found: list[Any] = []
    waiting = [args, kwargs] if kwargs else [args]
    while waiting:
        value = waiting.pop(0)
        if isinstance(value, (tuple, list)):
            found.append(len(value))
            waiting[:0] = value
        elif isinstance(value, dict):
            found.extend(value)
            waiting[:0] = value.values()
        elif isinstance(value, slice):
            waiting[:0] = (value.start, value.stop, value.step)
        else:
            found.append(value)
    return found


def like(result: Any, parts: list[Any]) -> Any:
    """Parts in a tuple or list of the same kind."""
    return parts if type(result) is list else type(result)(parts)


def _edge(tensor: Tensor) -> tuple[Any, int]:
    if tensor.requires_grad:
        # A view made under no_grad says that it requires a gradient, but has none to give.
        with torch.enable_grad(), contextlib.suppress(AssertionError, RuntimeError):
            edge = get_gradient_edge(tensor)
            return edge.node, edge.output_nr
    return None, 0
