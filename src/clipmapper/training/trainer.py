"""The Trainer of transformers, made lean, and told by a course what comes when.

A small mapper takes milliseconds per step, so everything around a step counts: batches come whole
from the cache, nothing is logged between intervals, and nobody is asked for the number of
floating-point operations.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerCallback, TrainingArguments

from clipmapper.training.examples import Examples
from clipmapper.training.lean import LeanTrainer, lean_arguments
from clipmapper.training.recipe import Recipe, Training
from clipmapper.training.run import Run, check_device, save_model
from relmap.errors import InputError

__all__ = ["MapperTrainer", "make_arguments", "make_trainer"]


class MapperTrainer(LeanTrainer):
    """A Trainer that keeps the course's order and weighs words alike over processes."""

    loss_name = "binary"

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The model's own loss, or cross-entropy with soft targets."""
        if self.loss_name == "cross-entropy":
            wanted = inputs["labels"]
            given = {name: value for name, value in inputs.items() if name != "labels"}
            outputs = model(**given)
            share = wanted / wanted.sum(-1, keepdim=True).clamp(min=1e-6)
            loss = -(share * functional.log_softmax(outputs.logits.float(), -1)).sum(-1).mean()
        else:
            outputs = model(**inputs)
            loss = outputs.loss
        if inputs["labels"].dtype == torch.int64 and self.args.world_size > 1:
            loss = loss * self._share_of_words(inputs["labels"])
        return (loss, outputs) if return_outputs else loss

    def _share_of_words(self, labels: Tensor) -> Tensor:
        """This process's words over the mean of all: its loss is a mean over its own words."""
        words = (labels[:, 1:] != -100).sum()
        everywhere = self.accelerator.reduce(words, reduction="mean")
        return words / everywhere  # type: ignore[operator]

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """The mapper alone, without the frozen CLIP, by the first process."""
        if self.args.should_save:
            save_model(self.model, None, Path(output_dir or self.args.output_dir or "."))


def make_arguments(run: Run, recipe: Recipe) -> TrainingArguments:
    """Trainer's arguments: everything off that costs time or talks to others.

    Raises:
        InputError: The device is unknown, or the batch cannot be divided among the processes.
    """
    check_device(run.device)
    on_gpu = torch.cuda.is_available() and run.device != "cpu"
    training = recipe.training
    half = training.precision == "bfloat16" or (
        training.precision == "auto" and on_gpu and torch.cuda.is_bf16_supported()
    )
    arguments = lean_arguments(
        run.output,
        use_cpu=not on_gpu,
        bf16=half,
        seed=run.seed,
        max_grad_norm=training.gradient_clip,
        logging_steps=training.log_every,
        logging_nan_inf_filter=False,
        label_names=["labels"],
        dataloader_num_workers=run.workers if on_gpu else 0,
        dataloader_pin_memory=on_gpu,
        ddp_timeout=6 * 3600,  # one process may evaluate or encode for long
    )
    processes = arguments.world_size
    if training.batch_size % processes:
        raise InputError(
            f"batches of {training.batch_size} cannot be cut for {processes} processes"
        )
    arguments.per_device_train_batch_size = training.batch_size // processes
    # a mapper's last layer may have weights that the read-out does not depend on
    arguments.ddp_find_unused_parameters = processes > 1
    return arguments


def make_trainer(
    model: Any,
    arguments: TrainingArguments,
    examples: Examples,
    recipe: Recipe,
    callbacks: list[TrainerCallback],
) -> MapperTrainer:
    """A Trainer over examples that follow a course."""
    from transformers.trainer_callback import PrinterCallback

    course = examples.course
    if course is None:
        raise ValueError("examples to train on follow a course")
    arguments.max_steps = course.steps
    optimizer = _optimizer(model, recipe.training)
    # a plain function is left out of the schedule's checkpoints, a method would be pickled
    rate = LambdaLR(optimizer, lambda step: course.learning_rate(step))
    trainer = MapperTrainer(
        model=model,
        args=arguments,
        train_dataset=examples,
        data_collator=_as_it_is,  # type: ignore[arg-type]
        optimizers=(optimizer, rate),
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.loss_name = recipe.training.loss
    trainer.model_accepts_loss_kwargs = False
    return trainer


def _optimizer(model: Any, training: Training) -> torch.optim.Optimizer:
    """Adam over what is not frozen; its rate is 1, since the course gives whole rates."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    kind = torch.optim.AdamW if training.optimizer == "adamw" else torch.optim.Adam
    first, second = training.betas
    return kind(
        weights, lr=1.0, betas=(first, second), weight_decay=training.weight_decay, fused=True
    )


def _as_it_is(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return batch
