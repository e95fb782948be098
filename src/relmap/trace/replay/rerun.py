"""One more pass of a recorded network: which functions are looked up, and which run.

A function is looked up where it is given what it was given in the recorded pass: the same tensors,
or values made outside of all that can be watched (a mask from a mapped function) that are equal.
Tensors that were computed anew carry a mark, so that whatever reads one is computed as well.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode

from relmap._torch_private import inside_transform, version_of
from relmap.errors import TraceError
from relmap.trace.calls import function_name
from relmap.trace.operations.multi_head import HIDDEN_ATTENTION, written_out
from relmap.trace.replay.tape import (
    OVERWRITTEN,
    Made,
    Place,
    Tape,
    leaves,
    like,
)

_MARK = "_relmap_changed"

ELSEWHERE = (
    "with the replaced activations the network takes another way (other experts, another number of "
    "steps), on which what the explanation needs is not computed; use a method that runs it once"
)


class Known(BaseException):
    """All that was wanted is known; no error, so that no network catches it."""


class Rerun(TorchFunctionMode):
    """Answers torch functions from the tape where it can, and runs them where it cannot.

    `first` is the number of the first call that may have to be computed, `renewed` are the calls
    that made memory which is written on later.
    """

    def __init__(
        self, tape: Tape, given: dict[int, dict[int | None, Tensor]], entered: dict[str, Tensor],
        first: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.tape, self.given = tape, given
        self.entered = {
            name: marked(tensor.to(tape.arguments[name].dtype).clone())
            for name, tensor in entered.items()
        }
        self.wanted: set[int] = set()
        self.found: dict[int | str, Any] = {**self.entered}
        self.first = min(given, default=len(tape.calls)) if first is None else first
        self.first = 0 if entered else self.first
        self.renewed: set[int] = set()
        self._rewritten: set[int] = set()
        self._number = self._count = 0
        self._untouched, self._strayed = not entered, False
        self._renew()

    def affects(self, place: int | str) -> bool:
        """Whether what a call returns, or an argument, may differ from the recorded pass."""
        return place in self.entered if isinstance(place, str) else place >= self.first

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run one torch function, or look up what it returned."""
        name, kwargs = function_name(function), kwargs or {}
        if name == HIDDEN_ATTENTION:
            with self:
                return written_out(args, kwargs)
        if name == "__iter__":
            with self:
                return iter(args[0].unbind(0))
        if inside_transform():
            return function(*args, **kwargs)
        number = self._known(name)
        if number is not None:
            return self.tape.twin(self.tape.calls[number].result)
        return self._decided(name, function, args, kwargs)

    def _known(self, name: str) -> int | None:
        """The number of a call that is made before anything is changed, as in earlier replays."""
        order, count = self.tape.order, self._count
        self._count += 1
        if not self._untouched or count >= len(order) or order[count] >= self.first:
            return None
        number = order[count]
        if self.tape.calls[number].name != name:
            return None
        self._number = number + 1
        return number

    def _decided(self, name: str, function: Any, args: Any, kwargs: Any) -> Any:
        """Compare the operands of a call with those of the recorded pass, and act on it."""
        operands = leaves(args, kwargs)
        changed = any(isinstance(one, Tensor) and _MARK in vars(one) for one in operands)
        number = self._find(name, operands, changed)
        if number is None:
            return self._computed(function, args, kwargs)
        self._number = number + 1
        if changed or number in self.given or number in self.renewed:
            self._untouched = False
        if number in self.given:
            result = self._replaced(number, function, args, kwargs)
        elif changed or number in self.renewed:
            result = self._computed(function, args, kwargs)
        else:
            result = self.tape.twin(self.tape.calls[number].result)
            if self._untouched and self._count == len(self.tape.order) + 1:
                self.tape.order.append(number)
        if number in self.wanted:
            self._keep(number, args[0] if name == "__setitem__" else result)
        return result

    def _renew(self) -> None:
        """Find the calls that made memory which is written on from the first change on."""
        tape, last = self.tape, -1
        while self.first != last:
            last = self.first
            for number, storage in tape.writes:
                if number < self.first:
                    continue
                birth = tape.births.get(storage)
                if birth is None:
                    raise TraceError(
                        "the network writes on its own arguments or buffers in place, so it cannot "
                        "be run again; use a method that runs it once"
                    )
                self.renewed.add(birth)
                self._rewritten.add(storage)
            self.first = min([self.first, *self.renewed])

    def _find(self, name: str, operands: list[Any], changed: bool) -> int | None:
        """The number of a call; None from where the network does what it did not do before.

        A network that keeps something from one pass to the next leaves out the calls that made it.
        """
        calls, number = self.tape.calls, self._number
        if self._strayed:
            return None
        if changed:
            if number < len(calls) and calls[number].name == name:
                return number
        else:
            for place in range(number, len(calls)):
                if calls[place].name == name and self._unchanged(calls[place], operands):
                    if self._concerned(number, place):
                        break
                    return place
        self._stray(number)
        return None

    def _concerned(self, start: int, stop: int) -> bool:
        """Whether any of the calls from `start` on, up to `stop`, is given, wanted or renewed."""
        return any(start <= one < stop for one in (*self.given, *self.wanted, *self.renewed))

    def _unchanged(self, made: Made, operands: list[Any]) -> bool:
        """Whether a call is given what it was given in the recorded pass."""
        twin = self.tape.twin
        return len(operands) == len(made.operands) and all(
            one is before or _same(one, twin(before))
            for one, before in zip(operands, made.operands, strict=True)
        )

    def _computed(self, function: Any, args: Any, kwargs: Any) -> Any:
        """Run a call; a write on memory of the recorded pass would spoil all later replays."""
        kept = [
            (one, version_of(one)) for one in leaves(args, kwargs)
            if isinstance(one, Tensor) and _MARK not in vars(one)
        ]  # fmt: skip
        # A checkpointed block would run once more in the backward pass, where nothing is looked up.
        with saved_tensors_hooks(_packed, _unpacked):
            result = function(*args, **kwargs)
        if any(version_of(one) != version for one, version in kept):
            raise TraceError(OVERWRITTEN)
        # A function may hand back what it was given, such as a weight that has its type already.
        return marked(result, {id(one) for one, _ in kept})

    def _replaced(self, number: int, function: Any, args: Any, kwargs: Any) -> Any:
        made, given = self.tape.calls[number], self.given[number]
        shared = made.storage in self._rewritten and number not in self.renewed
        if not shared and None in given:
            return marked(given[None].to(made.result.dtype).clone())
        result = self._computed(function, args, kwargs)
        if shared:  # others see the same memory: the value is put there
            for part, tensor in given.items():
                whole = args[0] if result is None else result
                (whole if part is None else whole[part]).copy_(tensor)
            return result
        parts = [
            marked(given[index].to(part.dtype).clone()) if index in given else part
            for index, part in enumerate(result)
        ]
        return like(result, parts)

    def _stray(self, number: int) -> None:
        """From a call on that the recorded pass did not have at this place all are computed."""
        if number < self.first:
            raise TraceError(
                "the network did not run the same way twice (it keeps something from one call to "
                "the next, or draws at random), so it cannot be run again; use a method that runs "
                "it once"
            )
        if any(one >= number for one in (*self.wanted, *self.given)):
            raise TraceError(ELSEWHERE)
        self._strayed = True

    def _keep(self, number: int, result: Any) -> None:
        rewritten = self.tape.calls[number].storage in self._rewritten
        if rewritten:
            result = [one.clone() for one in result] if isinstance(result, (tuple, list)) else (
                result.clone()
            )  # fmt: skip
        self.found[number] = result
        self.wanted.discard(number)
        if not self.wanted:
            raise Known


