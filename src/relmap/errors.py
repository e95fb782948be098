"""What can go wrong, in four exceptions.

Every message names what was wrong and then the way out, since the reader of an error wants to go
on. Catch `RelmapError` to catch them all; each is also the built-in exception that Python users
expect in its place.
"""

from __future__ import annotations

__all__ = ["EXTRAS", "InputError", "MissingExtraError", "RelmapError", "TraceError"]

EXTRAS: dict[str, str] = {
    "timm": "timm models",
    "openclip": "open_clip models",
    "plot": "pictures",
    "sound": "sound files that are not wave files",
    "train": "training recipes",
    "captions": "caption metrics",
    "evaluate": "evaluation tables",
    "ray": "runs on many machines",
}
"""Every optional part of the package, and what it is for."""


class RelmapError(Exception):
    """Anything that relmap itself refuses to do."""


class InputError(RelmapError, ValueError):
    """An argument, file, text, target or option that cannot be used as given."""


class TraceError(RelmapError, RuntimeError):
    """A network that cannot be explained exactly; the message names the operation and module."""


class MissingExtraError(RelmapError, ImportError):
    """A part of relmap whose optional packages are not installed.

    Example:
        >>> raise MissingExtraError("plot")
        Traceback (most recent call last):
        relmap.errors.MissingExtraError: relmap's pictures need the extra 'plot': pip install ...
    """

    def __init__(self, extra: str) -> None:
        self.extra = extra
        super().__init__(
            f"relmap's {EXTRAS[extra]} need the extra '{extra}': pip install 'relmap[{extra}]'"
        )

    def __reduce__(self) -> tuple[type[MissingExtraError], tuple[str]]:
        # An exception is rebuilt from its message by default; worker processes send them across.
        return type(self), (self.extra,)
