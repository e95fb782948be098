"""Points for interactive segmentation: where a map says yes, and where it says no.

Segmentation models such as SAM take a few pixels of the thing that is meant and a few of what is
not. A relevance map has both: its most and its least relevant patches (CLIP Surgery).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from relmap.errors import InputError
from relmap.result.attribution import Attribution

__all__ = ["Points", "points"]


@dataclass(frozen=True, eq=False)
class Points:
    """Pixels with a yes or no each, the surest first, as SAM's `input_points` and `input_labels`.

    Attributes:
        coordinates: (x, y) of every point, from the left and from the top.
        labels: 1 where the point belongs to what was explained, 0 where it does not.
    """

    coordinates: Float[Tensor, "batch point 2"]
    labels: Int[Tensor, "batch point"]


def points(attribution: Attribution, count: int = 5, size: tuple[int, int] | None = None) -> Points:
    """The centres of the `count` most relevant patches and of the `count` least relevant ones.

    `size` is (width, height) of the picture that the points are for; by default that of the picture
    as the model saw it. Use it with maps that are low where the thing is not ("clip-surgery"); of
    a map without negative evidence only the points with label 1 mean something.

    Raises:
        InputError: there is no image on a grid, or it has fewer than twice as many patches.

    Example:
        >>> import torch
        >>> from relmap import Attribution, Layout, points
        >>> none = torch.zeros(1, 4, dtype=torch.bool)
        >>> grid = Layout(("x",), "image", none, none, grid=(2, 2), patches=torch.arange(4))
        >>> scores = {"x": torch.tensor([[0.1, 0.9, -0.5, 0.2]])}
        >>> found = points(Attribution(scores, {"x": grid}, ("a",), ("a",)), 1, (20, 10))
        >>> found.coordinates.tolist(), found.labels.tolist()
        ([[[15.0, 2.5], [5.0, 7.5]]], [[1, 0]])
    """
    view = attribution.image
    if len(view.grid) != 2:
        raise InputError(f"points lie on one picture, and this is a grid of {view.grid}")
    rows, columns = view.grid
    if not 0 < 2 * count <= rows * columns:
        raise InputError(f"count={count}: the image has {rows * columns} patches for both kinds")
    width, height = _size(attribution) if size is None else size
    order = view.scores.flatten(1).argsort(dim=1, descending=True, stable=True)
    chosen = torch.cat([order[:, :count], order.flip(1)[:, :count]], dim=1)
    row, column = chosen // columns, chosen % columns
    x, y = (column + 0.5) * (width / columns), (row + 0.5) * (height / rows)
    labels = torch.cat([torch.ones(count), torch.zeros(count)]).long()
    return Points(torch.stack([x, y], dim=-1), labels.expand(len(attribution), -1))


def _size(attribution: Attribution) -> tuple[int, int]:
    pictures: Any = attribution.inputs.get("image")
    if pictures is None or len(pictures) == 0:
        raise InputError("the attribution holds no picture to measure: pass size=(width, height)")
    first = pictures[0]
    if isinstance(first, Tensor):
        return int(first.shape[-1]), int(first.shape[-2])
    return first.size
