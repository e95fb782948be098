"""Replay: the recorded network once more, with some of its activations replaced.

A replay runs the network's own code, but looks every torch function up on the tape first: as long
as nothing was replaced, and wherever the operands are those of the recorded pass, the taped result
is returned and nothing is computed. So a replay of the last block runs the last block, and one
that only wants a projection stops behind it. What is computed is computed by the network itself,
in the gradient mode of the recorded pass, and is differentiable in the tensors that were given.

Memory that was written on after the first replaced activation is made anew, so that in-place
operations give what they would have given.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from relmap._torch_private import version_of
from relmap.errors import TraceError
from relmap.trace.graph import Activation, Attention
from relmap.trace.replay.rerun import ELSEWHERE, Known, Rerun, part_of
from relmap.trace.replay.tape import Place, Tape

Given = Mapping[Activation, Tensor]
"""Activations and what stands in their place, in their own shape."""


class Replay:
    """Runs a recorded network again while its pass is open.

    `read(output)` is the explained target, with the classes it chose at first.
    """

    def __init__(self, network: nn.Module, tape: Tape, read: Callable[[Any], Tensor]) -> None:
        self._network, self._tape, self._read = network, tape, read

    def value(self, activation: Activation) -> Tensor:
        """An activation as it was recorded.

        Raises:
            TraceError: no function returned it, or the network cannot be run again.
        """
        self._check_open()
        kept = activation.value
        if kept is not None and version_of(kept) == activation.version:
            return kept
        return self._recorded(self._tape.place_of(activation))

    def values(self, given: Given, wanted: Sequence[Activation]) -> list[Tensor]:
        """The wanted activations of a pass in which the given ones are replaced.

        The network stops as soon as the last of them is known.

        Raises:
            TraceError: an activation was not reached, or the network cannot be run again.
        """
        self._check_open()
        places = [self._tape.place_of(activation) for activation in wanted]
        rerun = self._rerun(given)
        rerun.wanted = {
            number for number, _ in places if isinstance(number, int) and rerun.affects(number)
        }
        if rerun.wanted:
            self._run(rerun)
        found: list[Tensor] = []
        for activation, place in zip(wanted, places, strict=True):
            if rerun.affects(place[0]):
                one = part_of(rerun.found.get(place[0]), place)
            else:
                one = self._recorded(place)
            if not isinstance(one, Tensor) or tuple(one.shape) != activation.shape:
                raise TraceError(ELSEWHERE)
            found.append(one)
        return found

    def target(self, given: Given) -> Float[Tensor, " batch"]:
        """The target of a pass in which the given activations are replaced.

        Raises:
            TraceError: the network cannot be run again.
        """
        with torch.enable_grad():
            return self._read(self.output(given))

    def output(self, given: Given) -> Any:
        """What the network returns in a pass in which the given activations are replaced."""
        self._check_open()
        return self._run(self._rerun(given))

    def value_vectors(
        self, call: Attention, given: Given
    ) -> Float[Tensor, "group value_head key feature"]:
        """The value vectors of an attention, laid out as `call.value` is.

        Raises:
            TraceError: the values are not computed from tokens.
        """
        if call.value_output is None or call.lay_values is None:
            raise TraceError(f"the values of {call.module} are not computed from tokens")
        (found,) = self.values(given, [call.value_output])
        return call.lay_values(found)

    def _recorded(self, place: Place) -> Tensor:
        number = place[0]
        if isinstance(number, str):
            return self._tape.twin(self._tape.arguments[number])
        made = self._tape.calls[number]
        # An assignment returns nothing; what it wrote on is its first argument.
        one = made.operands[1] if made.result is None else part_of(made.result, place)
        if place[1] is None and version_of(one) != made.version:
            # It was overwritten since: the memory is made anew, as it was when the call was done.
            rerun = Rerun(self._tape, {}, {}, first=number)
            rerun.wanted = {number}
            self._run(rerun)
            return rerun.found[number].detach()
        return self._tape.twin(one)

    def _rerun(self, given: Given) -> Rerun:
        changed: dict[int, dict[int | None, Tensor]] = {}
        entered: dict[str, Tensor] = {}
        for activation, tensor in given.items():
            place, part = self._tape.place_of(activation)
            if tuple(tensor.shape) != activation.shape:
                raise ValueError(f"given {tuple(tensor.shape)} for {activation.shape}")
            if isinstance(place, str):
                entered[place] = tensor
            else:
                changed.setdefault(place, {})[part] = tensor
        return Rerun(self._tape, changed, entered)

    def _run(self, rerun: Rerun) -> Any:
        arguments = {
            name: rerun.entered[name] if name in rerun.entered else _again(self._tape, value)
            for name, value in self._tape.arguments.items()
        }
        with torch.enable_grad():
            try:
                with rerun:
                    return self._network(**arguments)
            except Known:
                return None

    def _check_open(self) -> None:
        if self._tape.closed:
            raise RuntimeError("the recorded pass has ended; a replay lasts as long as it does")


def _again(tape: Tape, value: Any) -> Any:
    """An argument for one more pass: caches and lists as they were before the first."""
    return tape.twin(value) if isinstance(value, Tensor) else copy.deepcopy(value)
