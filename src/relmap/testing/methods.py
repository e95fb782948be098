"""The contract of methods."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from relmap.backwards import BACKWARDS
from relmap.errors import RelmapError
from relmap.explanation import explain
from relmap.methods import METHODS, MethodEntry
from relmap.request.compatibility import default_backward, fits
from relmap.result.attribution import Attribution
from relmap.testing.contract import check_batch, check_layout, see, untouched
from relmap.testing.networks import Subject, subjects


def check_method(name: str, network: nn.Module | None = None, **inputs: Any) -> None:
    """See that a registered method keeps to what relmap promises of every method.

    Scores are finite and laid out, padding gets none; a batch gives what its examples give; the
    same call gives the same map; the network is left as it was; the map depends on the target if
    and only if it says so, and each example may have a target of its own; it works with every
    backward that fits its needs. A method that `requires` something may refuse a network, with a
    reason. Without a `network` (and a batch of inputs for it, with three classes or more to choose
    from) tiny ones are made.

    Raises:
        AssertionError: Something is not kept; the sentence says what.
        InputError: There is no such method.

    Example:
        >>> check_method("raw-attention")
    """
    entry = METHODS.get(name)
    see(bool(entry.about), f"{entry.name} has no docstring: its first line is shown in lists")
    see(entry.backward in BACKWARDS, f"{entry.name} names a backward {entry.backward!r} that there "
        f"is not: there are {', '.join(BACKWARDS)}")  # fmt: skip
    mine = () if network is None else (Subject("the given network", network, inputs),)
    refused: list[str] = []
    explained: list[Subject] = []
    for subject in mine or subjects():
        reason = _check_on(entry, subject)
        if reason is None:
            explained.append(subject)
        else:
            refused.append(f"{subject.name}: {reason}")
    see(bool(explained), f"{entry.name} explains none of the networks, so that nothing could be "
        f"checked; pass one that it explains, check_method({name!r}, network, **inputs) "
        f"({'; '.join(refused)})")  # fmt: skip
    _check_backwards(entry, explained[0])


def _check_on(entry: MethodEntry, subject: Subject) -> str | None:
    """Check a method on a network; why it refuses the network, if it does."""
    who, network, inputs = f"{entry.name} on {subject.name}", subject.network, subject.inputs
    try:
        found = explain(network, method=entry.name, **inputs)
    except RelmapError as error:
        see(
            bool(entry.requires), f"{who} refuses the network ({error}), but declares no `requires`"
        )
        return str(error)
    with untouched(network, who):
        check_layout(found, inputs, who)
        again = explain(network, method=entry.name, **inputs)
        see(_same(found, again), f"{who} gives another map when it is asked again")
        check_batch(network, inputs, who=who, method=entry.name)
        _check_targets(entry, subject, who)
    return None


def _check_targets(entry: MethodEntry, subject: Subject, who: str) -> None:
    network, inputs = subject.network, subject.inputs
    first, second = (
        explain(network, method=entry.name, target=target, **inputs) for target in (0, 2)
    )
    depends = not _same(first, second)
    # Elsewhere each target reads the tokens in shares of its own, and maps differ by these.
    judged = entry.target_dependent or subject.at_one_token
    see(not judged or depends is entry.target_dependent,
        f"{who} {'depends' if depends else 'does not depend'} on the target, but declares "
        f"target_dependent={entry.target_dependent}")  # fmt: skip
    mixed = explain(network, method=entry.name, target=[0, 2], **inputs)
    for index, alone in enumerate((first, second)):
        close = all(
            torch.allclose(mixed.scores[name][index], alone.scores[name][index], 1e-6, 1e-9)
            for name in mixed.scores
        )
        see(close, f"{who} gives example {index} of a list of targets another map than the same "
            "target for all")  # fmt: skip


def _check_backwards(entry: MethodEntry, subject: Subject) -> None:
    for backward in BACKWARDS.entries():
        if backward.name == default_backward(entry) or not fits(entry, backward):
            continue
        who = f"{entry.name} with the backward {backward.name}"
        how = {"method": entry.name, "backward": backward.name}
        try:
            found = explain(subject.network, **how, **subject.inputs)
        except RelmapError as error:
            raise AssertionError(f"{who} fits by its needs, but fails: {error}") from error
        check_layout(found, subject.inputs, who)


def _same(one: Attribution, other: Attribution) -> bool:
    return all(torch.equal(one.scores[name], other.scores[name]) for name in one.scores)
