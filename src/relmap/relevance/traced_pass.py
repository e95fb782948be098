"""What a method works on: a token graph, and all that was found out about it for one target.

A pass holds what the method declared that it needs, and nothing else. Whatever else it is asked for
is an error that names the method and the need: zeros in its place would make a wrong map that looks
like a right one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from relmap._torch_private import version_of
from relmap.errors import InputError, TraceError
from relmap.relevance.needs import GRADIENTS, Need
from relmap.trace import Replay
from relmap.trace.graph import Activation, Bias, TokenGraph


def activations_of(graph: TokenGraph, need: Need) -> list[Activation]:
    """The activations whose gradient, or relevance, a need stands for."""
    activations: list[Activation | None] = []
    match need:
        case (
            Need.ATTENTION | Need.ATTENTION_GRADIENT | Need.ATTENTION_RELEVANCE | Need.CONTRIBUTION
        ):
            activations += [attention.output for attention in graph.attentions]
        case Need.BIAS_GRADIENT:
            activations += [bias.output for bias in graph.biases or ()]
        case Need.JOIN_GRADIENT:
            for state in graph.states:
                activations += [state.residual, state.branch]
        case Need.STREAM_GRADIENT | Need.TOKEN_RELEVANCE:
            for state in graph.states:
                entering = state.kind in ("source", "concatenation")
                activations += [state.residual, state.stream if entering else None]
        case Need.GRAPH | Need.OUTPUT | Need.REPLAY:
            pass
    return [one for one in activations if one is not None]


@dataclass(frozen=True, eq=False)
class RecordedPass:
    """A token graph with the gradients of the target: all that a method works on.

    `method` is the name of who works on it, `needs` what it declared. `readout[state]` is the row
    to push: how much the target reads each token of a final state, summing to 1 for every example.
    `gradients` holds dy/dx by activation (see `gradient`), `followed` the activations that were
    asked for it, `relevances` the relevance that a backward of the relevance family hands to an
    activation (None under a gradient), `entering` that of the forward's own arguments (see
    `arguments`). `padding[state]` marks tokens of a reported source that only fill the batch up.
    `outputs` are the output tensors that the target reads, each with dy/d of it, and `given` is
    what the forward was called with. `replayed` runs the network again (see `replay`).
    """

    graph: TokenGraph
    readout: Mapping[int, Tensor]
    gradients: Mapping[int, Tensor]
    needs: frozenset[Need]
    followed: frozenset[int] = frozenset()
    method: str = ""
    relevances: Mapping[int, Tensor] | None = None
    entering: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    padding: Mapping[int, Tensor] = field(default_factory=dict[int, Tensor])
    outputs: tuple[tuple[Tensor, Tensor], ...] = ()
    given: Mapping[str, Any] = field(default_factory=dict[str, Any])
    replayed: Replay | None = None

    @property
    def replay(self) -> Replay:
        """The network once more, with some of its activations replaced; needs "replay".

        Raises:
            InputError: the method did not declare it.
        """
        self.require("runs the network again", Need.REPLAY)
        assert self.replayed is not None
        return self.replayed

    @property
    def biases(self) -> tuple[Bias, ...]:
        """The biases that were added to tokens; needs "bias-gradient".

        Raises:
            InputError: the method did not declare it.
        """
        self.require("reads biases", Need.BIAS_GRADIENT)
        assert self.graph.biases is not None
        return self.graph.biases

    @property
    def arguments(self) -> Mapping[str, Tensor]:
        """The relevance of the forward's own arguments, by name; needs "token-relevance".

        Raises:
            InputError: the method did not declare it.
        """
        self.require("reads the relevance of arguments", Need.TOKEN_RELEVANCE)
        return self.entering

    def require(self, what: str, *needs: Need) -> None:
        """See that the method declared one of these needs for what it does.

        Raises:
            InputError: it did not; the message says what to declare.
        """
        if not self.needs.intersection(needs):
            raise self._undeclared(what, needs)

    def gradient(self, activation: Activation | None) -> Tensor | None:
        """dy/dx of a recorded activation; None where the target does not depend on it.

        Raises:
            InputError: the method did not declare that it reads this gradient.
        """
        if activation is None:
            return None
        gradient = self.gradients.get(id(activation))
        if gradient is None and id(activation) not in self.followed:
            able = [need for need in Need if need in GRADIENTS and self._covers(need, activation)]
            raise self._undeclared("reads a gradient", able)
        return gradient

    def relevance(self, activation: Activation | None) -> Tensor | None:
        """The relevance at a recorded activation; None where none arrives, or under a gradient.

        Raises:
            InputError: the method did not declare that it reads this relevance.
        """
        if activation is None:
            return None
        kinds = (Need.ATTENTION_RELEVANCE, Need.ATTENTION, Need.TOKEN_RELEVANCE)
        able = [need for need in kinds if self._covers(need, activation)]
        if not self.needs.intersection(able):
            raise self._undeclared("reads relevance", able)
        return None if self.relevances is None else self.relevances.get(id(activation))

    def value(self, activation: Activation) -> Tensor:
        """A recorded activation, unless the model has since overwritten it in place.

        Raises:
            InputError: the method did not declare that it reads this value.
            TraceError: the model has overwritten it.
        """
        if activation.value is None:
            able = [need for need in (Need.JOIN_GRADIENT, Need.STREAM_GRADIENT)
                    if self._covers(need, activation)]  # fmt: skip
            raise self._undeclared("reads the value of an activation", able or [Need.REPLAY])
        if version_of(activation.value) != activation.version:
            raise TraceError(
                "the network overwrote an activation in place that the explanation needs; "
                "replace the in-place operation, or use a method that needs attention alone"
            )
        return activation.value

    def input_x_gradient(self, activation: Activation | None) -> Tensor | None:
        """Elementwise x dy/dx of an activation."""
        gradient = self.gradient(activation)
        if activation is None or gradient is None:
            return None
        return self.value(activation) * gradient

    def _covers(self, need: Need, activation: Activation) -> bool:
        return any(one is activation for one in activations_of(self.graph, need))

    def _undeclared(self, what: str, able: Sequence[Need]) -> InputError:
        name = f"the method {self.method!r}" if self.method else "a method"
        declared = ", ".join(repr(str(need)) for need in Need if need in self.needs)
        if not able:
            return InputError(
                f"{name} {what} at an activation where none is kept for any of the needs: look at "
                f"another activation, or declare {str(Need.REPLAY)!r} and compute it"
            )
        ways = " or ".join(repr(str(need)) for need in able)
        return InputError(
            f"{name} {what}, which it did not declare: add {ways} to the `needs` that it is "
            f"registered with (now {declared or 'none'})"
        )