def _packed(tensor: Tensor) -> tuple[Tensor, int]:
    # Autograd puts the node back; a node that held its own result could never be freed.
    return tensor.detach(), version_of(tensor)


def _unpacked(packed: tuple[Tensor, int]) -> Tensor:
    tensor, version = packed
    if version_of(tensor) != version:
        raise TraceError(OVERWRITTEN)
    return tensor


def part_of(result: Any, place: Place) -> Any:
    """The tensor at a place of what a call returned."""
    if place[1] is None or result is None:
        return result
    return result[place[1]] if len(result) > place[1] else None


def _same(one: Any, before: Any) -> bool:
    if one is before:
        return True
    if isinstance(one, Tensor):
        # Made outside of all functions that can be seen, such as a mask: what counts is its value.
        return (
            isinstance(before, Tensor)
            and not one.requires_grad
            and one.dtype == before.dtype
            and one.shape == before.shape
            and torch.equal(one, before)
        )
    if type(one) is not type(before):
        return False
    if isinstance(one, np.ndarray):
        return np.array_equal(one, before)
    try:
        return bool(one == before)
    except (RuntimeError, TypeError, ValueError):
        return False


def marked(result: Any, old: Collection[int] = ()) -> Any:
    """Mark tensors as computed anew."""
    for part in result if isinstance(result, (tuple, list)) else (result,):
        if isinstance(part, Tensor) and id(part) not in old:
            setattr(part, _MARK, True)
    return result
