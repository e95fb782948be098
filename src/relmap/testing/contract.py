"""What every attribution keeps to, whatever made it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from relmap._torch_private import hooks_of
from relmap.explanation import explain
from relmap.request.forward_arguments import count_examples
from relmap.result.attribution import Attribution

RELATIVE, ABSOLUTE = 2e-4, 2e-6
"""How far the scores of an example may move with its neighbours, from another order of sums."""


def see(kept: bool, sentence: str) -> None:
    """Raise an AssertionError with a sentence, unless the contract is kept."""
    if not kept:
        raise AssertionError(sentence)


def check_layout(found: Attribution, inputs: Mapping[str, Any], who: str = "it") -> None:
    """See that scores are finite, cut loose from autograd, and laid out token by token.

    Raises:
        AssertionError: They are not.
    """
    see(found.scores.keys() == found.layout.keys(), f"{who} gives scores and layouts of different "
        f"sources: {', '.join(found.scores)} and {', '.join(found.layout)}")  # fmt: skip
    for name, scores in found.scores.items():
        layout, where = found.layout[name], f"{who} gives {name!r}"
        see(name in inputs, f"{where} scores, which is no argument of the forward")
        see(scores.ndim == 2, f"{where} scores of shape {tuple(scores.shape)}, not (batch, token)")
        see(not scores.requires_grad, f"{where} scores that hold on to the gradients of the pass")
        see(bool(scores.isfinite().all()), f"{where} scores that are NaN or infinite")
        shapes = {tuple(part.shape) for part in (scores, layout.special, layout.padding)}
        see(len(shapes) == 1, f"{where} scores and marks of different shapes: {shapes}")
        overlap = bool((layout.special & layout.padding).any())
        see(not overlap, f"{where} tokens that are special and padding at once")
        see(bool(scores[layout.padding].eq(0).all()), f"{where} relevance on padding")
        if layout.grid is not None and layout.patches is not None:
            cells = int(torch.tensor(layout.grid).prod())
            see(layout.patches.numel() == cells,
                f"{where} {layout.patches.numel()} patches on a grid of {cells}")  # fmt: skip


def check_batch(
    network: nn.Module, inputs: Mapping[str, Any], *, who: str = "it", **how: Any
) -> Attribution:
    """See that every example of a batch is explained as it is alone; give the whole batch's map.

    `how` is what `relmap.explain` is given besides: method, backward, target, options.

    Raises:
        AssertionError: An example's scores depend on its neighbours, or its sources do.
    """
    whole = explain(network, **how, **inputs)
    for index in range(count_examples(network, dict(inputs))):
        alone = explain(network, **how, **example_of(inputs, index))
        see(alone.scores.keys() == whole.scores.keys(),
            f"{who} gives example {index} other sources alone than in a batch")  # fmt: skip
        for name, scores in alone.scores.items():
            both = whole.scores[name][index : index + 1]
            width = min(both.shape[1], scores.shape[1])
            close = torch.allclose(both[:, :width], scores[:, :width], RELATIVE, ABSOLUTE)
            see(close, f"{who} gives example {index} other scores of {name!r} in a batch than "
                "alone: examples must not mix")  # fmt: skip
    return whole


def example_of(inputs: Mapping[str, Any], index: int) -> dict[str, Any]:
    """One example of a batch of arguments."""
    return {
        name: value[index : index + 1] if isinstance(value, Tensor) and value.ndim else value
        for name, value in inputs.items()
    }


@contextmanager
def untouched(network: nn.Module, who: str) -> Iterator[None]:
    """See that a network is left as it was.

    Raises:
        AssertionError: Its weights, buffers, gradients, modes or hooks changed.
    """
    before = _state(network)
    kept = {name: value.clone() for name, value in network.state_dict().items()}
    yield
    after = network.state_dict()
    changed = [name for name, value in kept.items() if not torch.equal(value, after[name])]
    see(not changed, f"{who} changes the network's {', '.join(changed[:3])}")
    see(_state(network) == before, f"{who} leaves gradients, modes or hooks behind in the network")


def _state(network: nn.Module) -> list[Any]:
    modules = [(module.training, hooks_of(module)) for module in network.modules()]
    return [*modules, *((one.requires_grad, one.grad is None) for one in network.parameters())]
