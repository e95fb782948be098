"""Pictures of attributions: heat maps over images, coloured words, strips over time.

A figure is a page of blocks. Each example gives a title and one block per source, so an image and
its text stand in one figure and the examples of a batch stand one under the other. Scores are
scaled here and nowhere else; legends and colour bars show the raw values.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from relmap.attribution import Attribution
from relmap.draw.coloured_words import coloured_words
from relmap.draw.colours import FAINT
from relmap.draw.heat_map import heat_map
from relmap.draw.page import MARGIN, WIDTH, Block, fit, page, save, style
from relmap.draw.sheet import sheet
from relmap.draw.strip import strip
from relmap.draw.title import title

if TYPE_CHECKING:
    import matplotlib.figure

__all__ = ["draw", "sheet"]

MOST = 24


def draw(
    attribution: Attribution, path: str | os.PathLike[str] | None = None
) -> "matplotlib.figure.Figure":
    """A figure of every source of every example; written to `path` (.png, .pdf, .svg) if given.

    At most 24 examples are drawn, and the figure says so; pick others with `attribution[24:48]`.

    Raises:
        MissingExtraError: When matplotlib is not installed.
        InputError: When the path has another ending or cannot be written.
    """
    with style():
        shown = list(attribution[:MOST])
        blocks: list[Block] = []
        for example in shown:
            gap = [Block(0.16, lambda area: None)] if blocks else []
            blocks += gap + _example(example)
        if len(attribution) > MOST:
            blocks.append(_note(f"{MOST} of {len(attribution)} examples"))
        figure = page(blocks)
        if path is not None:
            save(figure, Path(path))
    return figure


def _example(example: Attribution) -> list[Block]:
    """The title, then every source in the form that suits it."""
    blocks = [title(example)]
    modalities = [layout.modality for layout in example.layout.values()]
    for name, layout in example.layout.items():
        if layout.modality == "text":
            if modalities.count("text") > 1:
                blocks.append(_note(name))
            blocks.append(coloured_words(example, name))
        elif layout.modality == "image" and layout.grid is not None:
            blocks.append(heat_map(example, name))
        else:
            blocks.append(strip(example, name))
    return blocks


def _note(text: str) -> Block:
    shown = fit(text, 7.0, WIDTH - 2 * MARGIN)
    return Block(0.2, lambda area: area.text(0.0, 0.08, shown, 7.0, color=FAINT))
