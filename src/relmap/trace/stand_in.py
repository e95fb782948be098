"""A stand-in for a network: its code and its weights, and nothing done to it reaches the original.

A pass is recorded in evaluation mode, with weights that ask for no gradient and, at times, with
hooks on modules. Done to the network itself, this would be seen by whoever uses it at the same time
in another thread, trains it, say. So the pass runs on copies of the module objects: they hold the
same buffers, and of each parameter an alias of the same memory. A copy costs microseconds and no
memory for weights.
"""

from __future__ import annotations

import copy
import functools
from collections import OrderedDict
from collections.abc import Callable
from types import MethodType
from typing import Any, TypeVar

from torch import Tensor, nn

from relmap._torch_private import compiled_from, registries_of

__all__ = ["stand_in"]

M = TypeVar("M", bound=nn.Module)

_CONTAINERS = (list, tuple, dict, OrderedDict)


def stand_in(network: M) -> M:
    """Copies of all modules of a network, in evaluation mode, on the same weights without gradient.

    What modules hold beside their parts is held by the copies, too; where it is a module or a
    parameter of the network, one of its methods, or a list of such, that of the copies. A network
    that was compiled is copied as it was before.

    Example:
        >>> network = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
        >>> copied = stand_in(network)
        >>> copied.training, copied[0].weight.requires_grad, network[0].weight.requires_grad
        (False, False, True)
        >>> copied[0].weight.data_ptr() == network[0].weight.data_ptr()
        True
    """
    originals = {id(module): module for module in network.modules()}
    copies: dict[int, Any] = {}
    for key, module in originals.items():
        copies[key] = object.__new__(type(module))
    for key, module in originals.items():
        inner = compiled_from(module)
        if inner is not None:
            copies[key] = copies[id(inner)]
    aliases = {
        id(parameter): (parameter, _alias(parameter))
        for module in originals.values()
        for parameter in module.parameters(recurse=False)
    }
    translate = _translation(copies, {key: alias for key, (_, alias) in aliases.items()})
    for key, module in originals.items():
        held = {name: translate(value) for name, value in vars(module).items()}
        held |= {name: copy.copy(held[name]) for name in registries_of(module)}
        if type(copies[key]) is type(module):
            object.__setattr__(copies[key], "__dict__", held)
            held |= {"training": False, "_compiled_call_impl": None}
    return copies[id(network)]  # type: ignore[no-any-return]


def _alias(parameter: nn.Parameter) -> Tensor:
    """The same memory without a gradient; a library's own kind only where it asks for one."""
    if type(parameter) is nn.Parameter:
        alias: Tensor = nn.Parameter(parameter.detach(), requires_grad=False)
    elif parameter.requires_grad:
        alias = parameter.detach()
    else:
        return parameter
    if hasattr(parameter, "__dict__") and hasattr(alias, "__dict__"):
        vars(alias).update(vars(parameter))
    return alias


def _translation(copies: dict[int, Any], aliases: dict[int, Tensor]) -> Callable[[Any], Any]:
    """From what modules hold to what their copies hold."""

    def translate(value: Any) -> Any:
        if isinstance(value, nn.Module):
            return copies.get(id(value), value)
        if isinstance(value, nn.Parameter):
            return aliases.get(id(value), value)
        if isinstance(value, MethodType):
            owner = translate(value.__self__)
            return value if owner is value.__self__ else MethodType(value.__func__, owner)
        if isinstance(value, functools.partial):
            return _partial(value, translate)
        if type(value) in _CONTAINERS:
            return _container(value, translate)
        return value

    return translate


def _partial(value: functools.partial[Any], translate: Callable[[Any], Any]) -> Any:
    function, given = translate(value.func), [translate(one) for one in value.args]
    named = {name: translate(one) for name, one in value.keywords.items()}
    copied = functools.partial(function, *given, **named)
    vars(copied).update(vars(value))
    return copied


def _container(value: Any, translate: Callable[[Any], Any]) -> Any:
    """A list, tuple or dictionary; the very same one where nothing in it is the network's."""
    items = list(value.items()) if isinstance(value, dict) else list(enumerate(value))
    translated = [(key, translate(item)) for key, item in items]
    same = all(new is old for (_, new), (_, old) in zip(translated, items, strict=True))
    if same:
        return value
    if isinstance(value, dict):
        return type(value)(translated)
    return type(value)(item for _, item in translated)
