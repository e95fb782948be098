"""A recorded pass that can be run again, as a method gets it, for tests of the replay."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from relmap.relevance.traced_pass import RecordedPass
from relmap.request.request import following, read_request
from relmap.trace.graph import State


@contextmanager
def replayed(network: nn.Module, inputs: dict[str, Any], target: Any) -> Iterator[RecordedPass]:
    """A pass that can be run again, as a method gets it."""
    asked = read_request(network, "random", inputs)
    needs = ("attention", "stream-gradient", "replay")
    with following(asked, [target], needs) as passes:
        passed = next(passes).passed
        with torch.no_grad():
            yield passed


def joins_of(passed: RecordedPass) -> list[State]:
    return [one for one in passed.graph.states if one.kind == "join"]
