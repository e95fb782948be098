"""Token labels: which token of a state every element of a tensor belongs to.

Labels are integers moved by the very functions that move the data, so windows, shifts, merges,
packing and scatters need no rule of their own. An axis along which labels are constant is a
feature axis; it is kept at size 1, so that labels of a wide tensor stay as small as its token
axes and the recorder costs next to nothing. The label -1 means "no token" (padding).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

NO_TOKEN = -1


@dataclass(slots=True, eq=False)
class Labels:
    """Labels of a tensor of shape `shape`; `values` has size 1 along feature axes.

    Never changed once made; not frozen, since they are made by the thousand and freezing costs.

    `folded` says that a feature axis was folded together with tokens and written out in full, so
    that it has to be looked for when axes are cut open again.
    """

    shape: tuple[int, ...]
    values: Tensor
    folded: bool = False

    @staticmethod
    def number(shape: Sequence[int], feature_axes: Sequence[int] = ()) -> Labels:
        """Number the positions of a tensor afresh, with the given axes as feature axes."""
        shape = tuple(shape)
        features = {axis % len(shape) for axis in feature_axes} if shape else set()
        sizes = [1 if axis in features else size for axis, size in enumerate(shape)]
        return Labels(shape, torch.arange(math.prod(sizes)).reshape(sizes))

    @staticmethod
    def of(tensor: Tensor) -> Labels:
        """Read labels off a full tensor of labels, finding where they are constant."""
        return Labels(tuple(tensor.shape), _compact(tensor, range(tensor.ndim)), folded=True)

    @property
    def varying(self) -> tuple[int, ...]:
        """Axes along which labels vary: the token axes."""
        return tuple(axis for axis, size in enumerate(self.values.shape) if size > 1)

    def full(self) -> Tensor:
        """Labels at the tensor's own shape (a view: feature axes have stride 0)."""
        return self.values.expand(self.shape)

    def same_as(self, other: Labels) -> bool:
        """Whether both say the same where they are broadcast against each other."""
        if self.values is other.values:
            return True
        if math.prod(self.values.shape) != math.prod(other.values.shape):
            return False
        try:
            left, right = torch.broadcast_tensors(self.values, other.values)
        except RuntimeError:
            return False
        return left.numel() == self.values.numel() and torch.equal(left, right)

    def agree(self, other: Labels) -> Labels | None:
        """Both labels in one, if they say the same wherever both name a token; else None."""
        if self.values is other.values:
            return self
        if self.shape != other.shape:
            return None
        left, right = torch.broadcast_tensors(self.values, other.values)
        both = (left >= 0) & (right >= 0)
        if not torch.equal(torch.where(both, left, 0), torch.where(both, right, 0)):
            return None
        return Labels(self.shape, torch.maximum(left, right))

    def broadcast_to(self, shape: Sequence[int]) -> Labels:
        """Labels of the tensor broadcast to a shape."""
        shape = tuple(shape)
        if shape == self.shape:
            return self
        missing = len(shape) - len(self.shape)
        values = self.values.reshape((1,) * missing + tuple(self.values.shape))
        return Labels(shape, values, self.folded)

    def collapse(self, axes: Sequence[int], keep: bool = False) -> Labels:
        """Drop feature axes (or leave them at size 1)."""
        gone = {axis % len(self.shape) for axis in axes}
        if keep:
            shape = tuple(1 if axis in gone else size for axis, size in enumerate(self.shape))
            return Labels(shape, self.values, self.folded)
        left = [axis for axis in range(len(self.shape)) if axis not in gone]
        values = self.values.reshape([self.values.shape[axis] for axis in left])
        return Labels(tuple(self.shape[axis] for axis in left), values, self.folded)

    def permute(self, order: Sequence[int]) -> Labels:
        """Labels with their axes in another order."""
        shape = tuple(self.shape[axis] for axis in order)
        return Labels(shape, self.values.permute(tuple(order)), self.folded)

    def project(self, letters: str, out: str, shape: tuple[int, ...]) -> Labels:
        """Labels of an operand with a letter for each axis, laid along the letters of a result."""
        kept = [letter for letter in out if letter in letters]
        gone = [letter for letter in letters if letter not in out]
        values = self.values.permute([letters.index(letter) for letter in (*kept, *gone)])
        values = values.reshape(values.shape[: len(kept)])
        for position, letter in enumerate(out):
            if letter not in letters:
                values = values.unsqueeze(position)
        return Labels(shape, values, self.folded)

    def append_feature(self, size: int) -> Labels:
        """Labels with one more feature axis at the end."""
        return Labels((*self.shape, size), self.values.unsqueeze(-1), self.folded)

    def reshape(self, shape: Sequence[int]) -> Labels:
        """Labels of the reshaped tensor.

        Axes are cut into the smallest groups that the reshape maps onto each other. A group of
        feature axes stays one; only a group that folds tokens and features together is written
        out in full.
        """
        shape = tuple(shape)
        if shape == self.shape:
            return self
        if 0 in self.shape:
            return Labels(shape, self.full().reshape(shape))
        expanded, sizes, cut, folded = list(self.values.shape), [], [], self.folded
        for old_axes, new_axes in _reshape_groups(self.shape, shape):
            feature = [axis for axis in old_axes if self.values.shape[axis] == 1]
            if len(feature) == len(old_axes):
                sizes += [1] * len(new_axes)
                continue
            for axis in feature:
                expanded[axis] = self.shape[axis]
                folded = folded or self.shape[axis] > 1
            sizes += [shape[axis] for axis in new_axes]
            if len(new_axes) > 1:
                cut += new_axes
        values = self.values.expand(expanded).reshape(sizes)
        return Labels(shape, _compact(values, cut) if folded else values, folded)

    def replay(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run a data movement on the labels; results are labels (or a tuple of them)."""
        result = function(self.full(), *args, **kwargs)
        if isinstance(result, Tensor):
            return Labels.of(result)
        return tuple(Labels.of(part) for part in result)

    def review(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run a function that only makes views: feature axes keep stride 0, nothing is compared.

        An operation that was registered as being like one may make a copy: then they are compared.
        """
        whole = self.full()
        result = function(whole, *args, **kwargs)
        memory = whole.untyped_storage().data_ptr()

        def read(part: Tensor) -> Labels:
            if part.untyped_storage().data_ptr() != memory:
                return Labels.of(part)
            return Labels(tuple(part.shape), _without_strides(part), self.folded)

        return read(result) if isinstance(result, Tensor) else tuple(map(read, result))

    def select(self, index: Any) -> Labels:
        """Labels of `tensor[index]`; axes after the last indexed one are left as they are."""
        items = index if isinstance(index, tuple) else (index,)
        used = sum(_axes_used(item) for item in items)
        if any(item is Ellipsis for item in items):
            return Labels.of(self.full()[index])
        sizes = list(self.shape[:used]) + list(self.values.shape[used:])
        picked = Labels.of(self.values.expand(sizes)[index])
        behind = len(self.shape) - used
        head = picked.shape[: len(picked.shape) - behind]
        return Labels(head + self.shape[used:], picked.values, self.folded)


def concatenate(parts: Sequence[Labels], axis: int) -> Labels:
    """Labels of the concatenation of tensors along an axis."""
    axis %= len(parts[0].shape)
    sizes = [max(part.values.shape[a] for part in parts) for a in range(len(parts[0].shape))]
    spread = []
    for part in parts:
        sizes[axis] = part.shape[axis]
        spread.append(part.values.expand(sizes))
    shape = list(parts[0].shape)
    shape[axis] = sum(part.shape[axis] for part in parts)
    joined = torch.cat(spread, dim=axis)
    if joined.shape[axis] > 1 and bool((joined == joined.narrow(axis, 0, 1)).all()):
        joined = joined.narrow(axis, 0, 1)
    return Labels(tuple(shape), joined, any(part.folded for part in parts))


def _without_strides(values: Tensor) -> Tensor:
    for axis, stride in enumerate(values.stride()):
        if stride == 0 and values.shape[axis] > 1:
            values = values.narrow(axis, 0, 1)
    return values


def _compact(values: Tensor, axes: Sequence[int]) -> Tensor:
    """Shrink the axes along which labels are constant."""
    for axis in axes:
        if values.shape[axis] <= 1:
            continue
        if values.stride(axis) == 0:
            values = values.narrow(axis, 0, 1)
            continue
        # Two neighbours tell most axes apart; only the rest is compared whole.
        here = [0] * values.ndim
        there = list(here)
        there[axis] = 1
        if values.numel() and values[tuple(here)].item() == values[tuple(there)].item():
            first = values.narrow(axis, 0, 1)
            if bool((first == values).all()):
                values = first
    return values


@lru_cache(maxsize=4096)
def _reshape_groups(
    old: tuple[int, ...], new: tuple[int, ...]
) -> list[tuple[list[int], list[int]]]:
    """The smallest groups of axes that a reshape maps onto each other."""
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        old_axes, new_axes, left, right = [], [], 1, 1
        if i < len(old):
            old_axes, left, i = [i], old[i], i + 1
        if j < len(new):
            new_axes, right, j = [j], new[j], j + 1
        while left != right:
            if left < right:
                old_axes.append(i)
                left, i = left * old[i], i + 1
            else:
                new_axes.append(j)
                right, j = right * new[j], j + 1
        groups.append((old_axes, new_axes))
    return groups


def _axes_used(item: Any) -> int:
    if item is None or item is Ellipsis or isinstance(item, bool):
        return 0
    if isinstance(item, Tensor) and item.dtype in (torch.bool, torch.uint8):
        return item.ndim
    return 1
