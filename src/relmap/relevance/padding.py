"""Padding: tokens that only fill the batch up, in every state that is made of them."""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor

from relmap.relevance.streams import made_of_flagged
from relmap.relevance.traced_pass import RecordedPass


def padding_of_states(passed: RecordedPass) -> list[Bool[Tensor, " _"]]:
    """For every state, which tokens only fill the batch up: all that they came from does.

    Queries that an attention answers without a residual beside it stay what they were.
    """
    graph, filling = passed.graph, list[Tensor]()
    for state in graph.states:
        marked = passed.padding.get(state.index)
        if marked is not None:
            filling.append(marked.cpu())
            continue
        real = made_of_flagged(state, [~flags for flags in filling])
        made = made_of_flagged(state, [torch.ones_like(flags) for flags in filling])
        flags = made & ~real
        if not state.links and state.attentions:
            queries = filling[graph.attentions[state.attentions[0]].query_state]
            flags = queries if len(queries) == state.tokens else flags
        filling.append(flags)
    return filling
