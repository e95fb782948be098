"""Attributions on disk: safetensors with a JSON header, and plain JSON for people.

The tensors of every source lie in one safetensors file; what is not a tensor (names, tokens,
grids, targets, provenance) is JSON in its header, so that reading a file runs no code. Files
appear whole or not at all.
"""

import json
import os
from collections.abc import Callable, Mapping
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
    tensors, sources = pack_layouts(attribution.layout)
    for at, (name, scores) in enumerate(attribution.scores.items()):
        tensors[f"{at}.scores"] = scores
        if name in attribution.pixels:
            tensors[f"{at}.pixels"] = attribution.pixels[name]
    header = {
        "sources": sources,
        "target": attribution.target,
        "prediction": attribution.prediction,
        "meta": attribution.meta,
    }
    return pack_file(tensors, header)


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


def pack_file(tensors: Mapping[str, Tensor], header: dict[str, Any]) -> bytes:
    """Tensors and a JSON header as the bytes of one safetensors file.

    Raises:
        InputError: When the header holds something JSON cannot.
    """
    # A copy each: safetensors refuses tensors that share memory, as slices of a batch do.
    copies = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in tensors.items()
    }
    return safetensors.torch.save(copies, {"relmap": to_json({"relmap": FORMAT} | header)})


def read(path: Path) -> dict[str, Any]:
    """The parts of an attribution out of a safetensors file; nothing in it is executed.

    Raises:
        InputError: When the file is missing, corrupt, or holds something else.
    """

    def unpack(header: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Any]:
        names = [source["name"] for source in header["sources"]]
        scores = {name: tensors[f"{at}.scores"] for at, name in enumerate(names)}
        pixels = {
            name: tensors[f"{at}.pixels"]
            for at, name in enumerate(names)
            if f"{at}.pixels" in tensors
        }
        return {"scores": scores, "pixels": pixels, **unpack_examples(header, tensors)}

    return read_file(path, "attribution", unpack)


def read_file(
    path: Path, what: str, unpack: Callable[[dict[str, Any], dict[str, Tensor]], dict[str, Any]]
) -> dict[str, Any]:
    """What `unpack` makes of the header and the tensors of a file that `pack_file` wrote.

    Raises:
        InputError: When the file is missing, corrupt, or holds something else.
    """
    if not path.is_file():
        raise InputError(f"no file {str(path)!r} to load an {what} from")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get("relmap")
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as error:
        raise InputError(f"{str(path)!r} is not a readable safetensors file: {error}") from error
    if header is None:
        raise InputError(f"{str(path)!r} is a safetensors file, but no {what} of relmap")
    try:
        parts = json.loads(header)
        if parts["relmap"] != FORMAT:
            raise InputError(f"its format is {parts['relmap']}; this relmap reads format {FORMAT}")
        return unpack(parts, tensors)
    except (InputError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"the {what} in {str(path)!r} is damaged: {error!r}") from error


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
