"""The many spellings of one call.

A function of torch can be written as a function, a method or an operator, with its arguments in
order, by name, or under the names that numpy has for them; and two functions of one name may have
their arguments in different orders (`torch.where` and the method, `embedding` of torch and that of
`functional`). Rules ask for an argument by its name; here it is found, by the function's signature.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from relmap._torch_private import OpOverload, OpOverloadPacket, Parameter, parameters_of

_ALIASES = {"axis": "dim", "keepdims": "keepdim", "x2": "other"}
"""Numpy's names for arguments, which torch takes too."""

_FIRST = frozenset(["self", "tensor", "x", "x1", "a", "A"])
"""What the tensor that a function works on is called besides `input`."""

REFLECTED = frozenset(["radd", "rsub", "rmul", "rdiv", "rtruediv", "rpow", "rmatmul"])
"""Operators of their second operand, which stands in front."""


@dataclass(frozen=True, eq=False, slots=True)
class Spelling:
    """The arguments of one call: their names in the signature's order, and what was given.

    `names` is empty for a function whose signature nobody knows; its arguments go by their places.
    """

    names: tuple[str, ...]
    given: dict[str, Any]
    positions: int
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """One argument: by its name, or by its place in a signature that does not know the name.

        Example:
            >>> import torch
            >>> spelling = spell(torch.where, (), {"condition": 1, "input": 2, "other": 3})
            >>> spelling.argument(1, "input"), spelling.argument(3, "alpha", 4)
            (2, 4)
        """
        if name in self.given:
            return self.given[name]
        if name in self.names:
            return default
        if not self.names:
            return self.args[position] if position < len(self.args) else default
        if position < self.positions:
            return self.given.get(self.names[position], default)
        return default

    def in_order(self, without: str = "") -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The same call with as many arguments in order as can be, and the others by name."""
        if not self.names:
            return self.args, {key: value for key, value in self.kwargs.items() if key != without}
        count = 0
        while count < self.positions and self.names[count] in self.given:
            if self.names[count] == without:
                break
            count += 1
        behind = {
            name: value for name, value in self.given.items()
            if name not in self.names[:count] and name != without
        }  # fmt: skip
        return tuple(self.given[name] for name in self.names[:count]), behind


def spell(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Spelling:
    """The arguments of a call by their names in the function's signature.

    Example:
        >>> import torch
        >>> x = torch.ones(2, 3)
        >>> spell(torch.Tensor.max, (x, 1), {}).given.keys()
        dict_keys(['input', 'dim'])
    """
    for parameters in _signatures(function):
        if not _fits(parameters, args, kwargs):
            continue
        names = tuple(parameter.name for parameter in parameters)
        named = dict(zip(names, args, strict=False)) | _plainly(kwargs, names)
        given = {name: named[name] for name in names if name in named}
        positions = sum(not parameter.keyword_only for parameter in parameters)
        return Spelling(names, given, positions, args, kwargs)
    return Spelling((), _plainly(kwargs, ("input", "dim", "keepdim", "other")), 0, args, kwargs)


def _plainly(kwargs: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """Arguments given by name, under the names that the signature has for them."""
    plain: dict[str, Any] = {}
    for key, value in kwargs.items():
        alias = "input" if key in _FIRST else _ALIASES.get(key, key)
        plain[key if key in names or alias not in names else alias] = value
    return plain


@cache
def _signatures(function: Any) -> tuple[tuple[Parameter, ...], ...]:
    """The signatures of a function, each with the plain names of its parameters."""
    if isinstance(function, (OpOverload, OpOverloadPacket)):
        return _plainly_named(parameters_of(function))
    name = getattr(function, "__name__", "")
    try:
        written = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        inner = name.strip("_") if name.startswith("__") else name
        operator = inner.removeprefix("r") if inner in REFLECTED else inner
        known = [getattr(torch.ops.aten, one, None) for one in (name, inner, operator, inner[1:])]
        packet = next((one for one in known if isinstance(one, OpOverloadPacket)), None)
        if packet is None:
            return ()
        signatures = _plainly_named(parameters_of(packet))
        return _as_method(signatures) if _is_method(function) else signatures
    if any(one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD) for one in written):
        return ()
    parameters = [
        Parameter(one.name, "", one.kind is one.KEYWORD_ONLY, one.default is one.empty)
        for one in written
    ]
    return _plainly_named((tuple(parameters),))


def _is_method(function: Callable[..., Any]) -> bool:
    return getattr(function, "__objclass__", None) is not None


def _plainly_named(
    signatures: tuple[tuple[Parameter, ...], ...],
) -> tuple[tuple[Parameter, ...], ...]:
    return tuple(
        tuple(_as_input(one, parameters) for one in parameters) for parameters in signatures
    )


def _as_input(parameter: Parameter, among: tuple[Parameter, ...]) -> Parameter:
    """The tensor that a function works on under its one name (`where` has it in the middle)."""
    first = parameter.name == "self" or (parameter is among[0] and parameter.name in _FIRST)
    return replace(parameter, name="input") if first else parameter


def _as_method(
    signatures: tuple[tuple[Parameter, ...], ...],
) -> tuple[tuple[Parameter, ...], ...]:
    """A method has its tensor in front, wherever the function has it (`where`)."""
    return tuple(
        tuple(sorted(parameters, key=lambda one: one.name != "input")) for parameters in signatures
    )


def _fits(parameters: tuple[Parameter, ...], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a call is one of this signature, by the number, names and kinds of its arguments."""
    positional = [one for one in parameters if not one.keyword_only]
    if len(args) > len(positional):
        return False
    named = _plainly(kwargs, tuple(one.name for one in parameters))
    given = dict(zip((one.name for one in positional), args, strict=False))
    if named.keys() & given.keys():
        return False
    given |= named
    if given.keys() - {one.name for one in parameters}:
        return False
    return all(
        _is_kind(one, given[one.name]) if one.name in given else not one.required
        for one in parameters
    )


def _is_kind(parameter: Parameter, value: Any) -> bool:
    """Whether a value may be meant for a parameter: tensors, types and sequences tell overloads."""
    kind = parameter.kind
    if not kind or value is None:
        return True
    if isinstance(value, torch.dtype):
        return parameter.name == "dtype"
    plain = kind.removeprefix("Optional[")
    if plain.startswith("List"):
        return isinstance(value, (tuple, list, int))
    if plain.startswith("Tensor"):
        return isinstance(value, Tensor)
    return not isinstance(value, (tuple, list)) and not (isinstance(value, Tensor) and value.ndim)
