"""Choices that are made once and kept: which class a target meant when it was read first.

A target may choose (the predicted class, the surest query, the likeliest token). Read again on
another output it must mean the same, or a change of the score would be a change of the question.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

_INDICES = frozenset(["argmax", "argmin", "argsort"])
_PAIRS = frozenset(
    ["max", "min", "topk", "sort", "median", "nanmedian", "mode", "kthvalue", "cummax", "cummin"]
)


class Choices:
    """Reads a function of an output; from the second time on with the choices of the first.

    Functions that return indices return those of the first time, and values are taken there.

    Example:
        >>> import torch
        >>> choices = Choices(lambda scores: scores.gather(0, scores.argmax(0, keepdim=True)))
        >>> choices.read(torch.tensor([1.0, 3.0])), choices.read(torch.tensor([5.0, 2.0]))
        (tensor([3.]), tensor([2.]))
    """

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self._function = function
        self._made: list[Tensor] | None = None

    def read(self, output: Any) -> Any:
        """What the function says of an output."""
        with _Choosing(self._made) as mode:
            result = self._function(output)
        self._made = mode.made
        return result


class _Choosing(TorchFunctionMode):
    """Notes the indices that functions choose, or repeats those that were noted."""

    def __init__(self, made: list[Tensor] | None) -> None:
        super().__init__()
        self.made = [] if made is None else made
        self._again = None if made is None else iter(made)

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run one torch function, with an earlier choice where it makes one."""
        name, kwargs = getattr(function, "__name__", ""), kwargs or {}
        result = function(*args, **kwargs)
        pair = name in _PAIRS and isinstance(result, tuple) and len(result) == 2
        if not (pair or name in _INDICES):
            return result
        if self._again is None:
            indices = result[1] if pair else result
            assert isinstance(indices, Tensor)
            self.made.append(indices)
            return result
        indices = next(self._again, None)
        if indices is None:
            return result
        if not pair:
            return indices
        return type(result)((_taken(name, indices, args, kwargs), indices))


def _taken(name: str, indices: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The values that stand at indices along the axis of a call."""
    tensor = args[0] if args else kwargs["input"]
    axis = _axis(name, args, kwargs)
    dropped = indices.ndim < tensor.ndim
    at = indices.unsqueeze(axis) if dropped else indices
    values = tensor.gather(axis, at)
    return values.squeeze(axis) if dropped else values


def _axis(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """The axis of a call: `dim`, or `axis` as numpy spells it, or by its place; the last if none.

    In `sort(stable=..., dim=...)` and `topk(k=..., dim=...)` all may be keywords; `sort(x, 0)` and
    `kthvalue(x, 2, 0)` give it by place, behind k where there is one.
    """
    for keyword in ("dim", "axis"):
        if keyword in kwargs:
            return kwargs[keyword]
    place = 2 if name in ("topk", "kthvalue") else 1
    positional = args[place] if len(args) > place else -1
    return -1 if isinstance(positional, bool) else positional
