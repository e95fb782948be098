"""The contract of networks: what relmap has to be able to say of one that it does not refuse."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from relmap.errors import RelmapError, TraceError
from relmap.explanation import explain
from relmap.testing.contract import check_batch, check_layout, see, untouched


def check_model(network: nn.Module, *, target: Any = None, **inputs: Any) -> None:
    """See that a network is explained as relmap promises, with a batch of its own inputs.

    It is left as it was and computes the same afterwards; scores are finite, laid out and not all
    zero; the same call gives the same map; an example's map does not depend on its neighbours.
    `genatt` is read with the plain gradient, and with `libra` where that has all the rules.

    Raises:
        AssertionError: Something is not kept, or the network is refused; the sentence says why.

    Example:
        >>> import torch
        >>> layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).double()
        >>> source = torch.randn(2, 4, 8, dtype=torch.float64)
        >>> check_model(layer, target=lambda output: output[:, 0, 1], src=source)
    """
    who = type(network).__name__
    with untouched(network, f"explaining {who}"):
        for backward in ("gradient", "libra"):
            how = {"target": target, "method": "genatt", "backward": backward}
            try:
                found = explain(network, **how, **inputs)
            except TraceError as error:
                see(backward != "gradient", f"{who} is refused: {error}")
                continue
            except RelmapError as error:
                raise AssertionError(f"{who} is refused: {error}") from error
            check_layout(found, inputs, who)
            some = any(bool(scores.any()) for scores in found.scores.values())
            see(some, f"{who} gets a map of zeros under {backward}")
            again = explain(network, **how, **inputs)
            same = all(torch.equal(found.scores[name], again.scores[name]) for name in found.scores)
            see(same, f"{who} gets another map when it is asked again: does it draw numbers?")
            check_batch(network, inputs, who=who, **how)
