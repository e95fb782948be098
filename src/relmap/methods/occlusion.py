"""Occlusion: how much the target falls when a token is taken away.

R_j = y(x) - y(x with x_j <- x')                  (Zeiler & Fergus 2014; Li et al. 2016)
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from relmap.errors import InputError
from relmap.methods import METHODS
from relmap.relevance.attention_maps import wide
from relmap.relevance.entering_tokens import blank, entering_tokens
from relmap.relevance.traced_pass import RecordedPass
from relmap.trace.graph import Source


@METHODS.register(
    "occlusion",
    aliases=("leave-one-out", "erasure", "ablation"),
    reference="Zeiler & Fergus, ECCV 2014; Li, Monroe & Jurafsky 2016",
    needs=("replay",),
    target_dependent=True,
)
def occlusion(
    passed: RecordedPass, *, baseline: Literal["zero", "mean"] = "zero", window: int = 1
) -> dict[int, Tensor]:
    """What the target loses when a token's embedding is replaced, with its sign.

    R_j = y(x) - y(x with token j replaced), token j as it enters the network, replaced by zero or,
    with `baseline="mean"`, by the mean token of the example; its position stays. A `window` of w
    replaces w x w patches of an image at once (w tokens of anything else) and gives every token the
    mean loss of the windows it lies in. Costs one forward pass for each place of the window. Use it
    as the plainest answer to "would the model say so without it?"; tokens that stand in for one
    another all score low.

    Raises:
        InputError: `window` is below 1, or the tokens cannot be replaced.
    """
    if window < 1:
        raise InputError(f"window={window}: give at least 1")
    graph, replay = passed.graph, passed.replay
    states = entering_tokens(passed)
    before = wide(replay.target({}))
    relevance: dict[int, Tensor] = {}
    for source in graph.sources:
        if source.state not in states or source.state in relevance:
            continue
        place = states[source.state]
        value = replay.value(place)
        blanks = blank(passed, source.state, place, value, baseline)
        count = graph.states[source.state].tokens
        total, often = before.new_zeros(count), before.new_zeros(count)
        for columns in _windows(source, window):
            tokens = source.tokens[:, columns].to(value.device)
            gone = torch.zeros(count, dtype=torch.bool, device=value.device)
            gone[tokens[tokens >= 0]] = True
            hidden = gone[place.tokens.to(value.device).clamp_min(0)] & (
                place.tokens.to(value.device) >= 0
            )
            loss = before - wide(replay.target({place: torch.where(hidden, blanks, value)}))
            kept = tokens >= 0
            total[tokens[kept]] += loss[:, None].expand(tokens.shape)[kept]
            often[tokens[kept]] += 1
        found = total / often.clamp_min(1)
        filling = passed.padding.get(source.state)
        if filling is not None:
            found = torch.where(filling.to(found.device), 0, found)
        relevance[source.state] = found
    return relevance


def _windows(source: Source, size: int) -> list[list[int]]:
    """Columns of the tokens that are replaced together."""
    count = source.tokens.shape[1]
    if size == 1:
        return [[column] for column in range(count)]
    grid, patches = source.grid, source.patches
    if grid is None or patches is None or len(grid) != 2:
        size = min(size, count)
        return [list(range(start, start + size)) for start in range(count - size + 1)]
    cells = patches.reshape(grid)
    high, wide_ = (min(size, one) for one in grid)
    blocks = cells.unfold(0, high, 1).unfold(1, wide_, 1).reshape(-1, high * wide_).tolist()
    others = sorted(set(range(count)) - set(patches.tolist()))
    return blocks + [[column] for column in others]
