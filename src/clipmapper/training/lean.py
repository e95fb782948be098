"""The Trainer of transformers without what costs time: shared by all that is trained here.

Rows come in the order in which the data set has them, on one device for each process; nothing is
reported, counted or saved unless a callback asks for it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import Trainer, TrainingArguments

__all__ = ["LeanTrainer", "lean_arguments"]


class LeanTrainer(Trainer):
    """A Trainer that counts no floating-point operations, which costs a tenth of a step."""

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Not counted."""
        return 0


class _OneDevice(TrainingArguments):
    """Arguments of a process that trains on one device: several are for `accelerate launch`."""

    __no_type_check__ = True  # defaults of transformers' own are not of the types that it declares

    @property
    def n_gpu(self) -> int:
        """One at the most."""
        return min(super().n_gpu, 1)


def lean_arguments(output: Path, **settings: Any) -> TrainingArguments:
    """Trainer's arguments: checkpoints in `output`, two at the most, when the clock asks for them.

    `settings` are further fields of TrainingArguments.
    """
    return _OneDevice(
        output_dir=str(output / "checkpoints"),
        save_strategy="no",  # the clock decides, see journal
        save_total_limit=2,
        eval_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        train_sampling_strategy="sequential",
        dataloader_drop_last=True,
        **settings,
    )
