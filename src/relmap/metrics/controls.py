"""Controls: maps that know nothing of the model, beside which a metric's number means something.

A method that does not beat random relevance has found nothing; one that does not beat a blob at
the centre has found that photographers centre their objects. (A *baseline* is another thing: the
neutral input that some methods start from.)
"""

import torch
from jaxtyping import Float
from torch import Tensor

from relmap.errors import InputError

__all__ = ["centre_blob", "random_map"]


def random_map(
    batch: int, rows: int, columns: int, *, seed: int = 0
) -> Float[Tensor, "batch rows columns"]:
    """Independent uniform relevance for every patch, the same for the same seed.

    In expectation its energy is exactly the share of the image that the mask covers.

    Raises:
        InputError: If a size is not positive.

    Example:
        >>> random_map(2, 14, 14, seed=1).shape
        torch.Size([2, 14, 14])
    """
    _check_sizes(batch, rows, columns)
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, rows, columns, generator=generator)


def centre_blob(
    batch: int, rows: int, columns: int, *, spread: float = 0.25
) -> Float[Tensor, "batch rows columns"]:
    """A Gaussian blob at the centre of the image, the same for every example.

    S[y, x] = exp(-((y - cy) / h)² / 2s² - ((x - cx) / w)² / 2s²), with (cy, cx) the centre, h and
    w the sides, and s the `spread`, a share of the side.

    Raises:
        InputError: If a size or the spread is not positive.

    Example:
        >>> [round(value, 2) for value in centre_blob(1, 1, 3)[0, 0].tolist()]
        [0.41, 1.0, 0.41]
    """
    _check_sizes(batch, rows, columns)
    if not spread > 0:
        raise InputError(f"spread is a share of the side, more than 0; got {spread}")
    down = (torch.arange(rows) - (rows - 1) / 2) / rows
    across = (torch.arange(columns) - (columns - 1) / 2) / columns
    squared = down[:, None] ** 2 + across[None, :] ** 2
    return torch.exp(-squared / (2 * spread**2)).expand(batch, -1, -1).clone()


def _check_sizes(batch: int, rows: int, columns: int) -> None:
    if min(batch, rows, columns) < 1:
        raise InputError(f"a control needs positive sizes, got {batch} x {rows} x {columns}")
