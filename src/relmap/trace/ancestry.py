"""What an output was made of: the states that it reads, and all that these came from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from relmap.errors import TraceError
from relmap.trace.drafts import Notebook
from relmap.trace.tags import AttentionDraft, Lost, Pair, StateDraft, Tokens


@dataclass(frozen=True, eq=False)
class Needed:
    """States and attentions, in the order in which they are numbered."""

    states: list[StateDraft]
    attentions: list[AttentionDraft]


def output_tensors(output: Any) -> list[Tensor]:
    """All floating tensors of a model output."""
    if isinstance(output, Tensor):
        return [output] if output.dtype.is_floating_point else []
    if isinstance(output, dict):
        return [tensor for value in output.values() for tensor in output_tensors(value)]
    if isinstance(output, (tuple, list)):
        return [tensor for value in output for tensor in output_tensors(value)]
    return []


def final_groups(notebook: Notebook, outputs: Sequence[Tensor]) -> list[list[StateDraft]]:
    """The states that output tensors read, grouped by what reads them together."""
    groups: list[list[StateDraft]] = []
    for tensor in outputs:
        tag = notebook.tag(tensor)
        if isinstance(tag, Lost):
            raise TraceError(f"relmap cannot follow the tokens of this network: {tag.reason}")
        sides = [tag.rows, tag.columns] if isinstance(tag, Pair) else [tag]
        for side in sides:
            if not isinstance(side, Tokens):
                continue
            if side.state.kind == "input":
                continue
            group = _final_states(notebook.settle(side, tensor).state)
            if group not in groups:
                groups.append(group)
    return groups


def _final_states(draft: StateDraft) -> list[StateDraft]:
    """The states that the output reads: merges and sums at the end are read through."""
    if draft.kind not in ("merge", "sum"):
        return [draft]
    parents = list(dict.fromkeys(parent for parent, _, _ in draft.links))
    if draft.kind == "sum" and any(
        one is not other and one in ancestors([other]).states
        for one in parents
        for other in parents
    ):
        return [draft]
    found: list[StateDraft] = []
    for parent in parents:
        found += [one for one in _final_states(parent) if one not in found]
    return found


def ancestors(finals: Iterable[StateDraft]) -> Needed:
    """Everything that some states were made of, themselves included."""
    waiting, seen = list(finals), {}
    attentions: dict[int, AttentionDraft] = {}
    while waiting:
        draft = waiting.pop()
        if id(draft) in seen:
            continue
        seen[id(draft)] = draft
        waiting += [parent for parent, _, _ in draft.links]
        for attention in draft.attentions:
            attentions[attention.index] = attention
            waiting += [attention.query.state, attention.key.state]
    order = sorted(seen.values(), key=lambda draft: (draft.kind != "learned", draft.index))
    return Needed(order, [attentions[index] for index in sorted(attentions)])


def scrambled(states: list[StateDraft], since: int = 0) -> StateDraft | None:
    """A state whose tokens a matrix mixed, among those that some states were made of."""
    waiting, seen = list(states), set[int]()
    while waiting:
        draft = waiting.pop()
        if draft.index in seen or draft.index < since:
            continue
        seen.add(draft.index)
        if draft.scrambled:
            return draft
        waiting += [parent for parent, _, _ in draft.links]
        for attention in draft.attentions:
            waiting += [attention.query.state, attention.key.state]
    return None


def is_lost(notebook: Notebook, output: Any) -> bool:
    """Whether any part of an output was made of tokens that were lost on the way."""
    for tensor in output_tensors(output):
        tag = notebook.tag(tensor)
        if isinstance(tag, Lost):
            return True
        sides = [tag.rows, tag.columns] if isinstance(tag, Pair) else [tag]
        states = [side.state for side in sides if isinstance(side, Tokens)]
        if any(scrambled(_final_states(state)) is not None for state in states):
            return True
    return False
