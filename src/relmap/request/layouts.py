"""What a user is told about the tokens of each source: words, special ones, padding, grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any, TypeGuard

import torch
from torch import Tensor
from torch.nn import functional

from relmap.backwards import Backward
from relmap.models import Model
from relmap.result.layout import Layout
from relmap.trace.argument_roles import Role, modality, padding_masks, role
from relmap.trace.graph import Source, TokenGraph


def lay_out(model: Model, graph: TokenGraph, arguments: Mapping[str, Any]) -> dict[str, Layout]:
    """The layout of every source of a graph, by name, in the graph's order."""
    return {source.name: _layout(model, source, arguments) for source in graph.sources}


def mark_padding(graph: TokenGraph, layouts: Mapping[str, Layout]) -> dict[int, Tensor]:
    """Which tokens of each reported state only fill the batch up."""
    marked: dict[int, Tensor] = {}
    for source in graph.sources:
        flags = torch.zeros(graph.states[source.state].tokens, dtype=torch.bool)
        padding = layouts[source.name].padding & (source.tokens >= 0)
        flags[source.tokens[padding]] = True
        marked[source.state] = flags
    return marked


def provenance(
    model: Model, graph: TokenGraph, arguments: Mapping[str, Any], method: str,
    options: Mapping[str, Any], chosen: Sequence[str], backward: Backward,
) -> dict[str, Any]:  # fmt: skip
    """Where an attribution came from: versions, method, settings, and what is approximate.

    `options` are all settings of the method, `chosen` names those that the user gave; `unused` are
    arguments of no known role that became nobody's tokens.
    """
    return {
        "relmap": version("relmap"),
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "model": model.name,
        "method": method,
        "backward": backward.name,
        "backward_options": dict(backward.settings),
        "options": dict(options),
        "chosen": list(chosen),
        "dtype": str(graph.blank.dtype).removeprefix("torch."),
        "device": str(graph.device()),
        "attentions": graph.calls,
        "explained_attentions": sum(not one.is_mixer for one in graph.attentions),
        "trace": graph.grade,
        "mixers": list(graph.mixers),
        "approximate": list(graph.approximate),
        "unused": _unused(graph, arguments),
    }


def _unused(graph: TokenGraph, arguments: Mapping[str, Any]) -> list[str]:
    """Tensors among the arguments that have no known role and are nobody's tokens."""
    used = {name for source in graph.sources for name in source.names}
    return [
        name for name, value in arguments.items()
        if isinstance(value, Tensor) and name not in used and role(name, value) is Role.DATA
    ]  # fmt: skip


def _layout(model: Model, source: Source, arguments: Mapping[str, Any]) -> Layout:
    tensor = arguments[source.names[0]]
    kind = _modality(source, tensor)
    missing = source.tokens < 0
    special = (source.elements < 0) & ~missing
    padding = missing.clone()
    tokens = None
    if kind == "text":
        ids = _ids(source, tensor)
        if ids is not None:
            known = special_ids(model)
            special |= torch.isin(ids, torch.tensor(sorted(known), dtype=torch.long)) & (ids >= 0)
            tokens = _words(model, ids)
    grid, patches = source.grid, source.patches
    if grid is None and kind == "image":
        grid, patches = _packed_grid(model, source, arguments)
    mask = _mask(source, arguments)
    if mask is not None:
        padding |= ~_seen(mask, source.elements)
    return Layout(
        names=source.names,
        modality=kind,
        special=special & ~padding,
        padding=padding,
        tokens=tokens,
        grid=grid,
        patches=patches,
    )


def _modality(source: Source, tensor: Tensor) -> str:
    said = modality(source.names[0])
    if not tensor.is_floating_point() and tensor.ndim <= 2:
        return "text"
    if said != "audio" and (source.grid is not None or tensor.ndim >= 4):
        return "image"
    return said or "features"


def _ids(source: Source, tensor: Tensor) -> Tensor | None:
    if tensor.is_floating_point():
        return None
    flat = tensor.detach().cpu().reshape(-1).long()
    if int(source.elements.max()) >= len(flat):
        return None
    return torch.where(source.elements >= 0, flat[source.elements.clamp_min(0)], -1)


def special_ids(model: Model) -> set[int]:
    """Numbers of the tokens that are no content."""
    return set(model.special_ids) | set(getattr(model.tokenizer, "all_special_ids", None) or ())


