"""Tensors written into one another, in every legal spelling."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tiny.spelled import WIDTH, fresh, rows

EVERY_SECOND = torch.arange(0, WIDTH, 2)
ZEROS = torch.zeros(())

WRITES = {
    "masked_fill": rows(
        lambda net, x: x.masked_fill(net.closed, 0.0),
        lambda net, x: torch.masked_fill(x, net.closed, 0.0),
        lambda net, x: torch.masked_fill(input=x, mask=net.closed, value=0.0),
        lambda net, x: torch.masked_fill(value=0.0, mask=net.closed, input=x),
        lambda net, x: x.masked_fill(mask=net.closed, value=0.0),
        lambda net, x: x.clone().masked_fill_(net.closed, 0.0),
        lambda net, x: x.clone().masked_fill_(value=0.0, mask=net.closed),
        lambda net, x: torch.where(net.closed, 0.0, x),
        lambda net, x: torch.where(condition=net.closed, input=ZEROS.to(x), other=x),
        lambda net, x: torch.where(other=x, input=ZEROS.to(x), condition=net.closed),
        lambda net, x: x.where(~net.closed, 0.0),
        lambda net, x: x.where(condition=~net.closed, other=ZEROS.to(x)),
        lambda net, x: torch.where(net.closed, ZEROS.to(x), x, out=fresh(x)),
    ),
    "where": rows(
        lambda net, x: torch.where(net.closed, x.flip(-1), x),
        lambda net, x: torch.where(condition=net.closed, input=x.flip(-1), other=x),
        lambda net, x: torch.where(other=x, condition=net.closed, input=x.flip(-1)),
        lambda net, x: x.where(~net.closed, x.flip(-1)),
        lambda net, x: x.where(other=x.flip(-1), condition=~net.closed),
        lambda net, x: x.flip(-1).where(net.closed, x),
    ),
    "index_fill": rows(
        lambda net, x: x.index_fill(-1, EVERY_SECOND, 0.0),
        lambda net, x: torch.index_fill(input=x, dim=-1, index=EVERY_SECOND, value=0.0),
        lambda net, x: torch.index_fill(value=0.0, index=EVERY_SECOND, dim=-1, input=x),
        lambda net, x: x.clone().index_fill_(dim=-1, index=EVERY_SECOND, value=0.0),
    ),
    "index_copy": rows(
        lambda net, x: x.index_copy(-1, EVERY_SECOND, x[..., 1::2]),
        lambda net, x: torch.index_copy(
            input=x, dim=-1, index=EVERY_SECOND, source=x[..., 1::2]
        ),
        lambda net, x: torch.index_copy(
            source=x[..., 1::2], index=EVERY_SECOND, dim=-1, input=x
        ),
        lambda net, x: x.clone().index_copy_(dim=-1, index=EVERY_SECOND, source=x[..., 1::2]),
    ),
    "scatter": rows(
        lambda net, x: x.scatter(-1, EVERY_SECOND.expand(2, 5, 4), x[..., 1::2]),
        lambda net, x: torch.scatter(
            input=x, dim=-1, index=EVERY_SECOND.expand(2, 5, 4), src=x[..., 1::2]
        ),
        lambda net, x: torch.scatter(
            src=x[..., 1::2], index=EVERY_SECOND.expand(2, 5, 4), dim=-1, input=x
        ),
        lambda net, x: x.clone().scatter_(
            dim=-1, index=EVERY_SECOND.expand(2, 5, 4), src=x[..., 1::2]
        ),
    ),
    "masked_scatter": rows(
        lambda net, x: x.masked_scatter(net.closed, x.flip(-1)[..., :3].contiguous()),
        lambda net, x: torch.masked_scatter(
            input=x, mask=net.closed, source=x.flip(-1)[..., :3].contiguous()
        ),
        lambda net, x: x.clone().masked_scatter_(
            source=x.flip(-1)[..., :3].contiguous(), mask=net.closed
        ),
    ),
    "slices": rows(
        lambda net, x: x.slice_scatter(x[..., 4:], -1, 0, 4),
        lambda net, x: torch.slice_scatter(input=x, src=x[..., 4:], dim=-1, start=0, end=4),
        lambda net, x: torch.slice_scatter(end=4, start=0, dim=-1, src=x[..., 4:], input=x),
        lambda net, x: set_item(x.clone(), (..., slice(0, 4)), x[..., 4:]),
        lambda net, x: copy_into(x.clone(), x[..., 4:]),
    ),
    "select_scatter": rows(
        lambda net, x: x.select_scatter(x[..., 1], -1, 0),
        lambda net, x: torch.select_scatter(input=x, src=x[..., 1], dim=-1, index=0),
        lambda net, x: torch.select_scatter(index=0, dim=-1, src=x[..., 1], input=x),
        lambda net, x: set_item(x.clone(), (..., 0), x[..., 1]),
    ),
    "index_put": rows(
        lambda net, x: x.index_put((torch.tensor([0]), torch.tensor([2])), x[:1, 2] * 2),
        lambda net, x: torch.index_put(
            input=x, indices=(torch.tensor([0]), torch.tensor([2])), values=x[:1, 2] * 2
        ),
        lambda net, x: x.clone().index_put_(
            values=x[:1, 2] * 2, indices=(torch.tensor([0]), torch.tensor([2]))
        ),
    ),
    "index_add": rows(
        lambda net, x: x.index_add(-1, EVERY_SECOND, x[..., 1::2]),
        lambda net, x: torch.index_add(input=x, dim=-1, index=EVERY_SECOND, source=x[..., 1::2]),
        lambda net, x: torch.index_add(source=x[..., 1::2], index=EVERY_SECOND, dim=-1, input=x),
        lambda net, x: x.scatter_add(-1, EVERY_SECOND.expand(2, 5, 4), x[..., 1::2]),
        lambda net, x: torch.scatter_add(
            src=x[..., 1::2], index=EVERY_SECOND.expand(2, 5, 4), dim=-1, input=x
        ),
    ),
}  # fmt: skip


def set_item(base: Tensor, where: Any, values: Tensor) -> Tensor:
    """`base[where] = values`."""
    base[where] = values
    return base


def copy_into(base: Tensor, values: Tensor) -> Tensor:
    """`base[..., :4].copy_(values)`, by name."""
    base[..., :4].copy_(other=values)
    return base
