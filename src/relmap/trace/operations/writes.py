"""Tensors written into one another: scattered image tokens, buffers, masks.

The labels of every operand are coded with an offset, the same function is run on the codes, and the
codes that come out say which token of which operand stands where.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from relmap._torch_private import base_of
from relmap.trace.calls import Call, along
from relmap.trace.labels import NO_TOKEN, Labels
from relmap.trace.tags import (
    AttentionDraft,
    Lost,
    Pair,
    Pending,
    StateDraft,
    Tag,
    Tokens,
    activation,
)


def written(call: Call) -> Tag | None:
    """masked_scatter, index_put, setitem, scatter, where, copy: values written into a tensor."""
    values = _written_values(call)
    operands = values if call.name == "where" else [call.subject, *values]
    tags = [call.tag_of(operand) for operand in operands]
    if lost := next((tag for tag in tags if isinstance(tag, Lost)), None):
        return lost
    if any(isinstance(tag, Pair) for tag in tags):
        return _written_scores(call, operands, tags)
    known = [tag for tag in tags if isinstance(tag, Tokens)]
    if not known:
        return None
    pending = _one_branch(known)
    if pending is not None:
        # Pieces of attention outputs on the same queries stay one branch.
        tags = [Tokens(t.state, t.labels, t.node) if isinstance(t, Tokens) else t for t in tags]
    if call.name in _ADDS or call.argument(3, "accumulate", False) is True:
        return _added(call, operands, tags, pending)
    codes, states = _codes(call, operands, tags)
    return _decode(call, codes, states, known, pending)


_ADDS = frozenset(["index_add", "scatter_add", "scatter_reduce"])


def _added(call: Call, operands: list[Any], tags: list[Any], pending: Pending | None) -> Tag:
    """index_add, scatter_add and the like: several writers of one place are merged there."""
    notebook, base = call.notebook, operands[0]
    settled = [
        notebook.settle(tag, operand) if isinstance(tag, Tokens) else None
        for tag, operand in zip(tags, operands, strict=True)
    ]
    known = [tag for tag in settled if tag is not None]
    places = torch.arange(base.numel()).reshape(base.shape)
    where = _places_written(call, places)
    if where is None or len(operands) != 2:
        return call.lost("adds tokens into places relmap does not follow")
    made = torch.full((base.numel(),), NO_TOKEN)
    if settled[0] is not None:
        made = settled[0].labels.full().reshape(-1).clone()
    if settled[1] is not None:
        there, theirs = where.reshape(-1), settled[1].labels.full().expand(where.shape).reshape(-1)
        written = made.clone()
        written[there] = theirs
        agree = (written[there] == theirs) & ((made[there] < 0) | (made[there] == theirs))
        one_state = len({id(tag.state) for tag in known}) == 1
        if not one_state or not bool(agree.all()):
            return _merged_into(call, places, [(settled[0], places), (settled[1], where)])
        made = written
    labels = Labels.of(made.reshape(base.shape))
    return Tokens(known[0].state, labels, notebook.node(*(tag.node for tag in known)), pending)


def _places_written(call: Call, places: Tensor) -> Tensor | None:
    """For every written element, the place it is added to."""
    if call.name == "index_add":
        axis, index = call.argument(1, "dim", 0), call.argument(2, "index", None)
        return places.index_select(axis, index.cpu())
    if call.name in ("scatter_add", "scatter_reduce"):
        axis, index = call.argument(1, "dim", 0), call.argument(2, "index", None)
        return places.gather(axis, index.cpu())
    indices = call.argument(1, "indices", ())
    return places[tuple(None if one is None else one.cpu() for one in indices)]


def _merged_into(call: Call, places: Tensor, writers: list[tuple[Tokens | None, Tensor]]) -> Tag:
    """A state each of whose tokens is made of all tokens that were added into its place."""
    notebook = call.notebook
    varying: set[int] = set()
    for tag, where in writers:
        if tag is not None and where.ndim == places.ndim:
            varying |= set(tag.labels.broadcast_to(where.shape).varying)
    features = [axis for axis in range(places.ndim) if axis not in varying]
    numbers = Labels.number(tuple(places.shape), features)
    flat = numbers.full().reshape(-1)
    links = []
    for tag, where in writers:
        if tag is not None:
            child = Labels(tuple(where.shape), flat[where])
            parent = Labels(tuple(where.shape), tag.labels.full().expand(where.shape))
            links.append((tag.state, child, parent))
    state = notebook.new_state("merge", numbers, links=links, settled=True)
    nodes = [tag.node for tag, _ in writers if tag is not None]
    return Tokens(state, numbers, notebook.node(*nodes))


_VALUE_AT = {
    "__setitem__": 2, "masked_scatter": 2, "index_put": 2, "scatter": 3, "index_copy": 3,
    "copy": 1, "index_add": 3, "scatter_add": 3, "slice_scatter": 1, "select_scatter": 1,
    "masked_fill": 2, "where": 1, "index_fill": 3, "scatter_reduce": 3,
}  # fmt: skip
_VALUE_NAMES = ("source", "src", "values", "value", "tensor")


def _written_values(call: Call) -> list[Any]:
    if call.name == "where":
        return [call.argument(1, "input", 0), call.argument(2, "other", 0)]
    names = call.spelling.names
    name = next((name for name in _VALUE_NAMES if name in names), "value")
    return [call.argument(_VALUE_AT[call.name], name)]


def _written_scores(call: Call, operands: list[Any], tags: list[Any]) -> Tag:
    """Scores with some entries replaced by constants: a mask."""
    pairs = [tag for tag in tags if isinstance(tag, Pair)]
    if any(isinstance(tag, Tokens) for tag in tags):
        return call.lost("writes tokens among scores")
    sides: list[Tokens | None] = []
    for name in ("rows", "columns"):
        parts = [getattr(tag, name) if isinstance(tag, Pair) else tag for tag in tags]
        if any(part is None for part, tag in zip(parts, tags, strict=True) if tag in pairs):
            sides.append(None)
            continue
        codes, states = _codes(call, operands, parts)
        if len(states) > 1:
            return call.lost("writes scores of different tokens into one another")
        full = torch.where(codes > 0, (codes & ((1 << 40) - 1)) - 1, NO_TOKEN)
        first = next(part for part in parts if isinstance(part, Tokens))
        sides.append(Tokens(first.state, Labels.of(full), first.node))
    return Pair(sides[0], sides[1], pairs[0].nodes, pairs[0].axis)


def _codes(call: Call, operands: list[Any], tags: list[Any]) -> tuple[Tensor, list[StateDraft]]:
    """Run the same function on coded labels: code = position in `states` x 2^40 + label + 1."""
    states: list[StateDraft] = []
    coded: dict[int, Any] = {}
    for operand, tag in zip(operands, tags, strict=True):
        if isinstance(tag, Tokens):
            tag = call.notebook.settle(tag, operand)
            if tag.state not in states:
                states.append(tag.state)
            code = tag.labels.full() + 1 + (states.index(tag.state) << 40)
            coded[id(operand)] = torch.where(tag.labels.full() < 0, 0, code)
        elif isinstance(operand, Tensor):
            coded[id(operand)] = torch.zeros(operand.shape, dtype=torch.long)
    return _run_on_codes(call, operands, coded), states


def _run_on_codes(call: Call, operands: list[Any], coded: dict[int, Any]) -> Tensor:
    def code(value: Any) -> Any:
        if id(value) in coded:
            return coded[id(value)]
        if isinstance(value, Tensor):
            return value.detach().cpu()
        if isinstance(value, (tuple, list)):
            return type(value)(code(part) for part in value)
        return 0 if isinstance(value, float) else value

    given, named = call.spelling.in_order()
    args = [code(value) for value in given]
    kwargs = {name: code(value) for name, value in named.items()}
    name = {"index_add": "index_copy", "scatter_add": "scatter", "scatter_reduce": "scatter"}.get(
        call.name, call.name
    )
    if name == "where":
        condition = code(call.argument(0, "condition"))
        first, second = (code(value) for value in operands)
        return torch.where(condition, *(v if isinstance(v, Tensor) else torch.tensor(0)
                                        for v in (first, second)))  # fmt: skip
    if name == "__setitem__":
        target = args[0].clone()
        target[args[1]] = args[2] if isinstance(args[2], Tensor) else 0
        return target
    if name in ("masked_fill", "index_fill"):
        args, kwargs = [*args[: _VALUE_AT[name]], 0], {}
    if name == "copy":
        return args[1].expand_as(args[0]).clone()
    if name == "index_add":
        kwargs.pop("alpha", None)
    if name in ("scatter",):
        args, kwargs = args[:4], {}
    return getattr(torch.Tensor, name)(*args, **kwargs)


def _one_branch(known: list[Tokens]) -> Pending | None:
    """What the operands are pending for together, if they are outputs on the same queries."""
    if len({id(tag.state) for tag in known}) > 1:
        return None
    drafts: dict[int, AttentionDraft] = {}
    for tag in known:
        if tag.pending is None:
            return None
        drafts |= {draft.index: draft for draft in tag.pending.attentions}
    return Pending(tuple(drafts[index] for index in sorted(drafts)))


def _decode(
    call: Call,
    codes: Tensor,
    states: list[StateDraft],
    known: list[Tokens],
    pending: Pending | None,
) -> Tag:
    notebook = call.notebook
    full = torch.where(codes > 0, (codes & ((1 << 40) - 1)) - 1, NO_TOKEN)
    which = torch.where(codes > 0, codes >> 40, NO_TOKEN)
    node = notebook.node(*(tag.node for tag in known))
    if len(states) == 1:
        labels = Labels.of(full)
        return Tokens(states[0], labels, node, pending)
    places = Labels.of(codes)
    labels = Labels.number(places.shape, [a for a in range(codes.ndim) if a not in places.varying])
    links = []
    for position, state in enumerate(states):
        parents = torch.where(which == position, full, NO_TOKEN)
        links.append((state, labels, Labels.of(parents)))
    state = notebook.new_state("concatenation", labels, links=links, settled=True)
    state.stream = activation(call.result, labels, call.notebook.keep_values)
    return Tokens(state, labels, node)


def masked_fill(call: Call) -> Tag | None:
    """Masks leave tokens alone (a masked token is still that token)."""
    if lost := call.first_lost():
        return lost
    known = call.known()
    if len(known) == 1 and known[0][0] is call.subject and not _skewed(known[0][1]):
        return along(call, known[0][1], copies=True)
    return written(call)


def where(call: Call) -> Tag | None:
    """`where`: a mask if the other side is a number, else one tensor written into another."""
    values = _written_values(call)
    tags = [call.tag_of(value) for value in values]
    if lost := next((tag for tag in tags if isinstance(tag, Lost)), None):
        return lost
    known = [(v, t) for v, t in zip(values, tags, strict=True) if isinstance(t, (Tokens, Pair))]
    if not known:
        return None
    other = next((value for value in values if value is not known[0][0]), None)
    constant = not isinstance(other, Tensor) or other.numel() == 1
    masks = constant or isinstance(known[0][1], Pair)
    if len(known) == 1 and masks and not _skewed(known[0][1]):
        return along(call, known[0][1], copies=True)
    return written(call)


def _skewed(tag: Tokens | Pair) -> bool:
    """Scores laid out in bands, where a mask closes places that belong to no pair at all."""
    if isinstance(tag, Tokens) or tag.rows is None or tag.columns is None:
        return False
    last = len(tag.rows.labels.shape) - 1
    return last in tag.rows.labels.varying and last in tag.columns.labels.varying


def written_view(call: Call) -> Tag | None:
    """`view.copy_(x)`: the labels are written into the base tensor as well."""
    tag = written(call)
    view = call.subject
    base = base_of(view)
    if not isinstance(tag, Tokens) or base is None:
        return tag
    notebook, known = call.notebook, call.tag_of(base)
    full = torch.full(base.shape, NO_TOKEN)
    if isinstance(known, Tokens):
        if known.state is not tag.state:
            return call.lost("writes tokens of two states into one buffer")
        full = known.labels.full().clone()
    laid = torch.empty_strided(base.shape, base.stride(), dtype=torch.long)
    laid.copy_(full)
    offset = view.storage_offset() - base.storage_offset()
    laid.as_strided(view.shape, view.stride(), offset).copy_(tag.labels.full())
    notebook.mark(base, Tokens(tag.state, Labels.of(laid), tag.node, tag.pending))
    return tag
