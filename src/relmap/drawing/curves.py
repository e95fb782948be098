"""Curves: what is left of an answer at every step of a perturbation test, a line for each method.

Lines differ in colour and in dash, so that a page printed in grey can be read; the legend stands in
the order of the lines at their ends.
"""

from collections.abc import Mapping
from pathlib import Path

from relmap.drawing.page import save, style
from relmap.metrics.trial import Curve

__all__ = ["curves"]

DASHES = ("-", "--", "-.", ":")


def curves(lines: Mapping[str, Curve], title: str, path: Path) -> None:
    """Draw the mean curve of each method over the share that is hidden.

    Raises:
        MissingExtraError: When matplotlib is not installed.
        InputError: When the path has an ending that is no picture's, or cannot be written.
    """
    with style():
        import matplotlib
        from matplotlib.figure import Figure

        # The pale half of tab20 is told from the other by its dash only: not before it is needed.
        name = "tab10" if len(lines) <= 10 else "tab20"
        colours = matplotlib.colormaps[name].colors  # type: ignore[attr-defined]
        height = max(3.2, 0.19 * len(lines) + 0.6)
        figure = Figure(figsize=(7.2, height), layout="constrained")
        axes = figure.add_subplot()
        order = sorted(lines, key=lambda name: -float(lines[name].values.mean()))
        for number, method in enumerate(order):
            curve = lines[method]
            axes.plot(
                [100 * step for step in curve.steps], curve.values.mean(dim=0).tolist(),
                DASHES[number // len(colours) % 4] if len(order) > 20 else DASHES[number % 4],
                color=colours[number % len(colours)], label=method, linewidth=1.3, marker=".",
                markersize=4,
            )  # fmt: skip
        axes.set_xlabel("share that is hidden, %", fontsize=8)
        axes.set_ylabel("what is left", fontsize=8)
        axes.set_title(title, fontsize=9, loc="left")
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25, linewidth=0.5)
        axes.legend(fontsize=6.5, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
        save(figure, path)
