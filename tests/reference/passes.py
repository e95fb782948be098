"""A recorded pass under a target, as `explain` hands it to a method."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from relmap.gradients import copy_output, follow_back
from relmap.propagate import RecordedPass
from relmap.record import recording

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
        passed = follow_back(recorded, copied, values, EVERYTHING)
        with torch.no_grad():
            yield passed
