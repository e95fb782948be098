"""A Trainer for one loss and one course: resumes where it stopped, by step and not by chance."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer, TrainerCallback, TrainingArguments

from clipmapper.training.journal import cut_log
from clipmapper.training.run import last_checkpoint
from relmap.files import write_whole

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


class _Steady(Trainer):
    """Rows in the order they come; the model's own loss; no operations counted."""

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        return 0


class _Clockwork(TrainerCallback):
    """Sets what depends on the step, saves by the clock, writes the log, counts the minutes."""

    def __init__(self, output: Path, pace: Pace, checkpoint: Path | None) -> None:
        self.output, self.pace = output, pace
        self.saved = time.monotonic()
        self.before, step = 0.0, 0  # minutes of earlier parts of the run
        if checkpoint is not None:
            about = json.loads((checkpoint / "complete.json").read_text(encoding="utf-8"))
            self.before, step = about.get("minutes", 0.0), int(checkpoint.name.rpartition("-")[2])
        cut_log(output / "log.jsonl", step)

    @property
    def minutes(self) -> float:
        """Minutes of this part and of those before it, as far as they were kept."""
        return self.before + (time.monotonic() - self.pace.begun) / 60

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.pace.before(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        if time.monotonic() - self.saved > 60 * self.pace.minutes:
            control.should_save = True
        return control

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.saved = time.monotonic()
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        about = {"step": state.global_step, "minutes": self.minutes}
        write_whole(folder / "complete.json", json.dumps(about).encode())

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        if logs and "loss" in logs:
            line = {"step": state.global_step, "time": round(time.time()), **logs}
            with (self.output / "log.jsonl").open("a", encoding="utf-8") as log:
                log.write(json.dumps(line) + "\n")


def train_steadily(
    model: Any, rows: Any, collate: Callable[[Any], Any], output: Path, pace: Pace
) -> float:
    """Trains a model so that every step depends on its number alone; returns the minutes.

    AdamW, gradients clipped at 1; log and checkpoints lie in `output`, and a run that was stopped
    goes on from the last of them, its minutes counted together.
    """
    arguments = TrainingArguments(
        output_dir=str(output / "checkpoints"),
        per_device_train_batch_size=pace.batch_size,
        max_steps=len(rows) // pace.batch_size,
        max_grad_norm=1.0,
        logging_steps=50,
        save_strategy="no",  # the clock decides
        save_total_limit=2,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        train_sampling_strategy="sequential",
        dataloader_drop_last=True,
        dataloader_pin_memory=torch.cuda.is_available(),
        seed=pace.seed,
        bf16=torch.cuda.is_available() and torch.cuda.is_bf16_supported(),
    )
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=pace.learning_rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True
    )
    checkpoint = last_checkpoint(output)
    clock = _Clockwork(output, pace, checkpoint)
    trainer = _Steady(
        model=model,
        args=arguments,
        train_dataset=rows,
        data_collator=collate,
        optimizers=(optimizer, LambdaLR(optimizer, pace.rate)),
        callbacks=[clock],
    )
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    return clock.minutes
