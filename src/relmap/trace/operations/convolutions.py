"""Convolutions, pooling and resizing: where patches come from.

On a raw input they make tokens: the grid that comes out is numbered afresh, so a whole
convolutional stem stays one source. On tokens, a window of one place is a feature map; a window
that keeps the grid leaves the tokens where they are but lets them see their neighbours (flagged
approximate); a window that coarsens the grid merges tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from relmap.trace.calls import PARTS, Call, along, move_pair
from relmap.trace.labels import NO_TOKEN, Labels
from relmap.trace.tags import Pair, Tag, Tokens, activation


def convolve(call: Call) -> Tag | None:
    """conv1d, conv2d, conv3d and transposed ones."""
    weight = call.argument(1, "weight", None)
    window = tuple(weight.shape[2:])
    return _windowed(call, window, channels=True)


def pool(call: Call) -> Any:
    """max_pool, avg_pool, adaptive pooling."""
    tag = call.tag()
    if isinstance(call.result, tuple):
        whole, call.result = call.result, call.result[0]
        tag = _windowed(call, None, channels=False)
        call.result = whole
        return PARTS([tag] + [None] * (len(whole) - 1))
    return _windowed(call, None, channels=False)


def resize(call: Call) -> Tag | None:
    """interpolate, upsample, grid resampling of a regular grid."""
    return _windowed(call, None, channels=False)


def _windowed(call: Call, window: tuple[int, ...] | None, channels: bool) -> Tag | None:
    tag = call.tag()
    tensor = call.subject
    if isinstance(tag, Pair):
        return _talking_heads(call, tag, window)
    if not isinstance(tag, Tokens):
        return tag
    spatial = len(window) if window is not None else _spatial_axes(call, tensor)
    channel_axis = tensor.ndim - spatial - 1
    stem = tag.state.kind == "source" and not (tag.state.settled or tag.state.projected)
    grids = tuple(tensor.shape[-spatial:]), call.shape[-spatial:]
    if tag.state.kind == "input" or (stem and grids[0] != grids[1]):
        return _fresh_grid(call, tag, spatial)
    if stem and channel_axis not in tag.labels.varying:
        node = call.notebook.node(tag.node)
        return Tokens(tag.state, Labels(call.shape, tag.labels.values), node, tag.pending)
    if channels and channel_axis in tag.labels.varying:
        return call.lost("mixes tokens as if they were channels")
    if window is not None and all(size == 1 for size in window) and _unit_stride(call, tag):
        node = call.notebook.node(tag.node)
        values = tag.labels.values
        return Tokens(tag.state, Labels(call.shape, values), node, tag.pending)
    if _steps_by_one(call, window) or grids[0] == grids[1]:
        return _same_grid(call, tag, spatial, *grids)
    return _coarser_grid(call, tag, spatial, window)


def _steps_by_one(call: Call, window: tuple[int, ...] | None) -> bool:
    """Whether a convolution visits every place: its grid only loses or gains a margin."""
    if window is None or call.name.startswith("conv_t"):
        return False
    stride = call.argument(3, "stride", 1)
    return all(one == 1 for one in (stride if isinstance(stride, (tuple, list)) else [stride]))


def _talking_heads(call: Call, pair: Pair, window: tuple[int, ...] | None) -> Tag:
    """A convolution of one place mixes the heads of scores, nothing else."""
    sides = [side for side in (pair.rows, pair.columns) if side is not None]
    if window is None or any(size > 1 for size in window):
        return call.lost("mixes scores of neighbouring tokens")
    if any(1 in side.labels.varying for side in sides):
        return call.lost("mixes scores of different tokens")
    return move_pair(pair, lambda labels: Labels(call.shape, labels.values))


def _spatial_axes(call: Call, tensor: Tensor) -> int:
    for rank in (1, 2, 3):
        if f"{rank}d" in call.name:
            return rank
    return tensor.ndim - 2


def _unit_stride(call: Call, tag: Tokens) -> bool:
    tensor = call.subject
    return tuple(tensor.shape[2:]) == call.shape[2:] and not call.name.startswith("conv_t")


def _fresh_grid(call: Call, tag: Tokens, spatial: int) -> Tag:
    """A window on a raw input or a stem: the places that come out are the tokens."""
    notebook = call.notebook
    rank = len(call.shape)
    owner = tag.state
    labels = Labels.number(call.shape, [rank - spatial - 1])
    state = notebook.new_state("source", labels, names=owner.names)
    state.grid = call.shape[-spatial:]
    if not call.result.requires_grad and torch.is_grad_enabled():
        call.result = call.result.detach().requires_grad_().clone()
    state.stream = activation(call.result, labels, call.notebook.keep_values)
    return Tokens(state, labels, notebook.node(tag.node))


def _same_grid(call: Call, tag: Tokens, spatial: int, before: Any, after: Any) -> Tag:
    """A window that keeps the grid: tokens stay, and see their neighbours."""
    values = tag.labels.values
    for position in range(spatial):
        axis = len(tag.labels.shape) - spatial + position
        difference = after[position] - before[position]
        if values.shape[axis] == 1 or difference == 0:
            continue
        if difference < 0:
            start = _start(values, axis, -difference)
            values = values.narrow(axis, start, after[position])
        else:
            widths = [0] * (2 * (values.ndim - axis - 1)) + [0, difference]
            values = functional.pad(values, widths, value=NO_TOKEN)
    node = call.notebook.node(tag.node)
    call.notebook.flag("a local convolution or pooling between tokens", node)
    return Tokens(tag.state, Labels(call.shape, values), node, tag.pending)


def _start(values: Tensor, axis: int, cut: int) -> int:
    """Where the tokens begin that an unpadded window keeps: behind the padding, or centred."""
    others = [one for one in range(values.ndim) if one != axis]
    padded = (
        (values < 0).all(dim=others[0])
        if len(others) == 1
        else ((values < 0).movedim(axis, 0).flatten(1).all(dim=1))
    )
    leading = int((~padded).int().argmax()) if bool((~padded).any()) else 0
    return min(leading, cut) if leading else cut // 2


def _coarser_grid(call: Call, tag: Tokens, spatial: int, window: tuple[int, ...] | None) -> Tag:
    """A window with a stride: a token is made of all tokens in its window."""
    tensor = call.subject
    if tag.pending is not None:
        tag = call.notebook.settle(tag, tensor)
    labels = tag.labels
    before, after = tuple(tensor.shape[-spatial:]), call.shape[-spatial:]
    parents = labels.values.expand(*labels.values.shape[: tensor.ndim - spatial], *before)
    lead = parents.shape[: tensor.ndim - spatial]
    flat = parents.reshape(-1, *before)
    index = _window_index(call, before, after, window)
    gathered = flat.flatten(1)[:, index.clamp_min(0)]
    gathered = torch.where(index < 0, NO_TOKEN, gathered)
    gathered = gathered.reshape(*lead, *after, index.shape[-1])
    features = [axis for axis in range(tensor.ndim) if axis not in labels.varying
                and axis < tensor.ndim - spatial]  # fmt: skip
    numbers = Labels.number(call.shape, features)
    places = Labels((*call.shape, index.shape[-1]), numbers.values.unsqueeze(-1))
    whole = Labels((*gathered.shape,), gathered)
    link = (tag.state, places, whole)
    state = call.notebook.new_state("merge", numbers, links=[link], settled=True)
    node = call.notebook.node(tag.node)
    if window is not None and _overlaps(before, after, window):
        call.notebook.flag("overlapping windows that merge tokens", node)
    return Tokens(state, numbers, node)


def _overlaps(before: Any, after: Any, window: tuple[int, ...]) -> bool:
    return any(w * a > b + w - 1 for b, a, w in zip(before, after, window, strict=True))


def _window_index(
    call: Call, before: tuple[int, ...], after: tuple[int, ...], window: tuple[int, ...] | None
) -> Tensor:
    """Positions (flattened) seen by every output place, -1 for padding: (*after, window)."""
    axes = []
    for position, (old, new) in enumerate(zip(before, after, strict=True)):
        axes.append(_axis_index(call, position, old, new, window))
    index = axes[0].reshape(axes[0].shape[0], *(1,) * (len(axes) - 1), axes[0].shape[1])
    for position, following in enumerate(axes[1:], start=1):
        shape = [1] * (len(axes) + 1)
        shape[position], shape[-1] = following.shape
        wide, narrow = index.unsqueeze(-1), following.reshape(shape).unsqueeze(-2)
        both = wide * before[position] + narrow
        both = torch.where((wide < 0) | (narrow < 0), NO_TOKEN, both)
        index = both.flatten(-2)
    return index.reshape(*after, -1)


def _axis_index(
    call: Call, position: int, old: int, new: int, window: tuple[int, ...] | None
) -> Tensor:
    """Places of one axis seen by every output place: (new, window)."""
    if window is None or call.name.startswith("conv_t"):
        starts = (torch.arange(new) * old) // new
        ends = ((torch.arange(new) + 1) * old + new - 1) // new
        size = int((ends - starts).max())
        index = starts[:, None] + torch.arange(size)
        return torch.where(index < ends[:, None], index, NO_TOKEN)
    stride = _per_axis(call.argument(3, "stride", 1), position)
    padding = _per_axis(call.argument(4, "padding", 0), position)
    dilation = _per_axis(call.argument(5, "dilation", 1), position)
    if isinstance(padding, str):
        padding = 0 if padding == "valid" else (dilation * (window[position] - 1)) // 2
    index = torch.arange(new)[:, None] * stride - padding
    index = index + torch.arange(window[position]) * dilation
    return torch.where((index >= 0) & (index < old), index, NO_TOKEN)


def _per_axis(value: Any, position: int) -> Any:
    values = list(value) if isinstance(value, (tuple, list)) else [value]
    return values[position] if len(values) > 1 else values[0]


def keep(call: Call) -> Tag | None:
    """batch_norm in eval mode: a scale and a shift per channel."""
    tag = call.tag()
    return along(call, tag) if isinstance(tag, Tokens | Pair) else tag
