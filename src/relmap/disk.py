"""Attributions on disk: safetensors with a JSON header, and plain JSON for people.

The tensors of every source lie in one safetensors file; what is not a tensor (names, tokens,
grids, targets, provenance) is JSON in its header, so that reading a file runs no code. Files
appear whole or not at all.
"""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from relmap.errors import InputError
from relmap.layout import Layout

if TYPE_CHECKING:
    import relmap.attribution

FORMAT = 1


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old one or the new one, never half of it.

    Raises:
        InputError: When the folder does not exist or cannot be written.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        unfinished.write_bytes(content)
        unfinished.replace(path)
    except OSError as error:
        raise InputError(f"cannot write {str(path)!r}: {error.strerror or error}") from error
    finally:
        unfinished.unlink(missing_ok=True)


def to_json(content: dict[str, Any], indent: int | None = None) -> str:
    """Spell a dictionary as strict JSON.

    Raises:
        InputError: When a number is not finite or a value is nothing JSON knows.
    """
    try:
        return json.dumps(content, ensure_ascii=False, allow_nan=False, indent=indent)
    except (TypeError, ValueError) as error:
        raise InputError(f"this attribution cannot be written as JSON: {error}") from error


def describe(attribution: "relmap.attribution.Attribution") -> dict[str, Any]:
    """An attribution as plain lists and strings, example by example."""
    return {
        "relmap": FORMAT,
        "meta": attribution.meta,
        "examples": [
            {
                "target": example.target[0],
                "prediction": example.prediction[0],
                "sources": {
                    name: _describe_source(scores[0], example.layout[name])
                    for name, scores in example.scores.items()
                },
            }
            for example in attribution
        ],
    }


def _describe_source(scores: Tensor, layout: Layout) -> dict[str, Any]:
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


def pack(attribution: "relmap.attribution.Attribution") -> bytes:
    """An attribution as the bytes of one safetensors file.

    Raises:
        InputError: When `meta` holds something JSON cannot.
    """
    tensors, sources = {}, []
    for at, (name, layout) in enumerate(attribution.layout.items()):
        parts = {
            "scores": attribution.scores[name],
            "special": layout.special,
            "padding": layout.padding,
            "patches": layout.patches,
        }
        # A copy each: safetensors refuses tensors that share memory, as slices of a batch do.
        tensors |= {
            f"{at}.{part}": value.detach().cpu().clone(memory_format=torch.contiguous_format)
            for part, value in parts.items()
            if value is not None
        }
        plain = ("names", "modality", "tokens", "grid", "words")
        sources.append({"name": name} | {part: getattr(layout, part) for part in plain})
    header = {
        "relmap": FORMAT,
        "sources": sources,
        "target": attribution.target,
        "prediction": attribution.prediction,
        "meta": attribution.meta,
    }
    return safetensors.torch.save(tensors, {"relmap": to_json(header)})


def read(path: Path) -> dict[str, Any]:
    """The parts of an attribution out of a safetensors file; nothing in it is executed.

    Raises:
        InputError: When the file is missing, corrupt, or holds something else.
    """
    if not path.is_file():
        raise InputError(f"no file {str(path)!r} to load an attribution from")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get("relmap")
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as error:
        raise InputError(f"{str(path)!r} is not a readable safetensors file: {error}") from error
    if header is None:
        raise InputError(f"{str(path)!r} is a safetensors file, but no attribution of relmap")
    try:
        return _unpack(json.loads(header), tensors)
    except (InputError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"the attribution in {str(path)!r} is damaged: {error!r}") from error


def _unpack(header: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Any]:
    if header["relmap"] != FORMAT:
        raise InputError(f"its format is {header['relmap']}; this relmap reads format {FORMAT}")

    def rows(lists: list[list[str]] | None) -> tuple[tuple[str, ...], ...] | None:
        return None if lists is None else tuple(tuple(map(str, row)) for row in lists)

    scores, layouts = {}, {}
    for at, source in enumerate(header["sources"]):
        scores[source["name"]] = tensors[f"{at}.scores"]
        layouts[source["name"]] = Layout(
            names=tuple(source["names"]),
            modality=source["modality"],
            special=tensors[f"{at}.special"],
            padding=tensors[f"{at}.padding"],
            tokens=rows(source["tokens"]),
            grid=None if source["grid"] is None else tuple(map(int, source["grid"])),
            patches=tensors.get(f"{at}.patches"),
            words=rows(source["words"]),
        )
    return {
        "scores": scores,
        "layout": layouts,
        "target": tuple(map(str, header["target"])),
        "prediction": tuple(map(str, header["prediction"])),
        "meta": dict(header["meta"]),
    }
