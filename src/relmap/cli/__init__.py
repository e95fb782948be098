"""The command line: the library's verbs as commands, and nothing of its own.

Every choice (methods, models, targets, ...) is looked up in a registry by the function that is
called, so a new file in a room is on the command line at once. What the library refuses becomes
one red line and exit code 2; anything else is a bug and keeps its traceback. `application` holds
the program, every other file here a group of its commands; other packages add theirs by a module
under the entry point group `relmap.commands` that puts them on `relmap.cli.app`.
"""

from relmap.cli import evaluating, explaining, listing
from relmap.cli.application import app, main, program

__all__ = ["app", "evaluating", "explaining", "listing", "main", "program"]
