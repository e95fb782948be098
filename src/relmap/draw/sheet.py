"""A comparison sheet: several attributions of the same inputs side by side.

Rows are examples. With images every column is one attribution (usually one method) on a scale of
its own, since methods share no unit; texts follow one under the other.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from relmap.attribution import Attribution
from relmap.draw.coloured_words import coloured_words
from relmap.draw.heat_map import GAP, Array, Map, coloured, maps_of, scale_of_maps
from relmap.draw.page import MARGIN, WIDTH, Area, Block, fit, page, save, style
from relmap.errors import InputError

if TYPE_CHECKING:
    import matplotlib.figure

SIZE, HEADING = 8.5, 0.26


def sheet(
    attributions: Mapping[str, Attribution], path: str | os.PathLike[str] | None = None
) -> "matplotlib.figure.Figure":
    """A figure with the attributions side by side, each under its name; written to `path` if given.

    Raises:
        InputError: When there are none, or they are of different numbers of examples.
        MissingExtraError: When matplotlib is not installed.
    """
    lengths = {len(attribution) for attribution in attributions.values()}
    if len(lengths) != 1:
        raise InputError("a sheet compares at least one attribution, all of the same examples")
    with style():
        blocks: list[Block] = []
        for index in range(lengths.pop()):
            examples = {name: each[index] for name, each in attributions.items()}
            blocks += _image_row(examples) + _text_rows(examples)
        figure = page(blocks)
        if path is not None:
            save(figure, Path(path))
    return figure


def _image_row(examples: Mapping[str, Attribution]) -> list[Block]:
    maps = {
        heading: maps_of(example, name)[0]
        for heading, example in examples.items()
        for name, layout in list(example.layout.items())
        if layout.modality == "image" and layout.grid is not None
    }
    if not maps:
        return []
    first: Map = next(iter(maps.values()))
    columns = len(maps) + (first.picture is not None)
    width = min((WIDTH - 2 * MARGIN - GAP * (columns - 1)) / columns, 3.0)
    height = width * first.ratio

    def paint(area: Area) -> None:
        left = 0.0
        target = next(iter(examples.values())).target[0]
        if first.picture is not None:
            _panel(area, left, (width, height), target, first.picture)
            left += width + GAP
        for heading, each in maps.items():
            picture = coloured(each, scale_of_maps([each]))
            _panel(area, left, (width, height), heading, picture)
            left += width + GAP

    return [Block(HEADING + height + GAP, paint)]


def _panel(area: Area, left: float, size: tuple[float, float], heading: str, pixels: Array) -> None:
    width, height = size
    area.text(left + width / 2, HEADING / 2, fit(heading, SIZE, width), SIZE, ha="center")
    area.axes(left, HEADING, width, height).imshow(pixels, aspect="auto")


def _text_rows(examples: Mapping[str, Attribution]) -> list[Block]:
    blocks: list[Block] = []
    for heading, example in examples.items():
        for name, layout in example.layout.items():
            if layout.modality == "text":
                blocks += [_heading(heading), coloured_words(example, name)]
    return blocks


def _heading(text: str) -> Block:
    return Block(HEADING, lambda area: area.text(0.0, HEADING / 2, text, SIZE, weight="bold"))
