"""Top words: a list of the most relevant tokens, as a drawing and as a text file."""

from pathlib import Path
from typing import Any

from relmap import Attribution
from relmap.files import draws, write_whole, writes

COUNT = 5


@writes(Attribution, ".txt")
def write_words(attribution: Attribution, path: Path) -> None:
    """One line for each example and source: the most relevant tokens, the best first."""
    lines = [
        f"{example.target[0]}\t{name}\t" + " ".join(_labels(example, name))
        for example in attribution
        for name in example.scores
    ]
    write_whole(path, ("\n".join(lines) + "\n").encode())


@draws(Attribution, "top-words")
def draw_words(attribution: Attribution, path: Path | None = None) -> Any:
    """A bar for each of the most relevant tokens of the first source of the first example."""
    from matplotlib.figure import Figure

    name = next(iter(attribution.scores))
    best = attribution[0].top(name, COUNT)[0]
    figure = Figure(figsize=(4, 2))
    axes = figure.add_subplot()
    axes.barh([label for _, label, _ in best][::-1], [score for *_, score in best][::-1])
    axes.set_title(attribution.target[0])
    if path is not None:
        figure.savefig(path, bbox_inches="tight")
    return figure


def _labels(example: Attribution, name: str) -> list[str]:
    return [label for _, label, _ in example.top(name, COUNT)[0]]
