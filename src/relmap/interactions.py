"""interaction: which image patches and which words acted on each other for one answer.

After a few layers a token is a composite: R says of what shares of the inputs. The modified
interaction map of WRA restores every attention between composite tokens to the inputs in them,

    M_mn += R_q,m^T Ahat R_k,n,   Ahat = E_h[(A * dA)+],   M = M_mn * (M_nm)^T       (eq. 16-19)

with R before the layer's update. Ahat is not normalised, so that layers keep their size. Where no
token of one side has met the other yet (encoders), a layer adds nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from relmap.errors import InputError
from relmap.methods import METHODS
from relmap.relevance.attention_maps import gradient_weighted
from relmap.relevance.maps import Maps, dense_mixing, link_matrix
from relmap.relevance.rows import PropagationRule, skipped_joins
from relmap.relevance.streams import own_leaves
from relmap.request.layouts import provenance
from relmap.request.request import Followed, Request, following, read_request
from relmap.result.interaction import Interaction
from relmap.result.layout import Layout
from relmap.trace.graph import Attention, Source, State

__all__ = ["Interaction", "interaction"]

CHOICES = {
    "blocks": ("full", "diagonal"),
    "relevance": ("before", "after"),
    "layers": ("all", "cross", "last"),
}
"""What the paper leaves open, the default first."""

Pair = tuple[str, str]


def interaction(
    model: Any,
    *,
    target: Any = None,
    method: str = "wra",
    between: Sequence[str] | None = None,
    blocks: str = "full",
    relevance: str = "before",
    layers: str = "all",
    **inputs: Any,
) -> Interaction:
    """The interaction of every token of one source with every token of another.

    M = M_mn * (M_nm)^T elementwise, where M_mn sums over attentions how far m's tokens attended to
    n's. `method` is the rule that carries R, with its options beside the inputs. `between` names
    two sources, or "image" and "text"; None are the only two. The paper leaves open: which blocks
    of R are read ("full", or "diagonal": each source's own), the relevance "before" or "after" each
    attention, and which layers count: "all", the attentions "cross" the two sources, or the "last"
    of these in each stream. Use it to see what a word looked at; `explain` ranks inputs.

    Raises:
        InputError: the method carries no maps, or the model has no two sources that meet.
        TraceError: the network cannot be explained exactly.

    Reference: Huang et al., MM Asia 2023 (WRA), eq. 16-19; eq. 17 is reconstructed.

    Example:
        >>> import torch, relmap
        >>> network = torch.nn.TransformerDecoder(torch.nn.TransformerDecoderLayer(8, 2), 2)
        >>> inputs = {"tgt": torch.randn(3, 1, 8), "memory": torch.randn(5, 1, 8)}
        >>> read = lambda output: output[-1, :, 0]
        >>> relmap.interaction(network, target=read, **inputs).maps.shape
        torch.Size([1, 3, 5])
    """
    how = {"blocks": blocks, "relevance": relevance, "layers": layers}
    for name, value in how.items():
        if value not in CHOICES[name]:
            raise InputError(
                f"{name}={value!r} is not one of {', '.join(map(repr, CHOICES[name]))}"
            )
    backward = inputs.pop("backward", None)
    asked = read_request(model, method, inputs, backward)
    carry = asked.entry.maps
    if carry is None:
        able = [entry.name for entry in METHODS.entries() if entry.maps is not None]
        raise InputError(
            f"the method {asked.entry.name!r} carries no relevance maps, which the interaction is "
            f"made of: choose one of {', '.join(able)}"
        )
    with following(asked, [target], (*asked.entry.needs, "attention-gradient")) as passes:
        (followed,) = passes
        pair = _two_sources(followed.layouts, between, asked)
        with torch.no_grad():
            maps = carry(followed.passed, **asked.settings)
            calls = _counted(maps, pair, layers, asked.settings.get("start_layer", 0))
            one_way = _one_way(maps, pair, calls, how)
    return _result(asked, followed, one_way, how)


def _two_sources(layouts: dict[str, Layout], between: Sequence[str] | None, asked: Request) -> Pair:
    """The sources of the rows and of the columns: pictures before texts."""
    if between is not None and (isinstance(between, str) or len(between) != 2):
        raise InputError(
            f"between={between!r} does not name two sources, as ('image', 'text') does"
        )
    names = list(layouts) if between is None else [_named(name, layouts) for name in between]
    if len(set(names)) < 2:
        raise InputError(
            f"an interaction is between two sources, but the target reads {names[0]!r} alone; "
            f"use relmap.explain, or give {asked.model.name} both of its inputs"
        )
    if len(names) > 2:
        raise InputError(
            f"this model has {len(names)} sources ({', '.join(names)}): say which two, such as "
            f"between=({names[0]!r}, {names[1]!r})"
        )
    if between is None:
        names.sort(key=lambda name: layouts[name].modality == "text")
    return names[0], names[1]


def _named(name: str, layouts: dict[str, Layout]) -> str:
    """A source by its name, or by its modality where only one has it."""
    same = [key for key, layout in layouts.items() if layout.modality == name]
    if name not in layouts and len(same) != 1:
        raise InputError(f"there is no one source {name!r}; the sources are {', '.join(layouts)}")
    return name if name in layouts else same[0]


def _counted(maps: Maps, pair: Pair, layers: str, start: int) -> list[tuple[State, Attention]]:
    """The attentions that count, each with the join it ends in."""
    graph, skipped = maps.graph, skipped_joins(maps.graph, start)
    mine, theirs = (source.state for source in _sources(maps, pair))
    found: dict[tuple[Any, ...], list[tuple[State, Attention]]] = {}
    for state in graph.states:
        calls = [graph.attentions[index] for index in state.attentions]
        if layers != "all":
            calls = [call for call in calls if _is_across(maps, call, mine, theirs)]
        if calls and state.index not in skipped:
            stream = own_leaves(graph, calls[0].query_state) if layers == "last" else ()
            place = ("stream", *stream) if layers == "last" else ("join", state.index)
            found[place] = [(state, call) for call in calls]
    return [one for calls in found.values() for one in calls]


def _is_across(maps: Maps, call: Attention, mine: int, theirs: int) -> bool:
    """Whether tokens of one leaf read tokens of the other, as residual streams have it."""
    asking, read = maps.units[call.query_state], maps.units[call.key_state]
    return (mine in asking and theirs in read) or (theirs in asking and mine in read)


def _one_way(
    maps: Maps, pair: Pair, calls: Sequence[tuple[State, Attention]], how: dict[str, str]
) -> dict[Pair, Tensor]:
    """M_mn and M_nm (eq. 16-18), in the order of the sources' tokens."""
    sources = dict(zip(pair, _sources(maps, pair), strict=True))
    totals: dict[Pair, Tensor] = {}
    for state, call in calls:
        attention = dense_mixing(maps, _UNNORMALISED, state, call.index)
        for asks, reads in (pair, pair[::-1]):
            asking = _shares(maps, state, call.query_state, sources[asks].state, how)
            read = _shares(
                maps, _beside(maps, state, call), call.key_state, sources[reads].state, how
            )
            if asking is not None and read is not None:
                part = asking.transpose(-1, -2) @ (attention @ read)
                totals[asks, reads] = (
                    totals[asks, reads] + part if (asks, reads) in totals else part
                )
    if not totals:
        raise InputError(
            f"{pair[0]!r} and {pair[1]!r} never meet in an attention that counts: their "
            "interaction is zero everywhere (a score of two separate encoders has none)"
        )
    return {
        (asks, reads): _in_order(maps, sources[asks], sources[reads], totals.get((asks, reads)))
        for asks, reads in (pair, pair[::-1])
    }


_UNNORMALISED = PropagationRule(gradient_weighted, lambda sums, share: (sums, sums))
"""E = Ahat; the weights are never asked."""


def _shares(
    maps: Maps, join: State | None, state: int, leaf: int, how: dict[str, str]
) -> Tensor | None:
    """R of the tokens of a state on one leaf; None where it is zero by construction."""
    blocks = maps.blocks[state]
    if how["relevance"] == "after" and join is not None:
        blocks = maps.blocks[join.index]
        if join.rows is not None and join.rows.parent == state:
            back = link_matrix(maps, join, join.rows).transpose(-1, -2)
            blocks = {one: back @ block for one, block in blocks.items()}
    found = blocks.get(leaf)
    if found is None or how["blocks"] == "full":
        return found
    own = maps.units[state].get(leaf)
    return None if own is None else found * own.sum(dim=-1, keepdim=True)


def _beside(maps: Maps, join: State, call: Attention) -> State | None:
    """The join that updates the keys of a call: its own, or the one that exchanges with it."""
    if call.key_state == call.query_state:
        return join
    for state in maps.graph.states:
        if state.kind == "join" and state.links and state.links[0].parent == call.key_state:
            keys = [maps.graph.attentions[index].key_state for index in state.attentions]
            if call.query_state in keys:
                return state
    return None


def _sources(maps: Maps, names: Sequence[str]) -> Iterator[Source]:
    known = {source.name: source for source in maps.graph.sources}
    return (known[name] for name in names)


def _in_order(
    maps: Maps, rows: Source, columns: Source, values: Tensor | None
) -> Float[Tensor, "batch row column"]:
    """A map over two leaves, in the order in which explain reports their tokens."""
    shape = (*rows.tokens.shape, columns.tokens.shape[1])
    if values is None:
        return torch.zeros(shape, dtype=maps.dtype, device=maps.graph.device())
    for axis, source in ((1, rows), (2, columns)):
        tokens = source.tokens.to(values.device)
        places = maps.places[source.state][1][tokens.clamp_min(0)]
        places, missing = (
            one.unsqueeze(3 - axis) for one in (places, tokens < 0)
        )  # fmt: skip
        wanted = [values.shape[0], values.shape[1], values.shape[2]]
        wanted[axis] = tokens.shape[1]
        values = values.gather(axis, places.expand(wanted)).masked_fill(missing, 0)
    return values


def _result(
    asked: Request, followed: Followed, one_way: dict[Pair, Tensor], how: dict[str, str]
) -> Interaction:
    rows, columns = pair = next(iter(one_way))
    layouts = {name: followed.layouts[name] for name in pair}
    padded = {name: layout.padding for name, layout in layouts.items()}
    for (asks, reads), values in one_way.items():
        hidden = padded[asks][:, :, None] | padded[reads][:, None, :]
        one_way[asks, reads] = values.masked_fill(hidden.to(values.device), 0)
    changed = [name for name, value in how.items() if value != CHOICES[name][0]]
    settings, chosen = asked.settings | how, [*asked.chosen, *changed]
    return Interaction(
        maps=one_way[rows, columns] * one_way[columns, rows].transpose(1, 2),
        one_way=one_way,
        layout=layouts,
        target=followed.resolved.names,
        prediction=followed.resolved.prediction,
        meta=provenance(
            asked.model,
            followed.passed.graph,
            asked.arguments,
            asked.entry.name,
            settings,
            chosen,
            asked.backward,
        ),
        inputs=asked.drawn(),
    )
