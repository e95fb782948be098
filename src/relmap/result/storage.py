"""Sources of tokens on disk: their tensors in a safetensors file, the rest in its JSON header."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any, TypeVar

from torch import Tensor

from relmap.errors import InputError
from relmap.result.layout import Layout

__all__ = ["describe_source", "pack_layouts", "unpack_examples"]

T = TypeVar("T")


def describe_source(scores: Tensor, layout: Layout) -> dict[str, Any]:
    """One source of one example in words: tokens with scores, or the grid with its values."""
    about: dict[str, Any] = {
        "modality": layout.modality,
        "arguments": list(layout.names),
    }
    if layout.grid is not None:
        about["grid"] = list(layout.grid)
        about["grid_scores"] = layout.on_grid(scores[None].double())[0].tolist()
    on_grid = set() if layout.patches is None else set(layout.patches.tolist())
    about["tokens"] = [
        {"index": index, "label": layout.label(0, index), "score": score, "kind": kind}
        for index, score in enumerate(scores.double().tolist())
        if (kind := _kind(layout, index)) != "content" or index not in on_grid
    ]
    return about


def _kind(layout: Layout, token: int) -> str:
    if layout.padding[0, token]:
        return "padding"
    return "special" if layout.special[0, token] else "content"


def pack_layouts(layouts: Mapping[str, Layout]) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """The tensors and the plain parts of several layouts."""
    tensors, sources = {}, []
    plain = ("names", "modality", "tokens", "grid", "words")
    for at, (name, layout) in enumerate(layouts.items()):
        for part in ("special", "padding", "patches"):
            if getattr(layout, part) is not None:
                tensors[f"{at}.{part}"] = getattr(layout, part)
        sources.append({"name": name} | {part: getattr(layout, part) for part in plain})
    return tensors, sources


def unpack_examples(header: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Any]:
    """The layouts and what is said about every example, as `pack_layouts` took them apart.

    Raises:
        InputError: A part is of another kind than what is written.
    """
    layouts = {
        _text(source["name"]): Layout(
            names=_texts(source["names"]),
            modality=_text(source["modality"]),
            special=tensors[f"{at}.special"],
            padding=tensors[f"{at}.padding"],
            tokens=_rows(source["tokens"]),
            grid=None if source["grid"] is None else _sizes(source["grid"]),
            patches=tensors.get(f"{at}.patches"),
            words=_rows(source["words"]),
        )
        for at, source in enumerate(_of(list, header["sources"]))
    }
    if len(layouts) < len(header["sources"]):
        raise InputError("two of its sources have one name")
    return {
        "layout": layouts,
        "target": _texts(header["target"]),
        "prediction": _texts(header["prediction"]),
        "meta": _of(dict, header["meta"]),
    }


def _of(kind: type[T], value: Any) -> T:
    if type(value) is not kind:
        raise InputError(f"{_short(value)} stands where a {kind.__name__} belongs")
    return value


def _text(value: Any) -> str:
    return _of(str, value)


def _texts(values: Any) -> tuple[str, ...]:
    return tuple(_text(value) for value in _of(list, values))


def _rows(lists: Any) -> tuple[tuple[str, ...], ...] | None:
    return None if lists is None else tuple(_texts(row) for row in _of(list, lists))


def _sizes(values: Any) -> tuple[int, ...]:
    return tuple(_of(int, value) for value in _of(list, values))


def _short(value: Any) -> str:
    return textwrap.shorten(repr(value), 60, placeholder="...")
