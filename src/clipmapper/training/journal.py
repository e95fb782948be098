"""What happens between the steps of training: log lines, looks at held-out data, checkpoints.

The log has one JSON object per line, the clock counts minutes over all parts of a run that was
interrupted.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from transformers import TrainerCallback

from clipmapper.training.course import Course
from clipmapper.training.recipe import Training
from relmap.files import write_whole

__all__ = ["Clock", "Journal", "cut_log"]

CLOCK_STEPS = 20  # steps between two looks at the clock, on which all processes must agree


class Clock:
    """Minutes and log of a run over all its parts: kept with its checkpoints, taken up from one.

    A checkpoint counts only when the file that says it is complete lies in it.
    """

    def __init__(self, output: Path, begun: float | None = None) -> None:
        self.log = output / "log.jsonl"
        self.started = self.saved = time.monotonic()
        self.started = self.started if begun is None else begun
        self.before, self.step = 0.0, 0  # minutes and steps of earlier parts

    @property
    def minutes(self) -> float:
        """Minutes of this part and of those before it, as far as they were kept."""
        return self.before + (time.monotonic() - self.started) / 60

    def resume(self, checkpoint: Path) -> None:
        """Takes up the clock of a checkpoint, and drops what was logged after it."""
        about = json.loads((checkpoint / "complete.json").read_text(encoding="utf-8"))
        self.before, self.step = about["minutes"], about["step"]
        cut_log(self.log, self.step)

    def is_late(self, minutes: float) -> bool:
        """Whether the last checkpoint was written more than so many minutes ago."""
        return time.monotonic() - self.saved > 60 * minutes

    def complete(self, args: Any, step: int) -> None:
        """Marks the checkpoint of a step as complete."""
        self.saved = time.monotonic()
        about = {"step": step, "minutes": self.minutes}
        folder = Path(args.output_dir) / f"checkpoint-{step}"
        write_whole(folder / "complete.json", json.dumps(about).encode())

    def write(self, entry: Mapping[str, Any]) -> None:
        """One more line of the log."""
        with self.log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")


class Journal(TrainerCallback):
    """Writes the log, looks at the watched examples, and has checkpoints written by the clock."""

    def __init__(
        self,
        output: Path,
        course: Course,
        training: Training,
        look: Callable[[Any], Mapping[str, Any]] | None,
    ) -> None:
        self.output, self.course, self.training, self.look = output, course, training, look
        self.console = Console(stderr=True, highlight=False)
        self.clock = Clock(output)
        self._logged = (time.monotonic(), 0)  # when the last line was written, and at which step

    @property
    def minutes(self) -> float:
        """Minutes of training, of this part and of those before it."""
        return self.clock.minutes

    def resume(self, checkpoint: Path) -> None:
        """Goes on from a checkpoint."""
        self.clock.resume(checkpoint)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The clock starts when the features are there."""
        self.clock.started = self.clock.saved = time.monotonic()
        self._logged = (time.monotonic(), self.clock.step)
        if state.is_world_process_zero and not self.clock.step:
            self.clock.log.unlink(missing_ok=True)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Looks and checkpoints, where they are due."""
        step = state.global_step
        every = max(self.training.evaluate_every // self.training.batch_size, 1)
        due = self.training.evaluate_every and step % every == 0 and step < self.course.steps
        if due and self.look is not None:
            found = self.look(kwargs["model"])
            if state.is_world_process_zero:
                self._write({"step": step, "minutes": round(self.minutes, 3), "watched": found})
        if step % CLOCK_STEPS == 0 and self._time_to_save(args):
            control.should_save = True
        return control

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Marks a checkpoint as complete, once all processes wrote their part of it."""
        if args.world_size > 1:
            torch.distributed.barrier()
        self.clock.saved = time.monotonic()
        if state.is_world_process_zero:
            self.clock.complete(args, state.global_step)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **_: Any
    ) -> None:
        """One line: step, loss, learning rate, speed since the last one."""
        if not logs or "loss" not in logs or not state.is_world_process_zero:
            return
        step = state.global_step
        now = time.monotonic()
        seconds, seen = now - self._logged[0], (step - self._logged[1]) * self.training.batch_size
        self._logged = (now, step)
        self._write(
            {
                "step": step,
                "stage": self.course.leg_at(step - 1).stage.name,
                "samples": step * self.training.batch_size,
                "loss": round(logs["loss"], 6),
                "learning_rate": logs["learning_rate"],
                "gradient": round(float(logs.get("grad_norm") or 0.0), 4),
                "samples_per_second": round(seen / max(seconds, 1e-9), 1),
                "minutes": round(self.minutes, 3),
            }
        )

    def finish(self) -> None:
        """Removes the checkpoints of a run that is done."""
        shutil.rmtree(self.output / "checkpoints", ignore_errors=True)

    def _time_to_save(self, args: Any) -> bool:
        late = self.clock.is_late(self.training.checkpoint_minutes)
        if args.world_size == 1:
            return late
        said = torch.tensor(float(late), device=args.device)
        torch.distributed.broadcast(said, 0)  # clocks differ, but all must save or none
        return bool(said)

    def _write(self, entry: Mapping[str, Any]) -> None:
        self.clock.write(entry)
        shown = " ".join(f"{key} {_short(value)}" for key, value in entry.items())
        self.console.print(f"[{self.course.steps} steps] {shown}", markup=False, soft_wrap=True)


def cut_log(log: Path, step: int) -> None:
    """Drops what was logged after a step, which a run that goes on from there will write again."""
    if log.is_file():
        lines = log.read_text(encoding="utf-8").splitlines()
        kept = [line for line in lines if _step(line) <= step]
        write_whole(log, "".join(f"{line}\n" for line in kept).encode())


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return " ".join(f"{key} {_short(one)}" for key, one in value.items())
    return str(value)


def _step(line: str) -> int:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):  # the line that was being written when it was killed
        return 1 << 62
