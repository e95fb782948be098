"""A comparison sheet: several attributions of the same inputs side by side.

Rows are examples. With images every panel is one attribution (usually one method) on a scale of
its own, since methods share no unit; texts follow one under the other, many of them in columns.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from relmap.drawing.coloured_words import coloured_words
from relmap.drawing.heat_map import GAP, Array, Map, coloured, maps_of, scale_of_maps
from relmap.drawing.page import MARGIN, WIDTH, Area, Block, fit, page, save, style
from relmap.errors import InputError
from relmap.result.attribution import Attribution

if TYPE_CHECKING:
    import matplotlib.figure

SIZE, HEADING, PANELS = 8.0, 0.26, 5


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
    target = next(iter(examples.values())).target[0]
    panels = [] if first.picture is None else [(target, first.picture)]
    panels += [(heading, coloured(each, scale_of_maps([each]))) for heading, each in maps.items()]
    columns = min(len(panels), PANELS)
    width = min((WIDTH - 2 * MARGIN - GAP * (columns - 1)) / columns, 3.0)
    rows = [panels[start : start + columns] for start in range(0, len(panels), columns)]
    return [_panels(row, (width, width * first.ratio)) for row in rows]


def _panels(row: Sequence[tuple[str, Array]], size: tuple[float, float]) -> Block:
    def paint(area: Area) -> None:
        for place, (heading, picture) in enumerate(row):
            _panel(area, place * (size[0] + GAP), size, heading, picture)

    return Block(HEADING + size[1] + GAP, paint)


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
