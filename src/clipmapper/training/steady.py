"""A Trainer for one loss and one course: resumes where it stopped, by step and not by chance."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerCallback

from clipmapper.training.journal import Clock, cut_log
from clipmapper.training.lean import LeanTrainer, lean_arguments
from clipmapper.training.run import last_checkpoint

__all__ = ["Pace", "train_steadily"]


@dataclass(frozen=True)
class Pace:
    """How a run goes along: all of it by the number of the step.

    Attributes:
        batch_size: Rows of a step.
        learning_rate: The highest rate; `rate` gives the share of it at each step.
        before: Called with the step's number before it is made.
        minutes: Between two checkpoints.
        seed: Of whatever the model draws by lot.
        begun: When this part of the run began, on the monotonic clock.
    """

    batch_size: int
    learning_rate: float
    rate: Callable[[int], float]
    before: Callable[[int], None]
    minutes: float
    seed: int
    begun: float


class _Steps(TrainerCallback):
    """Sets what depends on the step, saves by the clock, writes the log."""

    def __init__(self, clock: Clock, pace: Pace) -> None:
        self.clock, self.pace = clock, pace

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.pace.before(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        if self.clock.is_late(self.pace.minutes):
            control.should_save = True
        return control

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.clock.complete(args, state.global_step)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        if logs and "loss" in logs:
            self.clock.write({"step": state.global_step, "time": round(time.time()), **logs})


def train_steadily(
    model: Any, rows: Any, collate: Callable[[Any], Any], output: Path, pace: Pace
) -> float:
    """Trains a model so that every step depends on its number alone; returns the minutes.

    AdamW, gradients clipped at 1; log and checkpoints lie in `output`, and a run that was stopped
    goes on from the last of them, its minutes counted together.
    """
    arguments = lean_arguments(
        output,
        per_device_train_batch_size=pace.batch_size,
        max_steps=len(rows) // pace.batch_size,
        max_grad_norm=1.0,
        logging_steps=50,
        dataloader_pin_memory=torch.cuda.is_available(),
        seed=pace.seed,
        bf16=torch.cuda.is_available() and torch.cuda.is_bf16_supported(),
    )
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=pace.learning_rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True
    )
    checkpoint = last_checkpoint(output)
    clock = Clock(output, pace.begun)
    if checkpoint is None:
        cut_log(clock.log, 0)
    else:
        clock.resume(checkpoint)
    trainer = LeanTrainer(
        model=model,
        args=arguments,
        train_dataset=rows,
        data_collator=collate,
        optimizers=(optimizer, LambdaLR(optimizer, pace.rate)),
        callbacks=[_Steps(clock, pace)],
    )
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    return clock.minutes
