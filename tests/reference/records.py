"""What the papers' formulas speak of, taken out of a running network by hooks.

Somebody who knows the network lists its attention sub-layers in the order in which they run, and
for each of them says which tokens ask, which are read, and which two modules hold Y and Y'. A
sub-layer's attention map is the softmax that the eager network computed at that place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class SubLayer:
    """Where one attention sub-layer of a network is found.

    `queries` and `keys` name sequences of tokens (several: they stand side by side). Y is an
    argument of the module `stream`, Y' what the module `branch` returns. Sub-layers with the same
    `step` run side by side, and read the tokens as they were before any of them.
    """

    queries: tuple[str, ...]
    keys: tuple[str, ...]
    stream: tuple[str, int | str]
    branch: str
    step: int


@dataclass(frozen=True)
class Record:
    """One attention sub-layer of one example: A, Y, Y', and dy/d of each."""

    rows: Tensor
    columns: Tensor
    attention: Tensor
    attention_gradient: Tensor
    before: Tensor
    before_gradient: Tensor
    after: Tensor
    after_gradient: Tensor
    step: int


def take_records(
    network: nn.Module,
    inputs: Mapping[str, Any],
    target: Callable[[Any], Tensor],
    sublayers: Sequence[SubLayer],
    sizes: Mapping[str, int],
) -> list[Record]:
    """Run an eager network on one example and differentiate the target by all that was seen."""
    with _softmaxes() as maps, _hooks(network, sublayers) as (streams, branches):
        for parameter in network.parameters():
            parameter.requires_grad_(True)
        value = target(network(**inputs)).sum()
    assert len(maps) == len(sublayers), f"{len(maps)} softmaxes, {len(sublayers)} sub-layers"
    befores = [streams[one.stream].pop(0) for one in sublayers]
    afters = [branches[one.branch].pop(0) for one in sublayers]
    gradients = torch.autograd.grad(value, [*maps, *befores, *afters], allow_unused=True)
    tensors = [*maps, *befores, *afters]
    filled = [
        torch.zeros_like(tensor) if gradient is None else gradient
        for tensor, gradient in zip(tensors, gradients, strict=True)
    ]
    count = len(sublayers)
    places = _places(sizes)
    return [
        Record(
            rows=torch.cat([places[name] for name in one.queries]),
            columns=torch.cat([places[name] for name in one.keys]),
            attention=_single(maps[index]),
            attention_gradient=_single(filled[index]),
            before=_single(befores[index]),
            before_gradient=_single(filled[count + index]),
            after=_single(afters[index]),
            after_gradient=_single(filled[2 * count + index]),
            step=one.step,
        )
        for index, one in enumerate(sublayers)
    ]


def _single(tensor: Tensor) -> Tensor:
    assert tensor.shape[0] == 1, "one example at a time"
    return tensor.detach()[0].double()


def _places(sizes: Mapping[str, int]) -> dict[str, Tensor]:
    """Global numbers of the tokens of every sequence, in the order of `sizes`."""
    places, start = {}, 0
    for name, size in sizes.items():
        places[name] = torch.arange(start, start + size)
        start += size
    return places


@contextmanager
def _softmaxes() -> Iterator[list[Tensor]]:
    """Every softmax over the scores of heads, in the order in which they were computed."""
    found: list[Tensor] = []
    originals = functional.softmax, torch.softmax, Tensor.softmax

    def watched(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def softmax(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            before = len(found)
            if tensor.dtype == torch.float64:
                kwargs.pop("dtype", None)  # some networks normalise in float32, whatever they are
            result = original(tensor, *args, **kwargs)
            if tensor.ndim == 4 and len(found) == before:  # one may be written with another
                found.append(result)
            return result

        return softmax

    functional.softmax, torch.softmax, Tensor.softmax = map(watched, originals)
    try:
        yield found
    finally:
        functional.softmax, torch.softmax, Tensor.softmax = originals


@contextmanager
def _hooks(
    network: nn.Module, sublayers: Sequence[SubLayer]
) -> Iterator[tuple[dict[tuple[str, int | str], list[Tensor]], dict[str, list[Tensor]]]]:
    streams: dict[tuple[str, int | str], list[Tensor]] = {one.stream: [] for one in sublayers}
    branches: dict[str, list[Tensor]] = {one.branch: [] for one in sublayers}

    def note_stream(place: tuple[str, int | str]) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            key = place[1]
            streams[place].append(args[key] if isinstance(key, int) else kwargs[key])

        return hook

    def note_branch(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            branches[path].append(output[0] if isinstance(output, tuple) else output)

        return hook

    with ExitStack() as stack:
        for place in streams:
            module = network.get_submodule(place[0])
            handle = module.register_forward_pre_hook(note_stream(place), with_kwargs=True)
            stack.callback(handle.remove)
        for path in branches:
            handle = network.get_submodule(path).register_forward_hook(note_branch(path))
            stack.callback(handle.remove)
        yield streams, branches
