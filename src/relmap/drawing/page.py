"""A page of blocks, one under the other, measured in inches.

Nothing here uses pyplot or a window: a figure is made, painted and rendered by the Agg canvas, so
drawing works in threads and on servers and leaves the settings of the caller's session alone.
"""

import io
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from relmap.drawing.colours import INK
from relmap.errors import InputError, MissingExtraError
from relmap.files import PICTURES, write_whole

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

WIDTH, MARGIN, DPI = 7.2, 0.15, 200
TALLEST = 200.0  # inches; the canvas holds fewer than 2**16 pixels a side


@dataclass(frozen=True)
class Area:
    """A rectangle of the page; positions inside it in inches from its left and top edge."""

    figure: "matplotlib.figure.Figure"
    top: float
    height: float

    def axes(self, left: float, top: float, width: float, height: float) -> "matplotlib.axes.Axes":
        """Empty axes without ticks or frame."""
        page_width, page_height = self.figure.get_size_inches()
        bottom = page_height - self.top - top - height
        box = (
            (MARGIN + left) / page_width,
            bottom / page_height,
            width / page_width,
            height / page_height,
        )
        axes = self.figure.add_axes(box)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
        return axes

    def text(self, left: float, top: float, text: str, size: float, **style: Any) -> None:
        """One line of text, never read as a formula; `top` is the middle of the line."""
        width, height = self.figure.get_size_inches()
        style = {"color": INK, "va": "center_baseline", "ha": "left"} | style
        x, y = (MARGIN + left) / width, (height - self.top - top) / height
        self.figure.text(x, y, text, fontsize=size, parse_math=False, **style)


@dataclass(frozen=True)
class Block:
    """Something to paint, and the height it needs in inches."""

    height: float
    paint: Callable[[Area], None]


def page(blocks: Sequence[Block]) -> "matplotlib.figure.Figure":
    """A figure with the blocks one under the other.

    Raises:
        InputError: When they are taller than a canvas can be.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    height = sum(block.height for block in blocks) + 2 * MARGIN
    if height > TALLEST:
        raise InputError(
            f"this drawing would be {height:.0f} inches tall: draw fewer examples at a time"
        )
    figure = Figure(figsize=(WIDTH, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    top = MARGIN
    for block in blocks:
        block.paint(Area(figure, top, block.height))
        top += block.height
    return figure


def style() -> Any:
    """A context in which figures look the same whatever the session's settings are.

    Raises:
        MissingExtraError: When matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise MissingExtraError("plot") from error
    plain: dict[Any, Any] = {
        "text.usetex": False,
        "font.family": _families(),
        "image.origin": "upper",
    }
    saved: dict[Any, Any] = {
        "savefig.bbox": None,
        "savefig.facecolor": "white",
        "svg.fonttype": "none",
        "svg.hashsalt": "relmap",  # names inside a file, drawn by chance otherwise
    }
    return matplotlib.rc_context({**plain, **saved, "pdf.fonttype": 42})


_DATES: dict[str, dict[str, Any]] = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
"""When a figure was drawn is said nowhere: it would be another file each time."""


def save(figure: "matplotlib.figure.Figure", path: Path) -> None:
    """Write a figure as .png, .pdf or .svg, whole or not at all; the same figure in the same bytes.

    Raises:
        InputError: For another ending, or a folder that cannot be written.
    """
    ending = path.suffix.lower()
    if ending not in PICTURES:
        raise InputError(f"cannot draw {path.name!r}: it must end in one of {list(PICTURES)}")
    content = io.BytesIO()
    with warnings.catch_warnings():
        # A letter no installed font has is drawn as a box; that is no reason to fail.
        warnings.filterwarnings("ignore", message="Glyph")
        figure.savefig(content, format=ending[1:], dpi=DPI, metadata=_DATES.get(ending))
    write_whole(path, content.getvalue())


@lru_cache(maxsize=8192)
def width_of(text: str, size: float, weight: str = "normal") -> float:
    """How wide a line of text is, in inches."""
    from matplotlib.font_manager import FontProperties

    font = FontProperties(family=_families(), size=size, weight=weight)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")
        return _renderer().get_text_width_height_descent(text, font, False)[0] / DPI


def fit(text: str, size: float, width: float, weight: str = "normal") -> str:
    """The text, or as much of it as fits into the width, with an ellipsis."""
    if width_of(text, size, weight) <= width:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if width_of(text[:middle] + "…", size, weight) <= width:
            low = middle
        else:
            high = middle - 1
    return text[:low].rstrip() + "…"


@lru_cache(maxsize=1)
def _renderer() -> Any:
    from matplotlib.backends.backend_agg import RendererAgg

    return RendererAgg(1, 1, DPI)


@lru_cache(maxsize=1)
def _families() -> list[str]:
    """The font matplotlib ships, then whatever is installed for letters it lacks."""
    from matplotlib.font_manager import fontManager

    wanted = ("Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "WenQuanYi Zen Hei")
    system = ("PingFang SC", "Hiragino Sans", "Microsoft YaHei", "Noto Sans Arabic", "Segoe UI")
    installed = {font.name for font in fontManager.ttflist}
    return ["DejaVu Sans", *(name for name in (*wanted, *system) if name in installed)]
