"""The one mechanism by which things are found by name.

Methods, backwards, metrics, targets, data sets and model sources each live in a room (a package or
module) that holds one `Registry`. A file in the room registers its function with a decorator and is
done: the command line, the tables in the documentation and the contract tests read the registry.
Nothing is imported before the first question; then come the room's own files, and after them what
other installed packages offer under the entry point group of the room's name.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.metadata
import inspect
import pkgutil
import re
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Generic, TypeVar, cast

from relmap.errors import InputError

__all__ = ["Entry", "Registry", "read_option"]

T = TypeVar("T", bound=Callable[..., Any])
F = TypeVar("F", bound=Callable[..., Any])

_KEBAB_CASE = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


def read_option(text: str) -> Any:
    """The value of an option as it is written on a command line.

    Numbers, quoted strings, None, True and False (also true and false), tuples and lists are what
    they are in Python; everything else is a string.

    Example:
        >>> read_option("0.5"), read_option("false"), read_option("equal"), read_option("{} here")
        (0.5, False, 'equal', '{} here')
    """
    written = {"true": True, "false": False}.get(text.strip())
    if written is not None:
        return written
    try:
        value = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError):
        return text
    return text if isinstance(value, dict | set) else value


@dataclass(frozen=True)
class Entry(Generic[T]):
    """One registered function and what it says about itself.

    `about` is the first line of the function's docstring, `reference` where it was published,
    `needs` what it asks of the recorded pass, `metadata` whatever else its room declares.
    """

    name: str
    function: T
    aliases: tuple[str, ...]
    about: str
    reference: str
    needs: tuple[str, ...]
    metadata: Mapping[str, Any]


class Registry(Generic[T]):
    """The functions of one kind, by name.

    `kind` is the singular word used in messages ("method"), `package` the room's import name
    ("relmap.methods"), which is also the entry point group that other packages use.

    Example:
        >>> colours = Registry("colour", "colorsys")
        >>> @colours.register("sky-blue", aliases=("azure",))
        ... def sky_blue(*, opacity=1.0):
        ...     "The colour above us."
        >>> colours.get("Sky_Blue").about, colours.names(), list(colours.options("azure"))
        ('The colour above us.', ['sky-blue'], ['opacity'])
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self.package = package
        self._entries: dict[str, Entry[T]] = {}
        self._names: dict[str, str] = {}  # every accepted spelling -> the entry's name
        self._discovered = False
        self._lock = threading.RLock()

    def register(
        self,
        name: str,
        *,
        aliases: Sequence[str] = (),
        reference: str = "",
        needs: Sequence[str] = (),
        **metadata: Any,
    ) -> Callable[[F], F]:
        """Decorator that files a function under `name` (kebab case) and returns it unchanged.

        Raises:
            InputError: The name is not in kebab case, or another function has it.
        """
        if not _KEBAB_CASE.fullmatch(name):
            raise InputError(
                f"The {self.kind} name {name!r} is not in kebab case, as 'my-name' is."
            )

        def decorate(function: F) -> F:
            documentation = inspect.getdoc(function) or ""
            entry = Entry(
                name=name,
                function=cast(T, function),
                aliases=tuple(_spelling(alias) for alias in aliases),
                about=documentation.partition("\n")[0],
                reference=reference,
                needs=tuple(needs),
                metadata=MappingProxyType(metadata),
            )
            with self._lock:
                self._file(entry)
            return function

        return decorate

    def get(self, name: str) -> Entry[T]:
        """The entry filed under a name; capitals, underscores and aliases are accepted.

        Raises:
            InputError: Nothing has that name; the message suggests what may have been meant.
        """
        self._discover()
        spelling = _spelling(name)
        if spelling not in self._names:
            raise InputError(self._unknown(name, spelling))
        return self._entries[self._names[spelling]]

    def names(self) -> list[str]:
        """Every name, sorted."""
        self._discover()
        return sorted(self._entries)

    def entries(self) -> list[Entry[T]]:
        """Every entry, sorted by name."""
        return [self._entries[name] for name in self.names()]

    def options(self, name: str) -> dict[str, inspect.Parameter]:
        """The keyword-only parameters of an entry's function, which are what its user may set."""
        parameters = inspect.signature(self.get(name).function).parameters
        return {
            key: parameter
            for key, parameter in parameters.items()
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY
        }

    def __contains__(self, name: object) -> bool:
        self._discover()
        return isinstance(name, str) and _spelling(name) in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __len__(self) -> int:
        return len(self.names())

    def __repr__(self) -> str:
        return f"Registry({self.kind!r}, {self.package!r})"

    def _file(self, entry: Entry[T]) -> None:
        spellings = (entry.name, *entry.aliases)
        for spelling in spellings:
            holder = self._entries.get(self._names.get(spelling, ""))
            # A module that is reloaded registers the same function again: that is no clash.
            if holder and _origin(holder.function) != _origin(entry.function):
                raise InputError(
                    f"The {self.kind} name {spelling!r} is taken by {_origin(holder.function)}; "
                    f"choose another for {_origin(entry.function)}."
                )
        self._entries[entry.name] = entry
        self._names.update(dict.fromkeys(spellings, entry.name))

    def _discover(self) -> None:
        with self._lock:
            if self._discovered:
                return
            self._discovered = True  # set first: a file of the room may ask the registry itself
            try:
                self._import_room()
            except BaseException:
                self._discovered = False
                raise
            self._import_plugins()

    def _import_room(self) -> None:
        room = importlib.import_module(self.package)
        for module in pkgutil.iter_modules(getattr(room, "__path__", ())):
            importlib.import_module(f"{self.package}.{module.name}")

    def _import_plugins(self) -> None:
        for point in importlib.metadata.entry_points(group=self.package):
            try:
                point.load()
            except Exception as error:  # somebody else's package must not take ours down
                warnings.warn(
                    f"The {self.kind} plug-in {point.name!r} ({point.value}) was left out, "
                    f"since its import failed: {error!r}",
                    RuntimeWarning,
                    stacklevel=4,
                )

    def _unknown(self, name: str, spelling: str) -> str:
        close = difflib.get_close_matches(spelling, self._names, n=3)
        suggestions = dict.fromkeys(self._names[match] for match in close)
        meant = " or ".join(repr(suggestion) for suggestion in suggestions)
        hint = f" Did you mean {meant}?" if meant else ""
        known = ", ".join(sorted(self._entries)) or "none"
        return f"There is no {self.kind} {name!r}.{hint} Known: {known}."


def _spelling(name: str) -> str:
    return name.strip().lower().replace("_", "-").replace(" ", "-")


def _origin(function: Callable[..., Any]) -> str:
    return f"{function.__module__}.{getattr(function, '__qualname__', type(function).__qualname__)}"
