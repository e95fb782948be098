"""Does memory grow with the number of examples? An evaluation of many generated pictures.

    python benchmarks/evaluation_memory.py --count 20000

Pictures are made one by one and never kept; a tiny random network is explained and perturbed.
Prints the resident memory of the process as it goes.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import torch
from transformers import ViTConfig, ViTForImageClassification

import relmap
from relmap.evaluation import Plan, Settings, Source, read_method, read_metric, run


def pictures(count: int) -> Iterator[relmap.Example]:
    """Random pictures, each seeded by its number."""
    for at in range(count):
        image = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(at))
        yield relmap.Example(str(at), image=image)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--batch", type=int, default=100)
    given = parser.parse_args()
    torch.set_num_threads(1)
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        image_size=32, patch_size=8, num_labels=5,
    )  # fmt: skip
    process, done, seen = psutil.Process(), [0], []

    def progress(examples: int, _: int | None) -> None:
        done[0] += examples
        if done[0] % (given.count // 10) < examples:
            seen.append(process.memory_info().rss / 2**20)
            print(f"{done[0]:6d} examples: {seen[-1]:.0f} MB", flush=True)

    plan = Plan(
        (read_method("genatt"), read_method("rollout")),
        (read_metric("perturbation:fill=image-mean,measure=probability"),),
        Settings(batch_size=given.batch),
    )
    with tempfile.TemporaryDirectory() as folder:
        network = ViTForImageClassification(config).eval()
        found = run(network, Source(pictures(given.count)), plan, Path(folder), progress=progress)
        after = process.memory_info().rss / 2**20
    print(f"tables of {found.cells[0].examples} examples made: {after:.0f} MB")


if __name__ == "__main__":
    main()
