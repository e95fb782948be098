"""A recorded pass under a target, as `explain` hands it to a method."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from relmap.relevance.gradients import copy_output, follow_each
from relmap.relevance.rows import RecordedPass
from relmap.trace import recording

EVERYTHING = ("attention", "attention-gradient", "join-gradient", "stream-gradient")


@contextmanager
def followed(
    network: nn.Module, inputs: Mapping[str, Any], target: Callable[[Any], Tensor]
) -> Iterator[RecordedPass]:
    """Record the network and follow the target back, with every gradient a method may ask for."""
    with recording(network, inputs) as recorded:
        copied = copy_output(recorded.output)
        with torch.enable_grad():
            values = target(copied.output)
        (passed,) = follow_each(recorded, copied, [values], EVERYTHING)
        with torch.no_grad():
            yield passed


def some_scores(output: Any) -> Tensor:
    """Something that a network says, one number for each example."""
    if isinstance(output, Tensor):
        return output[:, 1]
    if "logits_per_image" in output:
        return output["logits_per_image"].diagonal()
    names = ("logits", "question_answering_score", "itm_score")
    scores = next(output[name] for name in names if name in output)
    return scores[:, -1, 1] if scores.ndim == 3 else scores[:, 1]
