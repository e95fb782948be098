"""How much is computed: matrix products, counted below autograd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode


class Products(TorchDispatchMode):
    """Counts matrix products and fused attentions as they are computed."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name()
        self.count += any(part in name for part in ("addmm", "::mm", "bmm", "attention"))
        return function(*args, **(kwargs or {}))


def products(run: Callable[[], Any]) -> int:
    """The products that a function computes."""
    with Products() as counted:
        run()
    return counted.count
