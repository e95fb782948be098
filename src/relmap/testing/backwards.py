"""The contract of backwards."""

from __future__ import annotations

import torch

from relmap.backwards import BACKWARDS, Backward, BackwardEntry
from relmap.errors import RelmapError, TraceError
from relmap.methods import METHODS
from relmap.request.compatibility import fits
from relmap.request.request import following, read_request
from relmap.testing.contract import check_batch, check_layout, see, untouched
from relmap.testing.networks import Subject, subjects

_READERS = ("genatt", "input-x-gradient", "transformer-attribution", "full-lrp")
"""Methods that together read whatever a backward hands on."""


def check_backward(name: str) -> None:
    """See that a registered backward keeps to what relmap promises of every backward.

    It is what it is registered as; the network computes what it computes without it and is left as
    it was; what flows back is finite, and that of an example does not depend on its neighbours. It
    may lack a rule for an operation of some network, not of all.

    Raises:
        AssertionError: Something is not kept; the sentence says what.
        InputError: There is no such backward.

    Example:
        >>> check_backward("gradient")
    """
    entry = BACKWARDS.get(name)
    see(bool(entry.about), f"{entry.name} has no docstring: its first line is shown in lists")
    made = entry.function()
    see(isinstance(made, Backward), f"{entry.name} gives a {type(made).__name__}, not a Backward")
    see(made.name == entry.name, f"{entry.name} makes a Backward that is called {made.name!r}, by "
        "which results would name it")  # fmt: skip
    see(made.family == entry.family, f"{entry.name} is registered in the family {entry.family!r}, "
        f"but makes a Backward of the family {made.family!r}")  # fmt: skip
    refused = [reason for subject in subjects() if (reason := _check_on(entry, subject))]
    see(len(refused) < len(subjects()), f"{entry.name} goes through none of the networks: "
        + "; ".join(refused))  # fmt: skip


def _check_on(entry: BackwardEntry, subject: Subject) -> str | None:
    """Check a backward on a network; why it refuses the network, if it does."""
    who, network, inputs = f"{entry.name} on {subject.name}", subject.network, subject.inputs
    readers = [name for name in _READERS if fits(METHODS.get(name), entry)]
    see(bool(readers), f"{entry.name} fits none of the methods {', '.join(_READERS)}")
    with untouched(network, who):
        try:
            _check_values(entry, subject, readers[0], who)
        except TraceError as error:
            return f"{subject.name}: {error}"
        for method in readers:
            how = {"method": method, "backward": entry.name}
            try:
                found = check_batch(network, inputs, who=f"{who}, read by {method},", **how)
            except RelmapError as error:
                raise AssertionError(f"{who} cannot be read by {method}: {error}") from error
            check_layout(found, inputs, f"{who}, read by {method},")
    return None


def _check_values(entry: BackwardEntry, subject: Subject, method: str, who: str) -> None:
    """Rules decide what flows back, and never what is computed."""
    with torch.no_grad():
        wanted = subject.network(**subject.inputs)
    asked = read_request(subject.network, method, subject.inputs, entry.name)
    with following(asked, [None], asked.entry.needs) as passes:
        (output, _), *_ = next(passes).passed.outputs
        see(torch.allclose(output, wanted, 1e-9, 1e-12),
            f"{who} changes what the network computes, by up to "
            f"{float((output - wanted).abs().max()):.3g}")  # fmt: skip