def _words(model: Model, ids: Tensor) -> tuple[tuple[str, ...], ...]:
    """Tokens as the tokenizer spells them; numbers without one, learned tokens in brackets."""
    convert = getattr(model.tokenizer, "convert_ids_to_tokens", None)
    rows = []
    for row in ids.tolist():
        kept = [max(token, 0) for token in row]
        words = convert(kept) if convert is not None else [str(token) for token in kept]
        rows.append(tuple(
            "[learned]" if token < 0 else str(word) for token, word in zip(row, words, strict=True)
        ))  # fmt: skip
    return tuple(rows)


def _mask(source: Source, arguments: Mapping[str, Any]) -> Tensor | None:
    """The mask of a source's own tokens, element by element."""
    name = source.names[0]
    if name == "pixel_values" and isinstance(arguments.get("pixel_mask"), Tensor):
        return _patch_mask(source, arguments["pixel_mask"])
    closed = arguments.get(f"{name}_key_padding_mask")
    if isinstance(closed, Tensor) and closed.ndim == 2:
        # torch.nn marks padding with True, and may hold it as a float of minus infinity.
        hidden = closed if closed.dtype == torch.bool else closed < 0
        return (~hidden).detach().cpu()
    batch, width = source.tokens.shape
    spoken = "input_ids" in arguments or "inputs_embeds" in arguments
    for other in padding_masks(name):
        mask = arguments.get(other)
        if other == "attention_mask" and spoken and name not in ("input_ids", "inputs_embeds"):
            continue  # it is the text's
        if not _marks_padding(mask, batch):
            continue
        if modality(name) == "audio" and mask.shape[1] > width:
            return _frames_mask(mask.detach(), width).cpu()
        if mask.numel() > int(source.elements.max()):
            return mask.detach().cpu()
    return None


def _marks_padding(mask: Any, batch: int) -> TypeGuard[Tensor]:
    """Whether a mask has a row for every example, and is not one that is added to scores."""
    if not isinstance(mask, Tensor) or mask.ndim != 2 or len(mask) != batch:
        return False
    return not (mask.is_floating_point() and bool((mask < 0).any()))


def _frames_mask(mask: Tensor, frames: int) -> Tensor:
    """A mask over the samples of a sound, as one over frames of equal width: what each begins with.

    Windows that overlap are a little closer than that, so the last frame with sound in it may be
    taken for padding, never more.
    """
    return functional.interpolate(mask[:, None].float(), size=frames)[:, 0] > 0


def _packed_grid(
    model: Model, source: Source, arguments: Mapping[str, Any]
) -> tuple[tuple[int, ...] | None, Tensor | None]:
    """The patch grid of packed pictures, as `image_grid_thw` gives it: one of the same size each.

    Patches come in blocks of `spatial_merge_size` squared, which later make one token.
    """
    sizes = arguments.get("image_grid_thw")
    if not isinstance(sizes, Tensor) or len(sizes) != len(source.tokens):
        return None, None
    frames, rows, columns = (int(size) for size in sizes[0])
    if bool((sizes != sizes[0]).any()) or frames * rows * columns != source.tokens.shape[1]:
        return None, None
    vision = getattr(getattr(model.network, "config", None), "vision_config", None)
    block = int(getattr(vision, "spatial_merge_size", 1))
    if rows % block or columns % block:
        return None, None
    order = torch.arange(frames * rows * columns)
    order = order.reshape(frames, rows // block, columns // block, block, block)
    cells = order.transpose(2, 3).reshape(frames, rows, columns)
    grid = (rows, columns) if frames == 1 else (frames, rows, columns)
    return grid, cells.reshape(-1)


def _seen(mask: Tensor, elements: Tensor) -> Tensor:
    """What a mask says of each token; the k-th token of an example stands in its k-th column.

    The argument itself may have been laid out otherwise (sequence first).
    """
    mask = mask.reshape(elements.shape[0], -1) != 0
    made = elements >= 0
    place = torch.where(made, elements, elements.max() + 1).argsort(1).argsort(1)
    return mask.gather(1, place.clamp_max(mask.shape[1] - 1)) | ~made


def _patch_mask(source: Source, mask: Tensor) -> Tensor | None:
    if source.grid is None or len(source.grid) != 2 or mask.ndim != 3:
        return None
    shrunk = functional.interpolate(mask[:, None].float().cpu(), size=source.grid)
    return shrunk.reshape(-1)
