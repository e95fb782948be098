"""Data movement, in every legal spelling."""

from __future__ import annotations

import operator

import torch
from torch.nn import functional as F

from tiny.spelled import WIDTH, fresh, rows

MOVEMENT = {
    "axes": rows(
        lambda net, x: x.transpose(1, 2).transpose(1, 2),
        lambda net, x: torch.transpose(torch.transpose(x, 1, 2), dim0=2, dim1=1),
        lambda net, x: torch.transpose(dim1=1, dim0=2, input=x.transpose(1, 2)),
        lambda net, x: torch.swapaxes(input=x.transpose(1, 2), axis0=2, axis1=1),
        lambda net, x: torch.permute(torch.permute(input=x, dims=(0, 2, 1)), (0, 2, 1)),
        lambda net, x: x.permute(0, 2, 1).permute(dims=(0, 2, 1)),
        lambda net, x: torch.movedim(torch.movedim(x, 1, 2), source=2, destination=1),
        lambda net, x: torch.moveaxis(input=x.mT, source=1, destination=2),
        lambda net, x: x.clone().transpose_(1, 2).transpose_(dim0=1, dim1=2),
    ),
    "shapes": rows(
        lambda net, x: x.flatten(1).reshape(x.shape),
        lambda net, x: torch.reshape(torch.flatten(x, 1), x.shape),
        lambda net, x: torch.reshape(shape=x.shape, input=torch.flatten(input=x, start_dim=1)),
        lambda net, x: x.flatten(start_dim=1).view(size=x.shape),
        lambda net, x: x.view(-1).unflatten(0, x.shape),
        lambda net, x: torch.unflatten(input=x.flatten(), dim=0, sizes=x.shape),
        lambda net, x: torch.squeeze(input=torch.unsqueeze(input=x, dim=1), dim=1),
        lambda net, x: torch.squeeze(torch.unsqueeze(x, -1), -1),
        lambda net, x: x.clone().unsqueeze_(dim=0).squeeze_(0),
    ),
    "roll": rows(
        lambda net, x: x.roll(3, -1),
        lambda net, x: torch.roll(x, 3, -1),
        lambda net, x: torch.roll(input=x, shifts=3, dims=-1),
        lambda net, x: torch.roll(dims=-1, input=x, shifts=3),
        lambda net, x: x.roll(shifts=(3,), dims=(-1,)),
        lambda net, x: torch.cat([x[..., -3:], x[..., :-3]], -1),
    ),
    "flip": rows(
        lambda net, x: x.flip(-1),
        lambda net, x: torch.flip(input=x, dims=(-1,)),
        lambda net, x: x.flip(dims=(-1,)),
        lambda net, x: x.flip((-1,)),
    ),
    "indices": rows(
        lambda net, x: x[..., torch.arange(WIDTH).flip(0)],
        lambda net, x: operator.getitem(x, (..., torch.arange(WIDTH).flip(0))),
        lambda net, x: x.index_select(-1, torch.arange(WIDTH).flip(0)),
        lambda net, x: torch.index_select(dim=-1, index=torch.arange(WIDTH).flip(0), input=x),
        lambda net, x: torch.gather(x, -1, torch.arange(WIDTH).flip(0).expand(x.shape)),
        lambda net, x: torch.gather(
            index=torch.arange(WIDTH).flip(0).expand(x.shape), dim=-1, input=x
        ),
        lambda net, x: torch.take_along_dim(
            input=x, indices=torch.arange(WIDTH).flip(0).expand(x.shape), dim=-1
        ),
        lambda net, x: torch.index_select(x, -1, torch.arange(WIDTH).flip(0), out=fresh(x)),
    ),
    "pieces": rows(
        lambda net, x: torch.cat(x.split(4, -1)[::-1], -1),
        lambda net, x: torch.cat(torch.split(x, 4, -1)[::-1], -1),
        lambda net, x: torch.cat(torch.split(tensor=x, split_size_or_sections=4, dim=-1)[::-1], -1),
        lambda net, x: torch.cat(torch.chunk(input=x, chunks=2, dim=-1)[::-1], -1),
        lambda net, x: torch.cat(x.chunk(dim=-1, chunks=2)[::-1], -1),
        lambda net, x: torch.cat([torch.narrow(input=x, dim=-1, start=4, length=4),
                                  x.narrow(-1, 0, 4)], -1),
        lambda net, x: torch.cat(torch.tensor_split(input=x, sections=2, dim=-1)[::-1], -1),
    ),
    "unbind": rows(
        lambda net, x: torch.stack([part * 2 for part in x.unbind(1)], 1),
        lambda net, x: torch.stack([part * 2 for part in torch.unbind(input=x, dim=1)], 1),
        lambda net, x: torch.stack([part * 2 for part in x.unbind(dim=1)], 1),
        lambda net, x: torch.stack([x.select(1, i) * 2 for i in range(x.shape[1])], 1),
        lambda net, x: torch.stack(
            [torch.select(input=x, dim=1, index=i) * 2 for i in range(x.shape[1])], 1
        ),
    ),
    "pad": rows(
        lambda net, x: F.pad(x, (2, 0))[..., :WIDTH],
        lambda net, x: F.pad(input=x, pad=(2, 0))[..., :WIDTH],
        lambda net, x: F.pad(mode="constant", pad=(2, 0), value=0.0, input=x)[..., :WIDTH],
    ),
    "repeat": rows(
        lambda net, x: x.repeat_interleave(2, -1)[..., ::2],
        lambda net, x: torch.repeat_interleave(input=x, repeats=2, dim=-1)[..., ::2],
        lambda net, x: torch.repeat_interleave(dim=-1, repeats=2, input=x)[..., ::2],
        lambda net, x: x.repeat(1, 1, 2)[..., :WIDTH],
        lambda net, x: torch.tile(input=x, dims=(1, 1, 2))[..., :WIDTH],
        lambda net, x: torch.broadcast_to(input=x[None], size=(3, *x.shape))[1],
        lambda net, x: x[None].expand(size=(3, -1, -1, -1))[2],
    ),
}  # fmt: skip

