"""The residual path: scores of the last tokens as scores of the inputs, attention left aside.

Methods that score the tokens of a last state say nothing of what attention mixed into them; such a
score belongs to the input token that this one was made of.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from relmap.relevance.padding import padding_of_states
from relmap.relevance.rows import link_weights, moved
from relmap.relevance.traced_pass import RecordedPass


def carried_down(passed: RecordedPass, rows: Mapping[int, Tensor]) -> dict[int, Tensor]:
    """Scores of tokens moved to the tokens that they were made of, attention left aside.

    Tokens that only fill the batch up score nothing.
    """
    graph, filling = passed.graph, padding_of_states(passed)
    relevance = {
        index: torch.where(filling[index].to(row.device), 0, row) for index, row in rows.items()
    }

    def add(index: int, row: Tensor) -> None:
        relevance[index] = relevance[index] + row if index in relevance else row

    for state in reversed(graph.states):
        row = relevance.get(state.index)
        if row is None:
            continue
        if state.kind == "join":
            for link in state.links:
                add(link.parent, moved(link, row, graph.states))
            query = graph.attentions[state.attentions[0]].query_state
            if not state.links and graph.states[query].tokens == state.tokens:
                add(query, row)
        elif state.links:
            for link, weight in zip(state.links, link_weights(passed, state), strict=True):
                add(link.parent, moved(link, row * weight, graph.states))
    return relevance
