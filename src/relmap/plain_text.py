"""Text from outside as it may be shown: characters that steer a terminal or turn lines around.

Labels, tokens, file names and prompts are somebody else's. An escape sequence among them would
colour, erase or retitle the terminal that prints it, a bidirectional mark would show another order
of characters than the one that is there (CVE-2021-42574, "Trojan Source"). Such characters are
written as their codes; every other character of every script stays what it is.
"""

from __future__ import annotations

import re

__all__ = ["escape_json", "visible"]

_STEERING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff]"
)
"""Controls but for tab and line feed, separators of lines, and marks of direction."""


def visible(text: str) -> str:
    r"""The text with steering characters as codes; tabs and line feeds stay.

    Example:
        >>> visible("\x1b[31mred\u202e"), visible("naïve 猫 สวัสดี")
        ('\\x1b[31mred\\u202e', 'naïve 猫 สวัสดี')
    """
    return _STEERING.sub(lambda match: _code(match[0]), text)


def escape_json(written: str) -> str:
    r"""JSON text in which no steering character stands raw; what it says stays the same.

    Example:
        >>> import json
        >>> written = escape_json(json.dumps("a\u202eb", ensure_ascii=False))
        >>> written, json.loads(written) == "a\u202eb"
        ('"a\\u202eb"', True)
    """
    return _STEERING.sub(lambda match: f"\\u{ord(match[0]):04x}", written)


def _code(letter: str) -> str:
    code = ord(letter)
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
