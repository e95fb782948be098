"""Sources of tokens on disk: their tensors in a safetensors file, the rest in its JSON header."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from relmap.result.layout import Layout

__all__ = ["describe_source", "pack_layouts", "unpack_examples"]


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
    """The layouts and what is said about every example, as `pack_layouts` took them apart."""

    def rows(lists: list[list[str]] | None) -> tuple[tuple[str, ...], ...] | None:
        return None if lists is None else tuple(tuple(map(str, row)) for row in lists)

    layouts = {
        source["name"]: Layout(
            names=tuple(source["names"]),
            modality=source["modality"],
            special=tensors[f"{at}.special"],
            padding=tensors[f"{at}.padding"],
            tokens=rows(source["tokens"]),
            grid=None if source["grid"] is None else tuple(map(int, source["grid"])),
            patches=tensors.get(f"{at}.patches"),
            words=rows(source["words"]),
        )
        for at, source in enumerate(header["sources"])
    }
    return {
        "layout": layouts,
        "target": tuple(map(str, header["target"])),
        "prediction": tuple(map(str, header["prediction"])),
        "meta": dict(header["meta"]),
    }
