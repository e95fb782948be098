"""Commands of relmap's command line: `demo`, `scenes`, `train` and `score`."""

from clipmapper.commands import demonstration, training

__all__ = ["demonstration", "training"]
