"""One map for every word: what of the picture a word of the answer, or of the question, is about.

The examples of an attribution are the words here. Over a picture each word has a panel on a scale
of its own, since words differ by orders of magnitude, but one that no word of little relevance can
fill; the ground of the word says how much its map holds in all. Without a picture the words are the
rows of a table.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from relmap.drawing.coloured_words import legend
from relmap.drawing.colours import FAINT, GREY, INK, Scale, scale_of
from relmap.drawing.heat_map import GAP, Array, Map, coloured, maps_of, scale_of_maps
from relmap.drawing.page import MARGIN, WIDTH, Area, Block, fit, page, save, style, width_of
from relmap.drawing.title import title
from relmap.errors import InputError
from relmap.result.attribution import Attribution
from relmap.result.token_text import readable

if TYPE_CHECKING:
    import matplotlib.figure

COLUMNS, SIZE, HEADING, LEGEND = 5, 8.5, 0.27, 0.3
MOST, WIDEST, CELL = 60, 30, 0.2  # words; columns of a table, inches of its rows
LABELS = 1.2  # inches
LEAST = 0.25  # range of a map's scale, as a share of the largest

Sheet = tuple[Attribution, Attribution]
"""The words of one answer, and their sum."""


def word_maps(
    sheets: Sequence[Sheet], path: str | os.PathLike[str] | None = None
) -> "matplotlib.figure.Figure":
    """A figure with the words of every answer; written to `path` (.png, .pdf, .svg) if given.

    Raises:
        InputError: When there is no word, or the path cannot be written.
        MissingExtraError: When matplotlib is not installed.
    """
    with style():
        blocks: list[Block] = []
        for words, whole in sheets:
            if not len(words):
                raise InputError("there is no word to draw a map for")
            blocks += [title(whole), *_blocks(words, whole)]
        figure = page(blocks)
        if path is not None:
            save(figure, Path(path))
    return figure


def _blocks(words: Attribution, whole: Attribution) -> list[Block]:
    """Panels where there is a picture, else a table for every source."""
    hidden = len(words) - MOST
    shown = words[:MOST] if hidden > 0 else words
    blocks = []
    for name, layout in words.layout.items():
        if layout.modality == "image" and layout.grid is not None:
            blocks = _panels(name, shown, whole)
            break
        blocks += _tables(name, shown)
    if hidden > 0:
        blocks.append(_note(f"and {hidden} more words"))
    return blocks


# --- over a picture ---------------------------------------------------------------------------


def _panels(name: str, words: Attribution, whole: Attribution) -> list[Block]:
    """The picture, the map of all words, and a panel for each word, in rows."""
    first = maps_of(whole, name)[0]
    width = (WIDTH - 2 * MARGIN - GAP * (COLUMNS - 1)) / COLUMNS
    height = width * first.ratio
    totals = torch.stack([_total(word, name) for word in words])
    scale = scale_of(torch.cat([totals, torch.zeros(1)]), torch.ones(len(totals) + 1).bool())
    panels = [] if first.picture is None else [_Panel("picture", None, first.picture)]
    panels.append(_Panel("all words", None, coloured(first, scale_of_maps([first]))))
    maps = [maps_of(word, name)[0] for word in words]
    for word, total, only, own in zip(words, totals.tolist(), maps, _scales(maps), strict=True):
        panels.append(_Panel(word.target[0], total, coloured(only, own)))
    rows = [panels[at : at + COLUMNS] for at in range(0, len(panels), COLUMNS)]

    def row(shown: list[_Panel]) -> Block:
        def paint(area: Area) -> None:
            for at, panel in enumerate(shown):
                left = at * (width + GAP)
                _paint_heading(area, left, width, panel, scale)
                area.axes(left, HEADING, width, height).imshow(panel.pixels, aspect="auto")

        return Block(HEADING + height + GAP, paint)

    note = "of a word's map, as its ground; maps under a quarter of the strongest stay faint"
    return [
        *(row(shown) for shown in rows),
        Block(LEGEND, lambda area: legend(area, 0.06, scale, grey=False, note=note)),
    ]


@dataclass(frozen=True, eq=False)
class _Panel:
    heading: str
    total: float | None
    pixels: Array


def _scales(maps: Sequence[Map]) -> list[Scale]:
    """Each word's own scale; one of little range does not fill it, or noise would look strong."""
    own = [scale_of_maps([only]) for only in maps]
    least = LEAST * max(float(only.scores.max() - only.scores.min()) for only in maps)
    return [
        Scale(min(scale.low, -least / 2), max(scale.high, least / 2)) if scale.signed
        else Scale(scale.low, max(scale.high, scale.low + least))
        for scale in own
    ]  # fmt: skip


