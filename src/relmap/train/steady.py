"""A Trainer for one loss and one course: resumes where it stopped, by step and not by chance."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import SequentialSampler
from transformers import Trainer, TrainerCallback, TrainingArguments

__all__ = ["Pace", "last_checkpoint", "steady_trainer"]


class _Steady(Trainer):
    """Rows in the order they come; the model's own loss; no operations counted."""

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        return 0

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)  # type: ignore[arg-type]


class _Clockwork(TrainerCallback):
    """Sets what depends on the step, saves by the clock, writes the log."""

    def __init__(self, folder: Path, minutes: float, before: Callable[[int], None]) -> None:
        self.folder, self.minutes, self.before = folder, minutes, before
        self.saved = time.monotonic()

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.before(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        if time.monotonic() - self.saved > 60 * self.minutes:
            control.should_save = True
        return control

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.saved = time.monotonic()
        whole = self.folder / f"checkpoint-{state.global_step}" / "complete.json"
        whole.write_text("{}\n", encoding="utf-8")

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        if logs and "loss" in logs:
            line = {"step": state.global_step, "time": round(time.time()), **logs}
            with (self.folder.parent / "log.jsonl").open("a", encoding="utf-8") as log:
                log.write(json.dumps(line) + "\n")


@dataclass(frozen=True)
class Pace:
    """How a run goes along: all of it by the number of the step.

    Attributes:
        batch_size: Rows of a step.
        learning_rate: The highest rate; `rate` gives the share of it at each step.
        before: Called with the step's number before it is made.
        minutes: Between two checkpoints.
        seed: Of whatever the model draws by lot.
    """

    batch_size: int
    learning_rate: float
    rate: Callable[[int], float]
    before: Callable[[int], None]
    minutes: float
    seed: int


def steady_trainer(
    model: Any, rows: Any, collate: Callable[[Any], Any], folder: Path, pace: Pace
) -> Trainer:
    """A Trainer whose every step depends on its number alone; AdamW, gradients clipped at 1."""
    folder.mkdir(parents=True, exist_ok=True)
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=pace.batch_size,
        max_steps=len(rows) // pace.batch_size,
        max_grad_norm=1.0,
        logging_steps=50,
        save_strategy="no",  # the clock decides
        save_total_limit=2,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_drop_last=True,
        dataloader_pin_memory=torch.cuda.is_available(),
        seed=pace.seed,
        bf16=torch.cuda.is_available() and torch.cuda.is_bf16_supported(),
    )
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=pace.learning_rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True
    )
    return _Steady(
        model=model,
        args=arguments,
        train_dataset=rows,
        data_collator=collate,
        optimizers=(optimizer, LambdaLR(optimizer, pace.rate)),
        callbacks=[_Clockwork(folder, pace.minutes, pace.before)],
    )


def last_checkpoint(folder: Path) -> str | None:
    """The latest checkpoint that was written to its end."""
    found = [
        (int(match.group(1)), path)
        for path in folder.glob("checkpoint-*")
        if (match := re.fullmatch(r"checkpoint-(\d+)", path.name))
        and (path / "complete.json").is_file()
    ]
    return str(max(found)[1]) if found else None
