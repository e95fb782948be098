"""Sources alone: the tokens that enter a network which cannot be followed to its output.

Methods that read nothing but the tokens that enter, and a gradient or another forward pass, need no
complete trace. Of every argument they get the tokens that it became: embedded words, patches,
frames. Where an argument never became tokens, or several kinds of them, its own elements are taken:
the pixels of a picture, the samples of a sound, the columns of a table.
"""

from __future__ import annotations

import math

from torch import Tensor

from relmap.errors import TraceError
from relmap.trace.batch_axis import token_examples
from relmap.trace.freeze import freeze_state
from relmap.trace.graph import TokenGraph
from relmap.trace.labels import Labels
from relmap.trace.sources import find_sources
from relmap.trace.tags import StateDraft, Tokens, is_floating
from relmap.trace.tracing import Recorded

_COLOURS = 4
"""An axis of a picture that is no longer than this holds colours."""


def graph_of_sources(recorded: Recorded, batch: int, lost: str) -> TokenGraph:
    """The graph of a pass of which the sources alone are known; `lost` says why.

    Raises:
        TraceError: no argument takes part in autograd.
    """
    drafts: list[StateDraft] = []
    for name, tensor in recorded.inputs.items():
        if any(name in draft.names for draft in drafts):
            continue
        draft = _entrance(recorded, name, tensor, batch)
        if draft is not None:
            drafts.append(draft)
    if not drafts:
        raise TraceError(
            "no argument of this network takes part in autograd: its forward runs under no_grad, "
            f"or turns its arguments into numbers ({lost})"
        )
    states = [freeze_state(draft, index, {}, {}) for index, draft in enumerate(drafts)]
    examples = token_examples(states, (), batch)
    stream = next(one.stream for one in drafts if one.stream is not None)
    like = stream.value if stream.value is not None else next(iter(recorded.inputs.values()))
    return TokenGraph(
        states=tuple(states),
        attentions=(),
        finals=(),
        sources=find_sources(recorded, drafts, states, (), examples, batch),
        batch=batch,
        examples=examples,
        calls=len(recorded.recorder.attentions),
        blank=(like if is_floating(like) else like.float()).new_empty(0),
        lost=lost,
    )


def _entrance(recorded: Recorded, name: str, tensor: Tensor, batch: int) -> StateDraft | None:
    """The tokens that an argument became; None for one that steers the pass without gradient."""
    found = [
        draft for draft in recorded.recorder.states
        if draft.kind == "source" and name in draft.names
        and draft.stream is not None and draft.stream.edge is not None
    ]  # fmt: skip
    made = [draft for draft in found if draft.settled or draft.projected]
    several = [draft for draft in made if draft.tokens > batch]
    most = max((len(draft.names) for draft in several), default=0)
    several = [draft for draft in several if len(draft.names) == most]
    if len(several) == 1:
        return several[0]
    if not is_floating(tensor):
        return next(iter(several or made or found), None)
    return _elements(recorded, name, tensor)


def _elements(recorded: Recorded, name: str, tensor: Tensor) -> StateDraft | None:
    """An argument's own elements as tokens: all axes count but that of colours, or of features."""
    recorder = recorded.recorder
    if not tensor.requires_grad:
        return None
    raw = next(one for one in recorder.states if one.kind == "input" and one.names == (name,))
    tag = Tokens(raw, Labels.number(raw.shape), recorder.node())
    return recorder.tokens_of_input(tensor, tag, _features(raw.shape)).state


def _features(shape: tuple[int, ...]) -> list[int]:
    """The feature axes of a raw argument."""
    if len(shape) >= 4:
        narrow = [axis for axis in range(1, len(shape)) if shape[axis] <= _COLOURS]
        return narrow[:1] or [1]
    if len(shape) == 3 and math.prod(shape[1:]) > 1:
        return [2]
    return []
