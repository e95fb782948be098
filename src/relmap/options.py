"""Options as they are written: `name=value`, with commas between several, checked by their types.

One grammar for all: behind the names of methods, backwards and metrics, and on the command line.
"""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Collection, Iterable
from typing import Any, Literal, get_args, get_origin

from relmap.errors import InputError

__all__ = ["checked_option", "read_option", "read_options", "split_options", "suggestion"]


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


def read_options(
    written: Iterable[str], where: str, known: Collection[str] | None = None
) -> dict[str, Any]:
    """Options that are written name=value, by name; `where` is named when one cannot be read.

    Raises:
        InputError: A part is not name=value, or its name is none of those that are known.

    Example:
        >>> read_options(["start_layer=1", "weights=equal"], "--option")
        {'start_layer': 1, 'weights': 'equal'}
    """
    options: dict[str, Any] = {}
    for part in written:
        name, equals, value = part.partition("=")
        name = name.strip()
        if not equals or not name.isidentifier():
            raise InputError(f"{where} takes name=value, not {part!r}")
        if known is not None and name not in known:
            listed = ", ".join(known) or "(none)"
            raise InputError(
                f"{where} has no option {name!r}.{suggestion(name, known)} Options: {listed}"
            )
        options[name] = read_option(value)
    return options


def split_options(written: str) -> list[str]:
    """The parts of "a=1,b=(2,3)" between its commas; those inside of brackets or quotes stay.

    Example:
        >>> split_options("size=(2,3),fill='a,b',layer=1")
        ['size=(2,3)', "fill='a,b'", 'layer=1']
    """
    parts = re.findall(r"""(?:\([^)]*\)|\[[^]]*\]|'[^']*'|"[^"]*"|[^,])+""", written)
    return [part for part in parts if part.strip()]


def suggestion(name: str, known: Iterable[str]) -> str:
    """Did you mean ...? with the known names nearest to one; empty where none is near.

    Example:
        >>> suggestion("attention-gradeint", ["attention", "attention-gradient"])
        " Did you mean 'attention-gradient'?"
    """
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.7)
    return f" Did you mean {close[0]!r}?" if close else ""


def checked_option(owner: str, name: str, value: Any, hint: Any) -> Any:
    """A value in the type that an option is annotated with; an int is a float where one is meant.

    Raises:
        InputError: It is of another type, or none of those that are allowed.

    Example:
        >>> checked_option("wra", "eps", 1, float)
        1.0
    """
    if get_origin(hint) is Literal and value not in get_args(hint):
        allowed = ", ".join(map(repr, get_args(hint)))
        raise InputError(f"{owner}: {name}={value!r} is not one of {allowed}")
    plain = hint in (bool, int, float, str)
    wrong = not isinstance(value, (int, float) if hint is float else hint) if plain else False
    if wrong or (hint in (int, float) and isinstance(value, bool)):
        raise InputError(f"{owner}: {name}={value!r} is not of type {hint.__name__}")
    return float(value) if hint is float else value
