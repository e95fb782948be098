"""Evaluation's own cost: a perturbation test beside the forward passes that it cannot do without.

    python benchmarks/evaluation_cost.py MODEL FOLDER --count 40 --rounds 3

For every batch of pictures in FOLDER it measures, in turn and in CPU time of one thread, the whole
evaluation (explaining by one method, perturbing, reading the answers) and its necessary part: the
distinct perturbed inputs through the network, in batches of the same size, and one forward and
backward pass to the embeddings. Also the share of the evaluation that is spent inside the
network's forward and the explanation's backward. Opening and preparing pictures is left out.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import torch

import relmap
from relmap.data import DATA
from relmap.evaluation import Plan, Settings, read_method, read_metric
from relmap.evaluation.judging import Batch, _judge_method, _ready

clock = time.process_time


@contextmanager
def inside(network: torch.nn.Module) -> Iterator[list[float]]:
    """Seconds inside the network's forward and inside autograd, while the block lasts."""
    spent, begun = [0.0], [0.0]
    grad = torch.autograd.grad

    def before(*_: Any, **__: Any) -> None:
        begun[0] = clock()

    def after(*_: Any, **__: Any) -> None:
        spent[0] += clock() - begun[0]

    def timed(*args: Any, **kwargs: Any) -> Any:
        start = clock()
        try:
            return grad(*args, **kwargs)
        finally:
            spent[0] += clock() - start

    first = network.register_forward_pre_hook(before, with_kwargs=True)
    last = network.register_forward_hook(after, with_kwargs=True)
    torch.autograd.grad = timed
    try:
        yield spent
    finally:
        torch.autograd.grad = grad
        first.remove()
        last.remove()


def necessary(network: torch.nn.Module, pixels: torch.Tensor, rows: int, size: int) -> float:
    """Seconds of the perturbed forwards, and of one forward and backward to the embeddings."""
    start = clock()
    with torch.no_grad():
        for begin in range(0, rows, size):
            many = min(size, rows - begin)
            network(pixel_values=pixels[torch.arange(many) % len(pixels)])
    given = pixels.clone().requires_grad_()
    logits = network(pixel_values=given).logits
    torch.autograd.grad(logits.amax(dim=1).sum(), given)
    return clock() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--method", default="genatt")
    parser.add_argument("--preset", default="chefer-vit")
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--batch", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    model = relmap.load(given.model)
    model.network.requires_grad_(False)
    samples = [one.example() for one in DATA.get("image-folder").function(given.folder)]
    plan = Plan(
        (read_method(given.method),),
        (read_metric(f"perturbation:preset={given.preset}"),),
        Settings(batch_size=given.batch),
    )
    numbered = enumerate(islice(samples, given.count))
    prepared: list[Batch] = []
    while few := list(islice(numbered, given.batch)):
        prepared += _ready(model, few, [])
    ratios, shares = [], []
    for batch in prepared:
        pixels = batch.arguments["pixel_values"]
        for _ in range(given.rounds):
            fresh = Batch(batch.numbered, batch.arguments)
            with inside(model.network) as spent:
                start = clock()
                _judge_method(model, fresh, plan.methods[0], plan)
                whole = clock() - start
            assert fresh.subject is not None
            rows = len(fresh.subject.known) - len(batch.numbered)
            ratios.append(whole / necessary(model.network, pixels, rows, given.batch))
            shares.append(spent[0] / whole)
    low, middle, high = statistics.quantiles(ratios, n=4)
    print(f"{given.method}, {given.preset}, {given.count} pictures, batches of {given.batch}:")
    print(f"evaluation / necessary passes: {middle:.3f} (quartiles {low:.3f} to {high:.3f})")
    print(f"share inside forward and backward: {statistics.median(shares):.3f}")


if __name__ == "__main__":
    main()
