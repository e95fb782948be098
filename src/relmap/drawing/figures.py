"""Figures of results: which blocks stand on the page of an attribution, interaction, comparison."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from relmap.drawing.coloured_words import coloured_words
from relmap.drawing.colours import FAINT
from relmap.drawing.comparison_sheet import sheet
from relmap.drawing.heat_map import heat_map
from relmap.drawing.page import MARGIN, WIDTH, Block, fit, page, save, style
from relmap.drawing.strip import strip
from relmap.drawing.title import title
from relmap.drawing.word_maps import word_maps
from relmap.files import draws
from relmap.result.attribution import Attribution
from relmap.result.comparison import Comparison
from relmap.result.interaction import Interaction

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST, MOST_INTERACTIONS = 24, 12


SourceDrawer = Callable[[Attribution, str], Block]
"""Makes the block of one source of one example, from the example and the source's name."""
S = TypeVar("S", bound=SourceDrawer)


@draws(Attribution)
def draw_attribution(attribution: Attribution, path: Path | None = None) -> Figure:
    """A figure of every source of every example; at most 24, and the figure says so."""
    return _page_of(attribution, path, {})


def draws_source(modality: str, name: str) -> Callable[[S], S]:
    """Decorator: the function draws sources of a modality, on a page that is called by this name.

    `relmap.draw(result, path, drawing=name)` is then relmap's own page with these sources drawn by
    the function, which is given an attribution of one example and the name of a source.

    Raises:
        InputError: The name is not in kebab case or taken, or the function does not take both.

    Example:
        >>> @draws_source("text", "blank-words")
        ... def blank(example, name):
        ...     return Block(0.1, lambda area: None)
    """

    def register(block: S) -> S:
        @wraps(block)
        def drawer(attribution: Attribution, path: Path | None = None) -> Figure:
            return _page_of(attribution, path, {modality: block})

        draws(Attribution, name)(drawer)
        return block

    return register


def _page_of(
    attribution: Attribution, path: Path | None, drawers: Mapping[str, SourceDrawer]
) -> Figure:
    with style():
        shown = list(attribution[:MOST])
        blocks: list[Block] = []
        for example in shown:
            gap = [Block(0.16, lambda area: None)] if blocks else []
            blocks += gap + _example(example, drawers)
        if len(attribution) > MOST:
            blocks.append(_note(f"{MOST} of {len(attribution)} examples"))
        figure = page(blocks)
        if path is not None:
            save(figure, path)
    return figure


@draws(Interaction)
def draw_interaction(interaction: Interaction, path: Path | None = None) -> Figure:
    """A sheet with a map over the picture for every word; without a picture, a table.

    At most 12 examples are drawn. Maps have a scale each; the ground of a word shows how much of
    the whole interaction is its own.
    """
    shown = []
    for example in range(min(len(interaction), MOST_INTERACTIONS)):
        words = interaction.by_token(example)
        summed = {name: scores.sum(0, keepdim=True) for name, scores in words.scores.items()}
        target = interaction.target[example : example + 1]
        shown.append((words, replace(words[0], scores=summed, target=target)))
    return word_maps(shown, path)


@draws(Comparison)
def draw_comparison(comparison: Comparison, path: Path | None = None) -> Figure:
    """The attributions of a comparison side by side."""
    return sheet(comparison.found, path)


def _example(example: Attribution, drawers: Mapping[str, SourceDrawer]) -> list[Block]:
    """The title, then every source in the form that was asked for, or that suits it."""
    blocks = [title(example)]
    modalities = [layout.modality for layout in example.layout.values()]
    for name, layout in example.layout.items():
        if layout.modality in drawers:
            blocks.append(drawers[layout.modality](example, name))
        elif layout.modality == "text":
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