def _total(word: Attribution, name: str) -> Tensor:
    """The relevance that one word's map holds on the grid."""
    layout = word.layout[name]
    kept = word.scores[name].masked_fill(layout.padding.to(word.scores[name].device), 0)
    return layout.on_grid(kept).sum().detach().cpu().float()


def _paint_heading(area: Area, left: float, width: float, panel: _Panel, scale: Scale) -> None:
    """The word in the middle, on a ground of its colour."""
    shown = fit(panel.heading, SIZE, width - 0.1)
    if panel.total is not None:
        wide = width_of(shown, SIZE) + 0.1
        ground = area.axes(left + (width - wide) / 2, 0.03, wide, HEADING - 0.06)
        ground.set_facecolor(scale.word_map(scale.norm(panel.total)))
    colour = FAINT if panel.total is None else INK
    area.text(left + width / 2, HEADING / 2, shown, SIZE, ha="center", color=colour)


# --- as a table -------------------------------------------------------------------------------


def _tables(name: str, words: Attribution) -> list[Block]:
    """Words as rows, tokens of a source as columns; wide tables go on below."""
    layout = words.layout[name]
    scores = words.scores[name].detach().cpu().double()
    content = layout.content.cpu()
    if layout.tokens is None:
        texts = [layout.label(0, at) for at in range(scores.shape[1])]
    else:
        texts = [piece.text for piece in readable(layout)]
    scale = scale_of(scores, content)
    labels = [fit(one.target[0], SIZE, LABELS - 0.1) for one in words]
    blocks = []
    for start in range(0, len(texts), WIDEST):
        band = slice(start, start + WIDEST)
        colours = scale.word_map(scale.norm(scores[:, band].numpy()))[..., :3]
        colours[~content[:, band].numpy()] = GREY
        blocks.append(_band(labels, texts[band], colours))
    grey = not bool(content.all())
    return [*blocks, Block(LEGEND, lambda area: legend(area, 0.06, scale, grey, f"on {name}"))]


def _band(labels: list[str], texts: list[str], colours: np.ndarray) -> Block:
    shown = [fit(text, SIZE, LABELS) for text in texts]
    top = max(width_of(text, SIZE) for text in shown) + 0.08
    cell = (WIDTH - 2 * MARGIN - LABELS) / WIDEST

    def paint(area: Area) -> None:
        size = (cell * len(shown), CELL * len(labels))
        area.axes(LABELS, top, *size).imshow(colours, aspect="auto", interpolation="nearest")
        for at, label in enumerate(labels):
            place = top + (at + 0.5) * CELL
            area.text(LABELS - 0.06, place, label, SIZE, ha="right")
        for at, text in enumerate(shown):
            place = LABELS + (at + 0.5) * cell
            area.text(place, top - 0.04, text, SIZE, ha="center", va="bottom", rotation=90)

    return Block(top + CELL * len(labels) + 0.05, paint)


def _note(text: str) -> Block:
    return Block(0.2, lambda area: area.text(0.0, 0.08, text, 7.0, color=FAINT))
