"""Bugs: what went wrong without anybody refusing it, with the traceback that shows where.

A broken file or a text that is too long is refused in a sentence, which says all there is to say.
Any other exception in a method, a metric or a reader is somebody's mistake, and is found by its
traceback. Exceptions of one type from one line of code are one kind of bug, told once.
"""

from __future__ import annotations

import json
import re
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path

__all__ = ["Bug", "describe_bug", "read_bug"]


@dataclass(frozen=True)
class Bug:
    """A kind of bug, such as "KeyError-energy-46", and the text of a traceback."""

    kind: str
    traceback: str


def describe_bug(error: BaseException) -> str:
    """An exception as JSON, which travels in the row that it spoiled.

    Example:
        >>> try:
        ...     {}["missing"]
        ... except KeyError as error:
        ...     bug = read_bug(describe_bug(error))
        >>> bug.kind.split("-")[0], bug.traceback.splitlines()[-1]
        ('KeyError', "KeyError: 'missing'")
    """
    frames = traceback.extract_tb(error.__traceback__)
    where = f"{Path(frames[-1].filename).stem}-{frames[-1].lineno}" if frames else "nowhere"
    kind = re.sub(r"[^A-Za-z0-9_-]+", "", f"{type(error).__name__}-{where}")
    return json.dumps(asdict(Bug(kind, "".join(traceback.format_exception(error)))))


def read_bug(text: str) -> Bug:
    """What `describe_bug` wrote."""
    return Bug(**json.loads(text))
