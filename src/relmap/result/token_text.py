"""Tokens as people read them.

Tokenizers mark where a word begins or goes on, each in its own way: WordPiece writes `##ing`,
byte-level BPE `Ġhello` (with every byte spelled as a letter), SentencePiece `▁the`, CLIP `cat</w>`.
Here a sequence of such tokens becomes pieces of text, each knowing whether it opens a word.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from relmap.plain_text import visible
from relmap.result.layout import Layout

SHOWN = {"\n": "↵", "\t": "⇥", "\r": "↵", "": "·"}


@dataclass(frozen=True)
class Piece:
    """One token as text, and whether a space stands before it."""

    text: str
    opens: bool


def pieces(tokens: Sequence[str], special: Sequence[bool] | None = None) -> list[Piece]:
    """Clean the tokenizer's markers away and say where words begin; special tokens stand alone.

    Example:
        >>> [piece.text for piece in pieces(["play", "##ing", "chess"])]
        ['play', 'ing', 'chess']
    """
    flags = list(special) if special is not None else [False] * len(tokens)
    plain = [token for token, flag in zip(tokens, flags, strict=True) if not flag]
    spell = _spelling(plain)
    words: list[Piece] = []
    closed = True
    for token, flag in zip(tokens, flags, strict=True):
        if flag:
            words.append(Piece(visible(token.strip()) or "·", True))
            closed = True
        else:
            text, opens, closes = spell(token)
            words.append(Piece(_visible(text), opens or closed))
            closed = closes
    return words


def readable(layout: Layout, example: int = 0) -> list[Piece]:
    """The tokens of one example as people read them: the layout's own words, or cleaned tokens."""
    grey = (~layout.content[example]).tolist()
    tokens = layout.tokens[example] if layout.tokens else [str(at) for at in range(len(grey))]
    known = pieces(tokens, grey)
    if layout.words is None:
        return known
    words = layout.words[example]
    return [
        replace(p, text=visible(w.strip()) or p.text) for p, w in zip(known, words, strict=True)
    ]


def _spelling(tokens: Sequence[str]) -> Callable[[str], tuple[str, bool, bool]]:
    """The reading that fits these tokens: token -> (text, opens a word, closes a word)."""
    if any(token.endswith("</w>") for token in tokens):
        return lambda token: (_bytes(token.removesuffix("</w>")), False, token.endswith("</w>"))
    if any("▁" in token for token in tokens):
        return _sentencepiece
    if any(token.startswith(("Ġ", "Ċ")) for token in tokens):
        return lambda token: (_bytes(token), token.startswith(("Ġ", "Ċ")), False)
    return lambda token: (token.removeprefix("##"), not token.startswith("##"), not token)


def _sentencepiece(token: str) -> tuple[str, bool, bool]:
    byte = re.fullmatch(r"<0x([0-9A-Fa-f]{2})>", token)
    if byte:
        token = bytes([int(byte[1], 16)]).decode("utf-8", "replace")
    return token.replace("▁", " "), token.startswith("▁"), False


def _bytes(token: str) -> str:
    """Undo the spelling of bytes as letters; a part of a character becomes a replacement mark."""
    table = _letters()
    if any(letter not in table for letter in token):
        return token
    return bytes(table[letter] for letter in token).decode("utf-8", "replace")


@lru_cache(maxsize=1)
def _letters() -> dict[str, int]:
    """The letter that byte-level tokenizers write for each byte: itself where it can be printed."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {
        chr(256 + at): byte for at, byte in enumerate(others)
    }


def _visible(text: str) -> str:
    text = text.strip(" ")
    return visible("".join(SHOWN.get(letter, letter) for letter in text)) or SHOWN[""]
