"""The same evaluation on many machines: batches judged by workers of a Ray cluster.

Each worker holds the model and is sent batches; rows come back to the driver, which writes them as
it would its own. Which batch a number belongs to is fixed before anything is sent, so neither the
number of workers nor their deaths change the results: what a lost worker had not handed back is
sent to another.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from relmap.errors import MissingExtraError
from relmap.evaluation.engine import Engine, Part
from relmap.evaluation.judging import judge
from relmap.evaluation.plan import Plan
from relmap.models import Model

__all__ = ["on_ray"]


class Worker:
    """Holds the model of an evaluation, and judges the batches it is sent."""

    def __init__(self, model: Any, plan: Plan, threads: int) -> None:
        torch.set_num_threads(threads)
        self.model: Model = model
        self.plan = plan

    def __call__(self, block: dict[str, Any]) -> dict[str, Any]:
        """Judge the batches of a block; they travel as bytes, since their rows are ragged."""
        return {"part": [self.judge(content) for content in block["part"]]}

    def judge(self, content: bytes) -> bytes:
        """One batch with its rows."""
        part: Part = pickle.loads(content)
        rows = judge(self.model, part.numbered, self.plan, part.known)
        return pickle.dumps(replace(part, rows=rows, numbered=()))


def on_ray(address: str | None = None, *, workers: int = 2, gpus: float = 0) -> Engine:
    """An engine for `relmap.evaluate` that sends batches to a Ray cluster.

    `address` is a cluster's ("auto", "ray://host:10001"); without one a cluster of this machine
    is started. Each of the `workers` holds the model once and takes `gpus` of a GPU. All batches
    are handed to the cluster at once: files are named, not read, so that this is small.

    Raises:
        MissingExtraError: Ray is not installed.

    Example:
        >>> engine = on_ray(workers=4)  # relmap.evaluate(..., engine=engine)
    """
    return partial(_run_on_ray, address=address, workers=workers, gpus=gpus)


def _run_on_ray(
    model: Model, waiting: Iterable[Part], plan: Plan, *, address: str | None, workers: int,
    gpus: float,
) -> Iterator[Part]:  # fmt: skip
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingExtraError("ray") from error
    parts = [{"part": pickle.dumps(part)} for part in waiting]
    if not parts:
        return
    if not ray.is_initialized():
        ray.init(address=address, include_dashboard=False, log_to_driver=False)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    # A worker that is lost is started again, and what it had is judged again, however often.
    context.max_errored_blocks = 0
    judged = ray.data.from_items(parts, override_num_blocks=len(parts)).map_batches(
        Worker,
        fn_constructor_args=(model, plan, torch.get_num_threads()),
        batch_size=1,
        concurrency=workers,
        num_gpus=gpus,
        max_restarts=-1,
        max_task_retries=-1,
    )
    for row in judged.iter_rows():
        yield pickle.loads(row["part"])
