"""The one mechanism by which things are found by name.

Methods, backwards, metrics, targets, data formats, caption scores and model sources each live in a
room (a package) that holds one `Registry`. A file in the room registers its function with a
decorator and is done: the command line, the tables in the documentation and the contract tests read
the registry. What a function declares of itself are the fields of the room's entry class, and is
checked when it is registered: a misspelt keyword, a missing one, or an option that could be given
by position is an error there and then, and never a wrong map later.
Nothing is imported before the first question; then come the room's own files, and after them what
other installed packages offer under the entry point group of the room's name.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import inspect
import pkgutil
import re
import threading
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from types import SimpleNamespace
from typing import Any, ClassVar, Generic, TypeVar, cast, get_type_hints

from relmap.errors import InputError
from relmap.options import checked_option, read_options, split_options, suggestion

__all__ = [
    "DISCOVERY",
    "Entry",
    "Registry",
    "import_plugins",
    "origin",
]

T = TypeVar("T", bound=Callable[..., Any])
F = TypeVar("F", bound=Callable[..., Any])

_KEBAB_CASE = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
DISCOVERY = threading.RLock()
"""One for all: a plug-in of one room may ask the registry of another while it is imported."""


@dataclass(frozen=True, kw_only=True)
class Entry(Generic[T]):
    """One registered function and what it says about itself.

    `about` is the first line of the function's docstring, `reference` where it was published. Each
    room has an entry class of its own, whose further fields are what its functions declare; values
    that mean nothing raise an InputError when the entry is made.
    """

    operands: ClassVar[tuple[str, ...] | None] = None
    """What relmap gives a function of the room, in order; its other parameters are options."""
    optional: ClassVar[tuple[str, ...]] = ()
    """Operands that a function may do without."""

    name: str
    function: T
    aliases: tuple[str, ...] = ()
    about: str = ""
    reference: str = ""
    renamed: Mapping[str, str] = field(default_factory=dict[str, str])
    """Old names of options, which answer for one version, and what they are called now."""

    @classmethod
    def read(cls, declared: Mapping[str, Any]) -> dict[str, Any]:
        """What was declared in the form that the fields have: names become members of an enum."""
        return dict(declared)

    def called_with(self) -> tuple[str, ...] | None:
        """What relmap gives the function, in order; None where that is up to its user."""
        return self.operands

    @property
    def options(self) -> dict[str, inspect.Parameter]:
        """The keyword-only parameters of the function, which are what its user may set."""
        return {
            key: parameter
            for key, parameter in inspect.signature(self.function).parameters.items()
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY
        }

    def option_types(self) -> dict[str, Any]:
        """The types of the options; Any where a hint cannot be resolved while the program runs.

        Names that are imported for type checkers alone cannot, and are no reason to fail.
        """
        scope = getattr(inspect.unwrap(self.function), "__globals__", {})
        return {name: _resolved(one.annotation, scope) for name, one in self.options.items()}

    def now_called(self, chosen: Mapping[str, Any]) -> dict[str, Any]:
        """Chosen options under the names that they have now; an old name is told.

        Raises:
            InputError: An option is chosen under both of its names.
        """
        named: dict[str, Any] = {}
        for name, value in chosen.items():
            new = self.renamed.get(name, name)
            if new != name:
                if new in chosen:
                    raise InputError(f"{self.name}: {name!r} is the old name of {new!r}: give one")
                warnings.warn(
                    f"{self.name}: the option {name!r} is called {new!r}, and its old name goes "
                    "with the next version",
                    DeprecationWarning,
                    stacklevel=2,
                )
            named[new] = value
        return named

    def check_options(self, chosen: Mapping[str, Any]) -> dict[str, Any]:
        """The options in the types that the function says, before anything is computed.

        Raises:
            InputError: A value is of another type, or none of those that are allowed.
        """
        hints = self.option_types()
        return {
            name: checked_option(self.name, name, value, hints.get(name, Any))
            for name, value in chosen.items()
        }

    def notes(self) -> str:
        """What the entry declares, in a sentence for lists of what there is."""
        return ""

    def check_signature(self, operands: Sequence[str]) -> None:
        """See that the function takes what relmap gives it, and everything else as an option.

        Raises:
            InputError: It does not; the message says how it should begin.
        """
        kinds, optional = inspect.Parameter, set(self.optional)
        parameters = list(inspect.signature(self.function).parameters.values())
        places = [one for one in parameters if one.kind < kinds.VAR_POSITIONAL]
        wanted = f"it is called with ({', '.join(operands)})"
        for one in parameters:
            if one.kind in (kinds.VAR_POSITIONAL, kinds.VAR_KEYWORD):
                raise InputError(
                    f"with {one} a misspelt option would vanish; name every option behind a *"
                )
            if one.kind is kinds.KEYWORD_ONLY and one.default is kinds.empty:
                raise InputError(f"its option {one.name!r} has no default value; give it one")
        if len(places) > len(operands):
            extra = places[len(operands)].name
            raise InputError(
                f"{wanted}, but {extra!r} could be given by position, too: put a * before it, so "
                "that it is an option"
            )
        if len(places) < len([one for one in operands if one not in optional]):
            taken = ", ".join(one.name for one in places)
            raise InputError(f"{wanted}, but takes ({taken})")


def _resolved(annotation: Any, scope: dict[str, Any]) -> Any:
    if annotation is inspect.Parameter.empty:
        return Any
    holder = SimpleNamespace(__annotations__={"option": annotation}, __globals__=scope)
    try:
        return get_type_hints(cast(Any, holder))["option"]
    except Exception:  # whatever a hint may raise that was never meant to be evaluated
        return Any


E = TypeVar("E", bound=Entry[Any])


class Registry(Generic[E]):
    """The functions of one kind, by name.

    `kind` is the singular word used in messages ("method"), `package` the room's import name
    ("relmap.methods"), which is also the entry point group that other packages use, `entry` the
    class whose fields say what a function declares.

    Example:
        >>> @dataclass(frozen=True, kw_only=True)
        ... class Colour(Entry):
        ...     warm: bool
        >>> colours = Registry("colour", "colorsys", Colour)
        >>> @colours.register("sky-blue", aliases=("azure",), warm=False)
        ... def sky_blue(*, opacity=1.0):
        ...     "The colour above us."
        >>> entry = colours.get("Sky_Blue")
        >>> entry.about, entry.warm, colours.names(), list(colours.options("azure"))
        ('The colour above us.', False, ['sky-blue'], ['opacity'])
        >>> colours.register("red", worm=True)
        Traceback (most recent call last):
        relmap.errors.InputError: The colour 'red' ... no keyword 'worm'. Did you mean 'warm'? ...
    """

    def __init__(self, kind: str, package: str, entry: type[E]) -> None:
        self.kind = kind
        self.package = package
        self.entry = entry
        self._entries: dict[str, E] = {}
        self._names: dict[str, str] = {}  # every accepted spelling -> the entry's name
        self._discovered = False
        self._lock = threading.RLock()

    def register(
        self,
        name: str,
        *,
        aliases: Sequence[str] = (),
        reference: str = "",
        renamed: Mapping[str, str] | None = None,
        **declared: Any,
    ) -> Callable[[F], F]:
        """Decorator that files a function under `name` (kebab case) and returns it unchanged.

        `declared` are the fields of the room's entry class; `renamed` are old names of options,
        each with the name that it has now.

        Raises:
            InputError: The name is not in kebab case, or another function has it; a keyword is
                unknown or missing; a value or an option of the function cannot be used.
        """
        if not _KEBAB_CASE.fullmatch(name):
            raise InputError(
                f"The {self.kind} name {name!r} is not in kebab case, as 'my-name' is."
            )
        self._check_keywords(name, declared)

        def decorate(function: F) -> F:
            documentation = inspect.getdoc(function) or ""
            try:
                entry = self.entry(
                    name=name,
                    function=function,
                    aliases=tuple(_spelling(alias) for alias in aliases),
                    about=documentation.partition("\n")[0],
                    reference=reference,
                    renamed=dict(renamed or {}),
                    **self.entry.read(declared),
                )
                operands = entry.called_with()
                if operands is not None:
                    entry.check_signature(operands)
            except (InputError, TypeError) as error:
                raise self._refusal(name, str(error)) from error
            with self._lock:
                self._file(entry)
            return function

        return decorate

    def _check_keywords(self, name: str, declared: dict[str, Any]) -> None:
        common = {one.name for one in fields(Entry)}
        known = {one.name: one for one in fields(self.entry) if one.name not in common}
        listed = ", ".join(("aliases", "reference", "renamed", *known))
        for keyword in declared:
            if keyword not in known:
                hint = suggestion(keyword, ("aliases", "reference", "renamed", *known))
                raise self._refusal(name, f"there is no keyword {keyword!r}.{hint} Known: {listed}")
        for keyword, declaration in known.items():
            required = declaration.default is MISSING and declaration.default_factory is MISSING
            if required and keyword not in declared:
                raise self._refusal(name, f"it must declare {keyword}=; see {self.package}")

    def _refusal(self, name: str, why: str) -> InputError:
        return InputError(f"The {self.kind} {name!r} cannot be registered: {why}.")

    def get(self, name: str) -> E:
        """The entry filed under a name; capitals, underscores and aliases are accepted.

        Raises:
            InputError: Nothing has that name; the message suggests what may have been meant.
        """
        self._discover()
        spelling = _spelling(name)
        if spelling not in self._names:
            raise InputError(self._unknown(name, spelling))
        return self._entries[self._names[spelling]]

    def read(self, text: str, more: Collection[str] = ()) -> tuple[E, dict[str, Any]]:
        """What `name:option=value,option=value` names, and the options that stand behind it.

        `more` are words beside the options of the function that may be given, too.

        Raises:
            InputError: Nothing has that name, or it has no such option.
        """
        name, _, written = text.partition(":")
        entry = self.get(name)
        known = [*entry.options, *more, *entry.renamed]
        parts = split_options(written)
        options = read_options(parts, f"{entry.name} in {text!r}", known)
        return entry, entry.now_called(options)

    def names(self) -> list[str]:
        """Every name, sorted."""
        self._discover()
        return sorted(self._entries)

    def entries(self) -> list[E]:
        """Every entry, sorted by name."""
        return [self._entries[name] for name in self.names()]

    def options(self, name: str) -> dict[str, inspect.Parameter]:
        """The keyword-only parameters of an entry's function, which are what its user may set."""
        return self.get(name).options

    def __contains__(self, name: object) -> bool:
        self._discover()
        return isinstance(name, str) and _spelling(name) in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __len__(self) -> int:
        return len(self.names())

    def __repr__(self) -> str:
        return f"Registry({self.kind!r}, {self.package!r})"

    def _file(self, entry: E) -> None:
        spellings = (entry.name, *entry.aliases)
        for spelling in spellings:
            holder = self._entries.get(self._names.get(spelling, ""))
            # A module that is reloaded registers the same function again: that is no clash.
            if holder and origin(holder.function) != origin(entry.function):
                raise InputError(
                    f"The {self.kind} name {spelling!r} is taken by {origin(holder.function)}; "
                    f"choose another for {origin(entry.function)}."
                )
        self._entries[entry.name] = entry
        self._names.update(dict.fromkeys(spellings, entry.name))

    def _discover(self) -> None:
        with DISCOVERY:
            if self._discovered:
                return
            self._discovered = True  # set first: a file of the room may ask the registry itself
            try:
                self._import_room()
            except BaseException:
                self._discovered = False
                raise
            import_plugins(self.package, self.kind, self._entries, self._names)

    def _import_room(self) -> None:
        room = importlib.import_module(self.package)
        for module in pkgutil.iter_modules(getattr(room, "__path__", ())):
            importlib.import_module(f"{self.package}.{module.name}")

    def _unknown(self, name: str, spelling: str) -> str:
        close = difflib.get_close_matches(spelling, self._names, n=3)
        suggestions = dict.fromkeys(self._names[match] for match in close)
        meant = " or ".join(repr(suggestion) for suggestion in suggestions)
        hint = f" Did you mean {meant}?" if meant else ""
        known = ", ".join(sorted(self._entries)) or "none"
        return f"There is no {self.kind} {name!r}.{hint} Known: {known}."


def import_plugins(group: str, kind: str, *tables: dict[Any, Any]) -> None:
    """Import what other installed packages offer under an entry point group.

    A plug-in whose import fails is left out with a warning that names it: what it had filed in the
    `tables` until then is taken out again, since it would stand there half made.
    """
    failures: list[str] = []
    for point in importlib.metadata.entry_points(group=group):
        before = [dict(table) for table in tables]
        try:
            point.load()
        except Exception as error:  # somebody else's package must not take ours down
            for table, kept in zip(tables, before, strict=True):
                table.clear()
                table.update(kept)
            failures.append(
                f"The {kind} plug-in {point.name!r} ({point.value}) was left out, "
                f"since its import failed: {error!r}"
            )
    for failure in failures:  # at the end, so that warnings that are errors stop nothing halfway
        warnings.warn(failure, RuntimeWarning, stacklevel=4)


def _spelling(name: str) -> str:
    return name.strip().lower().replace("_", "-").replace(" ", "-")


def origin(function: Callable[..., Any]) -> str:
    """Where a function is from, in words; the same after its module was reloaded."""
    return f"{function.__module__}.{getattr(function, '__qualname__', type(function).__qualname__)}"
