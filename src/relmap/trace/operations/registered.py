"""One place for one operation: what it does to tokens, and what it passes back.

The operations of torch stand in tables: what they do to tokens in `relmap.trace.table`, their
biases in `biases`, what flows back through them in `relmap.backwards.operation_rules`. An operation
that is in none of them, of torch or of somebody's own library, is registered here with all of its
rules at once. A rule is a function, or the name of a torch function that does the same with the
same arguments: `OPERATIONS.register("mylib.swish", like="silu")`.
"""

from __future__ import annotations

import inspect
import re
import threading
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, fields
from typing import Any

from relmap.errors import InputError
from relmap.options import suggestion
from relmap.registry import DISCOVERY, import_plugins
from relmap.trace.calls import plain_name

__all__ = ["OPERATIONS", "OperationEntry", "OperationRule", "Operations"]

OperationRule = Callable[[Any], Any] | str
"""A function of the call, or the name of a torch function that has the same rule."""

_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)?")


@dataclass(frozen=True, kw_only=True)
class OperationEntry:
    """The rules of one operation; None where it has none of a kind.

    Attributes:
        name: As `relmap.trace.calls.function_name` spells it: "gelu", or "library.operation".
        tokens: What it does to tokens: from a `relmap.trace.calls.Call` to the tag of the result.
        gradient: What it passes back under backwards of the gradient family: from a
            `relmap.backwards.operation_rules.Operation` to its result.
        relevance: The same for the relevance family.
        bias: The constant that it adds to tokens: from a call and the tag of its result.
        reference: Where it was published.
    """

    name: str
    tokens: OperationRule | None = None
    gradient: OperationRule | None = None
    relevance: OperationRule | None = None
    bias: Callable[[Any, Any], Any] | str | None = None
    reference: str = ""

    @property
    def about(self) -> str:
        """Its rules in a sentence."""
        given = {kind: getattr(self, kind) for kind in KINDS}
        return "; ".join(f"{kind}: {_spelled(rule)}" for kind, rule in given.items() if rule)

    def notes(self) -> str:
        """Nothing beyond its rules."""
        return ""


KINDS = ("tokens", "gradient", "relevance", "bias")
_ARGUMENTS = {"tokens": 1, "gradient": 1, "relevance": 1, "bias": 2}