CONCATENATION = {
    "features": rows(
        lambda net, x: torch.cat([x[..., 4:], x[..., :4]], -1),
        lambda net, x: torch.cat(tensors=[x[..., 4:], x[..., :4]], dim=-1),
        lambda net, x: torch.cat(dim=-1, tensors=(x[..., 4:], x[..., :4])),
        lambda net, x: torch.concat(tensors=(x[..., 4:], x[..., :4]), dim=-1),
        lambda net, x: torch.concatenate((x[..., 4:], x[..., :4]), axis=-1),
        lambda net, x: torch.cat((x[..., 4:], x[..., :4]), axis=-1),
        lambda net, x: torch.cat([x[..., 4:], x[..., :4]], -1, out=fresh(x)),
    ),
    "tokens": rows(
        lambda net, x: torch.cat([x[:, :3], x[:, 3:]], 1),
        lambda net, x: torch.cat(tensors=[x[:, :3], x[:, 3:]], dim=1),
        lambda net, x: torch.hstack([x[:, :3], x[:, 3:]]),
        lambda net, x: torch.hstack(tensors=(x[:, :3], x[:, 3:])),
        lambda net, x: torch.vstack(
            tensors=[x.transpose(0, 1)[:3], x.transpose(0, 1)[3:]]
        ).transpose(0, 1),
    ),
    "stack": rows(
        lambda net, x: torch.stack([x[..., 4:], x[..., :4]], -2).flatten(-2),
        lambda net, x: torch.stack(tensors=(x[..., 4:], x[..., :4]), dim=-2).flatten(-2),
        lambda net, x: torch.stack(dim=-2, tensors=[x[..., 4:], x[..., :4]]).flatten(-2),
        lambda net, x: torch.stack(
            [x[..., 4:], x[..., :4]], -2, out=fresh(x, *x.shape[:2], 2, 4)
        ).flatten(-2),
    ),
}  # fmt: skip
