"""Sums and functions of single numbers, in every legal spelling."""

from __future__ import annotations

import operator

import torch
from torch.nn import functional as F

from tiny.spelled import fresh, rows, ways

ADDITIONS = {
    "add": ways(
        lambda net, x, y: x + y,
        lambda net, x, y: torch.add(x, y),
        lambda net, x, y: torch.add(input=x, other=y),
        lambda net, x, y: torch.add(other=y, input=x),
        lambda net, x, y: x.add(y),
        lambda net, x, y: x.add(other=y),
        lambda net, x, y: operator.add(x, y),
        lambda net, x, y: y.__radd__(x),
        lambda net, x, y: x.clone().add_(y),
        lambda net, x, y: x.clone().add_(other=y),
        lambda net, x, y: operator.iadd(x.clone(), y),
        lambda net, x, y: torch.add(x, y, out=fresh(x)),
        lambda net, x, y: torch.add(input=x, other=y, out=fresh(x, 1, *x.shape)[0]),
        lambda net, x, y: torch.add(x, y / 2, alpha=2),
        lambda net, x, y: torch.add(alpha=2, other=y / 2, input=x),
    ),
    "sub": ways(
        lambda net, x, y: x - y,
        lambda net, x, y: torch.sub(x, y),
        lambda net, x, y: torch.sub(other=y, input=x),
        lambda net, x, y: torch.subtract(input=x, other=y),
        lambda net, x, y: x.sub(other=y),
        lambda net, x, y: x.clone().sub_(y),
        lambda net, x, y: torch.rsub(y, x),
        lambda net, x, y: torch.rsub(input=y, other=x),
        lambda net, x, y: y.__rsub__(x),
        lambda net, x, y: operator.isub(x.clone(), y),
        lambda net, x, y: torch.sub(x, y, out=fresh(x)),
    ),
    "a constant": rows(
        lambda net, x: x + net.scale,
        lambda net, x: torch.add(other=net.scale, input=x),
        lambda net, x: net.scale + x,
        lambda net, x: torch.add(input=net.scale, other=x),
        lambda net, x: x.__radd__(net.scale),
        lambda net, x: x.clone().add_(net.scale),
    ),
}

SUMS = {
    "lerp": ways(
        lambda net, x, y: torch.lerp(x, y, 0.5),
        lambda net, x, y: torch.lerp(input=x, end=y, weight=0.5),
        lambda net, x, y: torch.lerp(weight=0.5, end=y, input=x),
        lambda net, x, y: x.lerp(y, 0.5),
        lambda net, x, y: x.lerp(end=y, weight=0.5),
        lambda net, x, y: x.clone().lerp_(y, 0.5),
        lambda net, x, y: torch.lerp(x, y, 0.5, out=fresh(x)),
    ),
    "addcmul": ways(
        lambda net, x, y: torch.addcmul(x, y, net.scale, value=0.5),
        lambda net, x, y: torch.addcmul(input=x, tensor1=y, tensor2=net.scale, value=0.5),
        lambda net, x, y: torch.addcmul(value=0.5, tensor2=net.scale, tensor1=y, input=x),
        lambda net, x, y: x.addcmul(y, net.scale, value=0.5),
        lambda net, x, y: x.addcmul(tensor1=y, tensor2=net.scale, value=0.5),
        lambda net, x, y: x.clone().addcmul_(y, net.scale, value=0.5),
    ),
    "a stack": ways(
        lambda net, x, y: torch.stack([x, y]).sum(0),
        lambda net, x, y: torch.stack(tensors=[x, y], dim=0).sum(dim=0),
        lambda net, x, y: torch.sum(dim=0, input=torch.stack(dim=0, tensors=(x, y))),
        lambda net, x, y: torch.sum(torch.stack([x, y]), axis=0),
        lambda net, x, y: torch.stack([x, y], -1).sum(axis=-1),
    ),
}

GATES = {
    "mul": rows(
        lambda net, x: x * net.scale,
        lambda net, x: torch.mul(x, net.scale),
        lambda net, x: torch.mul(input=x, other=net.scale),
        lambda net, x: torch.multiply(other=net.scale, input=x),
        lambda net, x: torch.mul(input=net.scale, other=x),
        lambda net, x: x.mul(other=net.scale),
        lambda net, x: x.__rmul__(net.scale),
        lambda net, x: x.clone().mul_(net.scale),
        lambda net, x: operator.imul(x.clone(), net.scale),
        lambda net, x: torch.mul(x, net.scale, out=fresh(x)),
    ),
    "div": rows(
        lambda net, x: x / 2,
        lambda net, x: torch.div(input=x, other=2),
        lambda net, x: torch.true_divide(x, 2),
        lambda net, x: x.div(other=2),
        lambda net, x: x.clone().div_(2),
        lambda net, x: operator.itruediv(x.clone(), 2),
        lambda net, x: torch.div(x, torch.tensor(2.0).to(x), out=fresh(x)),
    ),
    "relu": rows(
        lambda net, x: F.relu(x),
        lambda net, x: F.relu(input=x),
        lambda net, x: torch.relu(input=x),
        lambda net, x: x.relu(),
        lambda net, x: x.clone().relu_(),
        lambda net, x: F.relu(x.clone(), inplace=True),
        lambda net, x: F.relu(x.clone(), True),
        lambda net, x: F.relu(inplace=True, input=x.clone()),
        lambda net, x: torch.relu_(x.clone()),
    ),
    "tanh": rows(
        lambda net, x: x.tanh(),
        lambda net, x: torch.tanh(input=x),
        lambda net, x: x.clone().tanh_(),
        lambda net, x: torch.tanh(x, out=fresh(x)),
    ),
    "gelu": rows(
        lambda net, x: F.gelu(x, approximate="tanh"),
        lambda net, x: F.gelu(approximate="tanh", input=x),
    ),
    "leaky relu": rows(
        lambda net, x: F.leaky_relu(x, 0.2),
        lambda net, x: F.leaky_relu(negative_slope=0.2, input=x),
        lambda net, x: F.leaky_relu(x.clone(), 0.2, True),
        lambda net, x: F.leaky_relu(input=x.clone(), negative_slope=0.2, inplace=True),
    ),
    "clamp": rows(
        lambda net, x: x.clamp(-1, 1),
        lambda net, x: torch.clamp(input=x, min=-1, max=1),
        lambda net, x: torch.clip(x, max=1, min=-1),
        lambda net, x: x.clone().clamp_(min=-1, max=1),
    ),
    "pow": rows(
        lambda net, x: x**2,
        lambda net, x: torch.pow(x, 2),
        lambda net, x: torch.pow(input=x, exponent=2),
        lambda net, x: x.pow(exponent=2),
        lambda net, x: x.clone().pow_(2),
        lambda net, x: operator.ipow(x.clone(), 2),
    ),
    "dropout": rows(
        lambda net, x: F.dropout(x, 0.3, False),
        lambda net, x: F.dropout(input=x, p=0.3, training=False),
        lambda net, x: F.dropout(training=False, input=x.clone(), inplace=True),
        lambda net, x: F.dropout(x.clone(), 0.3, False, True),
    ),
}
