"""Words on a ground whose colour is their relevance, set and wrapped like a paragraph.

Every token keeps its own colour, and the tokens of one word stand together. Special and padding
tokens are grey and take no part in the scale.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from relmap.drawing.colours import FAINT, GREY, INK, Scale, number, scale_of
from relmap.drawing.page import MARGIN, WIDTH, Area, Block, fit, width_of
from relmap.result.attribution import Attribution
from relmap.result.token_text import readable

SIZE, LINE, SPACE, PAD, SEAM = 10.5, 0.29, 0.055, 0.035, 0.008  # points; then inches
LEGEND = 0.3
MOST = 120  # lines


@dataclass(frozen=True)
class Chip:
    """One token on the page: its text, its score (None: grey), whether it opens or ends a word."""

    text: str
    score: float | None
    opens: bool
    ends: bool = True

    @property
    def margin(self) -> float:
        """The coloured margin before the text, in inches: next to none inside a word."""
        return PAD if self.opens else SEAM

    @property
    def width(self) -> float:
        """Inches, with the coloured margins on both sides."""
        return self.margin + width_of(self.text, SIZE) + (PAD if self.ends else SEAM)


def coloured_words(example: Attribution, name: str) -> Block:
    """The text of one example as a paragraph of coloured words with a legend."""
    scale = scale_of(example.scores[name][0], example.layout[name].content[0])
    chips = chips_of(example, name)
    lines = wrapped(chips, WIDTH - 2 * MARGIN)
    hidden = sum(len(line) for line in lines[MOST:])
    lines = lines[:MOST]

    def paint(area: Area) -> None:
        _paint_lines(area, lines, scale)
        note = f"and {hidden} more tokens" if hidden else ""
        grey = any(chip.score is None for chip in chips)
        legend(area, len(lines) * LINE + 0.13, scale, grey, note)

    return Block(len(lines) * LINE + LEGEND, paint)


def chips_of(example: Attribution, name: str) -> list[Chip]:
    """The tokens of one example, cleaned; a run of padding becomes one grey chip."""
    layout = example.layout[name]
    content, padding = layout.content[0].tolist(), layout.padding[0].tolist()
    texts = readable(layout)
    scores = example.scores[name][0].detach().cpu().double().tolist()
    chips: list[Chip] = []
    run = 0
    for at, piece in enumerate(texts):
        run = run + 1 if padding[at] else 0
        if run > 1:
            chips[-1] = Chip(f"{texts[at].text} × {run}", None, True)
        else:
            score = scores[at] if content[at] else None
            ends = at + 1 == len(texts) or texts[at + 1].opens
            chips.append(Chip(piece.text, score, piece.opens, ends))
    return chips


def wrapped(chips: Sequence[Chip], width: float) -> list[list[tuple[float, Chip]]]:
    """The chips in lines with the left edge of each; words break only when longer than a line."""
    lines: list[list[tuple[float, Chip]]] = [[]]
    left = 0.0
    for word in _words(chips):
        long = sum(chip.width for chip in word)
        gap = SPACE if lines[-1] else 0.0
        if lines[-1] and left + gap + long > width:
            lines.append([])
            left = gap = 0.0
        left += gap
        for chip in word:
            shown = replace(chip, text=fit(chip.text, SIZE, width - 2 * PAD))
            if lines[-1] and left + shown.width > width:
                lines.append([])
                left = 0.0
            lines[-1].append((left, shown))
            left += shown.width
    return lines


def legend(area: Area, top: float, scale: Scale, grey: bool, note: str = "") -> None:
    """A horizontal colour bar with raw values, and what grey means."""
    middle, text = top + 0.05, f"relevance  {number(scale.low)}"
    area.text(0.0, middle, text, 7.0, color=FAINT)
    left = width_of(text, 7.0) + 0.08
    steps = np.linspace(scale.low, scale.high, 256)[None]
    bar = area.axes(left, top, 1.4, 0.1)
    bar.imshow(scale.word_map(scale.norm(steps)), aspect="auto")
    bar.spines[:].set(visible=True, color=GREY, linewidth=0.5)
    area.text(left + 1.48, middle, number(scale.high), 7.0, color=FAINT)
    left += 1.48 + width_of(number(scale.high), 7.0) + 0.25
    if grey:
        area.axes(left, top, 0.16, 0.1).set_facecolor(GREY)
        area.text(left + 0.22, middle, "special or padding", 7.0, color=FAINT)
        left += 0.22 + width_of("special or padding", 7.0) + 0.25
    if note:
        area.text(left, middle, note, 7.0, color=FAINT)


def _words(chips: Sequence[Chip]) -> list[list[Chip]]:
    lines: list[list[Chip]] = []
    for chip in chips:
        if chip.opens or not lines:
            lines.append([])
        lines[-1].append(chip)
    return lines


def _paint_lines(area: Area, lines: list[list[tuple[float, Chip]]], scale: Scale) -> None:
    from matplotlib.patches import Rectangle

    width, height = WIDTH - 2 * MARGIN, max(1, len(lines)) * LINE
    axes = area.axes(0.0, 0.0, width, height)  # one for all words: axes are slow to make
    axes.set(xlim=(0, width), ylim=(height, 0))
    for row, line in enumerate(lines):
        for left, chip in line:
            ground = GREY if chip.score is None else scale.word_map(scale.norm(chip.score))
            box = Rectangle((left, row * LINE + 0.025), chip.width, LINE - 0.05, color=ground, lw=0)
            axes.add_patch(box)
            ink = FAINT if chip.score is None else INK
            area.text(left + chip.margin, (row + 0.5) * LINE, chip.text, SIZE, color=ink)
