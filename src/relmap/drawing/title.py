"""The title of one example: what was explained, what the model said, and how it was explained."""

from relmap.drawing.colours import FAINT
from relmap.drawing.page import MARGIN, WIDTH, Area, Block, fit
from relmap.result.attribution import Attribution

BIG, SMALL = 11.0, 8.0


def title(example: Attribution) -> Block:
    """Two lines: the target in bold, then method, backward, model and the model's own answer."""
    room = WIDTH - 2 * MARGIN
    first = fit(example.target[0], BIG, room, "bold")
    second = fit(" · ".join(_provenance(example)), SMALL, room)

    def paint(area: Area) -> None:
        area.text(0.0, 0.1, first, BIG, weight="bold")
        area.text(0.0, 0.31, second, SMALL, color=FAINT)

    return Block(0.48, paint)


def _provenance(example: Attribution) -> list[str]:
    meta, prediction = example.meta, example.prediction[0]
    parts = [f"method {meta['method']}"] if meta.get("method") else []
    if meta.get("backward") not in (None, "gradient"):
        parts.append(f"backward {meta['backward']}")
    options = meta.get("options") or {}
    chosen = meta.get("chosen", options)  # the defaults would only crowd the line
    parts += [f"{name}={value}" for name, value in options.items() if name in chosen]
    if isinstance(meta.get("model"), str) and meta["model"]:
        parts.append("model " + meta["model"].rstrip("/").rsplit("/", 1)[-1])
    if prediction and prediction != example.target[0]:
        parts.append(f"the model says {prediction}")
    if meta.get("approximate"):
        parts.append("approximate")
    return parts
