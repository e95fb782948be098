"""Streams: which tokens a residual stream is made of, and when an attention crosses to another.

A state's *own leaves* are the sources and learned tokens that its residual path goes back to,
attention aside. An attention whose keys have other leaves than its queries is a cross-attention:
in the terms of GenAtt, co-attention between two modalities.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool
from torch import Tensor

from relmap.trace.graph import State, TokenGraph


def own_leaves(graph: TokenGraph, state: int) -> tuple[int, ...]:
    """Leaves (sources as reported, learned tokens) that a state is made of without attention."""
    reported = {source.state for source in graph.sources}
    leaves: list[int] = []
    waiting = [state]
    seen: set[int] = set()
    while waiting:
        index = waiting.pop(0)
        if index in seen:
            continue
        seen.add(index)
        current = graph.states[index]
        if index in reported or not current.links:
            if current.kind == "join":
                # Without a residual the tokens are those of the queries.
                waiting += [graph.attentions[call].query_state for call in current.attentions]
            else:
                leaves.append(index)
            continue
        waiting += [link.parent for link in current.links]
    return tuple(sorted(leaves))


def crosses(graph: TokenGraph, state: int, key: int) -> bool:
    """Whether a join's attention reads keys of other tokens than its own stream's."""
    return not set(own_leaves(graph, state)) & set(own_leaves(graph, key))


def answers(graph: TokenGraph, state: int, key: int) -> bool:
    """Whether the stream of some keys reads the stream of a join in turn (co-attention)."""
    mine, theirs = set(own_leaves(graph, state)), set(own_leaves(graph, key))
    return any(
        theirs & set(own_leaves(graph, other.index))
        and mine & set(own_leaves(graph, graph.attentions[call].key_state))
        and crosses(graph, other.index, graph.attentions[call].key_state)
        for other in graph.states
        if other.kind == "join" and other.links
        for call in other.attentions
    )


def has_cross_attention(graph: TokenGraph) -> bool:
    """Whether any join with a residual reads another stream."""
    return any(
        crosses(graph, state.index, graph.attentions[call].key_state)
        for state in graph.states
        if state.kind == "join" and state.links
        for call in state.attentions
    )


def residual_chain(graph: TokenGraph, state: int) -> list[State]:
    """The states a final state goes back to over residual links, newest first."""
    chain = [graph.states[state]]
    while chain[-1].kind in ("join", "merge", "sum", "concatenation"):
        links = chain[-1].links
        made = [link.parent for link in links if graph.states[link.parent].kind != "learned"]
        if chain[-1].kind == "join" and links:
            made = [links[0].parent]
        if len(set(made)) != 1:
            break
        chain.append(graph.states[made[0]])
    return chain


def made_of_flagged(state: State, flags: Sequence[Bool[Tensor, " _"]]) -> Bool[Tensor, " token"]:
    """Which tokens of a state are made, over any of its links, of a flagged token.

    `flags` are those of all earlier states.
    """
    made = torch.zeros(state.tokens, dtype=torch.bool)
    for link in state.links:
        parent = flags[link.parent].cpu()
        if link.child_tokens is None or link.parent_tokens is None:
            made |= parent
        else:
            made[link.child_tokens.cpu()[parent[link.parent_tokens.cpu()]]] = True
    return made


def made_by_inputs(graph: TokenGraph) -> list[Bool[Tensor, " _"]]:
    """For every state, which tokens go back to an input over links (learned ones do not)."""
    made: list[Tensor] = []
    for state in graph.states:
        given = not state.links and state.kind != "learned"
        made.append(torch.full((state.tokens,), given) | made_of_flagged(state, made))
    return made