class Operations:
    """The operations that were registered beside those that relmap knows, by name.

    Other packages name the module that registers theirs under the entry point group
    `relmap.operations`.

    Example:
        >>> operations = Operations()
        >>> operations.reserve("tokens", ["silu", "gelu"])
        >>> operations.register("mylib.swish", like="silu")
        >>> operations.find("mylib.swish").tokens
        'silu'
        >>> operations.register("mylib.swash", like="silo")
        Traceback (most recent call last):
        relmap.errors.InputError: The operation 'mylib.swash' ... Did you mean 'silu'?
    """

    def __init__(self) -> None:
        self._entries: dict[str, OperationEntry] = {}
        self._reserved: dict[str, set[str]] = {kind: set() for kind in KINDS}
        self._discovered = False
        self._lock = threading.Lock()

    def register(
        self,
        name: str,
        *,
        like: str | None = None,
        tokens: OperationRule | None = None,
        gradient: OperationRule | None = None,
        relevance: OperationRule | None = None,
        bias: Callable[[Any, Any], Any] | str | None = None,
        reference: str = "",
    ) -> None:
        """File the rules of an operation.

        An operator of a library (`torch.ops.mylib.swish`, `torch.library.custom_op("mylib::swish",
        ...)`) is called "mylib.swish", whatever its overload; a function of torch by its own name,
        as the tables call it: "gelu" for `gelu`, `Tensor.gelu` and `gelu_`. With `like` all rules
        that are not given are those of a torch function which is called with the same arguments.
        Without a rule for the gradient (or relevance) family, backwards of it refuse the operation.

        Raises:
            InputError: relmap or another package has such a rule for the operation already, a name
                is unknown, a rule is no function of one argument, or there is no rule at all.

        Example:
            >>> from relmap.trace.operations import OPERATIONS
            >>> OPERATIONS.register("gelu", tokens="silu")
            Traceback (most recent call last):
            relmap.errors.InputError: The operation 'gelu' ...: relmap has a rule for its tokens...
        """
        given = {"tokens": tokens, "gradient": gradient, "relevance": relevance, "bias": bias}
        try:
            self._check_name(name)
            entry = OperationEntry(
                name=name, reference=reference, **self._completed(name, like, given)
            )
            self._check_rules(entry)
            with self._lock:
                self._file(entry)
        except InputError as error:
            end = "" if str(error).endswith("?") else "."
            raise InputError(
                f"The operation {name!r} cannot be registered: {error}{end}"
            ) from error

    def reserve(self, kind: str, names: Collection[str]) -> None:
        """Note that relmap's own tables have rules of a kind for these names."""
        self._reserved[kind].update(names)

    def discover(self) -> None:
        """Import what other packages register, once."""
        if self._discovered:
            return
        with DISCOVERY:
            if not self._discovered:
                self._discovered = True
                import_plugins("relmap.operations", "operation", self._entries)

    def find(self, name: str) -> OperationEntry | None:
        """The entry of an operation, if it was registered; nothing is imported for it."""
        return self._entries.get(name)

    def names(self) -> list[str]:
        """Every registered name, sorted."""
        self.discover()
        return sorted(self._entries)

    def entries(self) -> list[OperationEntry]:
        """Every entry, sorted by name."""
        return [self._entries[name] for name in self.names()]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __len__(self) -> int:
        return len(self.names())

    def _check_name(self, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise InputError("it is written 'gelu' or, with its library, 'library.operation'")
        plain, _ = plain_name(name)
        if plain != name:
            raise InputError(f"relmap calls it {plain!r}, with its operator and in-place form")

    def _completed(self, name: str, like: str | None, given: dict[str, Any]) -> dict[str, Any]:
        """The rules with those of the operation that it is like."""
        if like is None:
            return given
        able = [kind for kind in KINDS if like in self._reserved[kind]]
        if not able:
            known = set[str]().union(*self._reserved.values())
            raise InputError(f"like={like!r} is no operation known.{suggestion(like, known)}")
        taken = [kind for kind in KINDS if name in self._reserved[kind]]
        more = {kind: like for kind in able if kind not in taken and given[kind] is None}
        return {**given, **more}

    def _check_rules(self, entry: OperationEntry) -> None:
        rules = {kind: getattr(entry, kind) for kind in KINDS}
        if not any(rules.values()):
            raise InputError(f"give it a rule: like=, {'=, '.join(KINDS)}=")
        for kind, rule in rules.items():
            reserved = self._reserved[kind]
            if rule is None:
                continue
            if entry.name in reserved:
                raise InputError(f"relmap has a rule for its {kind} already")
            if isinstance(rule, str):
                if rule not in reserved:
                    hint = suggestion(rule, reserved)
                    raise InputError(f"relmap has no rule for the {kind} of {rule!r}.{hint}")
            elif not callable(rule) or not _takes(rule, _ARGUMENTS[kind]):
                raise InputError(
                    f"{kind}={rule!r} is neither the name of an operation nor a function of "
                    + ("one argument" if _ARGUMENTS[kind] == 1 else "two arguments")
                )

    def _file(self, entry: OperationEntry) -> None:
        known = self._entries.get(entry.name)
        # A module that is reloaded registers the same rules again: that is no clash.
        if known is not None and _origins(known) != _origins(entry):
            raise InputError(f"it is registered already, with {known.about}")
        self._entries[entry.name] = entry


def _takes(rule: Callable[..., Any], count: int) -> bool:
    try:
        inspect.signature(rule).bind(*range(count))
    except TypeError:
        return False
    return True


def _spelled(rule: Any) -> str:
    if isinstance(rule, str):
        return f"as {rule}"
    return f"{rule.__module__}.{getattr(rule, '__qualname__', type(rule).__qualname__)}"


def _origins(entry: OperationEntry) -> list[str | None]:
    rules = [getattr(entry, field.name) for field in fields(entry) if field.name in KINDS]
    return [None if rule is None else _spelled(rule) for rule in rules]


OPERATIONS = Operations()
