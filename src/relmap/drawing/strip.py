"""Strips: relevance of tokens that lie on no picture, in order: sound over time, box features."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from relmap.drawing.colours import FAINT, GREY, scale_of
from relmap.drawing.heat_map import BAR, colour_bar
from relmap.drawing.page import MARGIN, WIDTH, Area, Block
from relmap.result.attribution import Attribution

HEIGHT, WAVE = 0.55, 0.5


def strip(example: Attribution, name: str) -> Block:
    """One coloured cell per token from left to right, under the waveform where there is one."""
    layout = example.layout[name]
    scores = layout.on_grid(example.scores[name])[0].detach().cpu().double()
    grey = ~layout.on_grid(layout.content)[0].cpu()
    if scores.ndim > 2:
        scores, grey = scores.flatten(0, -2), grey.flatten(0, -2)
    scale = scale_of(scores, ~grey)
    rows, hidden = torch.atleast_2d(scores), torch.atleast_2d(grey)
    colours = scale.picture_map(scale.norm(rows.numpy()))[..., :3]
    colours[hidden.numpy()] = GREY
    wave = _wave(example.inputs.get("audio")) if layout.modality == "audio" else None
    width = WIDTH - 2 * MARGIN - BAR
    offset = 0.0 if wave is None else WAVE

    def paint(area: Area) -> None:
        if wave is not None:
            low, high = wave
            axes = area.axes(0.0, 0.0, width, WAVE - 0.04)
            axes.fill_between(np.arange(len(low)), low, high, color=FAINT, linewidth=0.4)
            axes.set_xlim(0, len(low) - 1)
        shown = _under(area, offset)
        shown.axes(0.0, 0.0, width, HEIGHT).imshow(colours, aspect="auto", interpolation="nearest")
        colour_bar(shown, width + 0.12, HEIGHT, scale)
        first, last = _ends(example, layout.modality, rows.shape[1])
        shown.text(0.0, HEIGHT + 0.11, first, 7.0, color=FAINT)
        shown.text(width / 2, HEIGHT + 0.11, name, 7.0, color=FAINT, ha="center")
        shown.text(width, HEIGHT + 0.11, last, 7.0, color=FAINT, ha="right")

    return Block(offset + HEIGHT + 0.3, paint)


def _under(area: Area, offset: float) -> Area:
    return Area(area.figure, area.top + offset, area.height - offset)


def _wave(given: Any) -> tuple[np.ndarray, np.ndarray] | None:
    """The lower and upper edge of the waveform in as many steps as can be seen."""
    if given is None or given[0] is None:
        return None
    sound = given[0].detach().cpu().numpy() if isinstance(given[0], Tensor) else given[0]
    parts = np.array_split(np.asarray(sound, dtype=float).ravel(), min(1200, np.size(sound)))
    return np.array([part.min() for part in parts]), np.array([part.max() for part in parts])


def _ends(example: Attribution, modality: str, count: int) -> tuple[str, str]:
    rate, given = example.inputs.get("sampling_rate"), example.inputs.get("audio")
    if modality == "audio" and rate and given is not None and given[0] is not None:
        return "0 s", f"{np.size(np.asarray(given[0])) / rate:.2f} s"
    return "token 0", f"token {count - 1}"
