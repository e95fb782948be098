"""What a method works on: a token graph, and all that was found out about it for one target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from relmap._torch_private import version_of
from relmap.errors import TraceError
from relmap.trace import Replay
from relmap.trace.graph import Activation, TokenGraph


@dataclass(frozen=True, eq=False)
class RecordedPass:
    """A token graph with the gradients of the target: all that a method works on.

    `readout[state]` is the row to push: how much the target reads each token of a final state,
    summing to 1 for every example. `gradients` holds dy/dx by activation (see `gradient`),
    `relevances` the relevance that a backward of the relevance family hands to an activation (None
    under a gradient), `arguments` the relevance of the forward's own arguments, where asked for.
    `padding[state]` marks tokens of a reported source that only fill the batch up. `outputs` are
    the output tensors that the target reads, each with dy/d of it, and `given` is what the forward
    was called with. `replayed` runs the network again (see `replay`).
    """

    graph: TokenGraph
    readout: Mapping[int, Tensor]
    gradients: Mapping[int, Tensor]
    relevances: Mapping[int, Tensor] | None = None
    arguments: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    padding: Mapping[int, Tensor] = field(default_factory=dict[int, Tensor])
    outputs: tuple[tuple[Tensor, Tensor], ...] = ()
    given: Mapping[str, Any] = field(default_factory=dict[str, Any])
    replayed: Replay | None = None

    @property
    def replay(self) -> Replay:
        """The network once more, with some of its activations replaced; needs "replay"."""
        if self.replayed is None:
            raise RuntimeError("a method runs the network again, which its `needs` do not name")
        return self.replayed

    def gradient(self, activation: Activation | None) -> Tensor | None:
        """dy/dx of a recorded activation; None where the target does not depend on it."""
        return None if activation is None else self.gradients.get(id(activation))

    def relevance(self, activation: Activation | None) -> Tensor | None:
        """The relevance at a recorded activation; None where none arrives, or none was asked."""
        if activation is None or self.relevances is None:
            return None
        return self.relevances.get(id(activation))

    def value(self, activation: Activation) -> Tensor:
        """A recorded activation, unless the model has since overwritten it in place."""
        if activation.value is None:
            raise RuntimeError("a method reads a value that its `needs` do not name")
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
