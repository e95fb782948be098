"""Attention calls: the three shapes in which they appear, brought into one form.

(a) `scaled_dot_product_attention`; (b) `multi_head_attention_forward`, which is written out in
`multi_head` and comes back as (a); (c) a softmax followed by a matrix product. All end in
`_record`, which lays q, k, v, the map and the output out as (group, head, token, feature).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from relmap.trace.calls import Call
from relmap.trace.graph import Activation, Arrangement
from relmap.trace.labels import Labels
from relmap.trace.tags import (
    AttentionDraft,
    Constant,
    Lost,
    Node,
    Pair,
    Pending,
    Tag,
    Tokens,
    activation,
)

if TYPE_CHECKING:
    from relmap.trace.drafts import Notebook


def scaled_dot_product_attention(call: Call) -> Any:
    """Shape (a): run the fused kernel and record its operands."""
    notebook = call.notebook
    q, k, v = (call.argument(i, n, None) for i, n in enumerate(("query", "key", "value")))
    output = _run_kernel(call)
    tags = [notebook.tag(tensor) for tensor in (q, k, v)]
    lost = next((tag for tag in tags if isinstance(tag, Lost)), None)
    if lost is None and any(isinstance(tag, Pair) for tag in tags):
        lost = call.lost("attends to scores")
    if lost is not None:
        notebook.hidden.append(lost.reason)
        notebook.attach(output, lost)
        return output
    output = _with_gradient(output)
    found = _token_operands(notebook, (q, k, v), tags)
    for tag in found:
        if tag.labels.shape[-1] > 1 and len(tag.labels.shape) - 1 in tag.labels.varying:
            lost = call.lost("attends over channels instead of tokens")
            notebook.hidden.append(lost.reason)
            notebook.attach(output, lost)
            return output
    rows, _, values = (Tokens(t.state, t.labels.collapse([-1]), t.node) for t in found)
    lead = output.shape[:-2]
    sides = _Sides(rows, values, (*lead, q.shape[-2]), (*lead, k.shape[-2]))
    layout = _lay_out(sides)
    mask = call.argument(3, "attn_mask", None)
    arrays: dict[str, object] = {
        "query": _lead(q.detach(), lead, layout),
        "key": _grouped(k.detach(), lead, layout),
        "value": _grouped(v.detach(), lead, layout),
        "mask": None if mask is None else _mask(mask.detach(), lead, layout, q, k),
        "causal": bool(call.argument(5, "is_causal", False)),
        "scale": _scale(call.argument(6, "scale", None), q.shape[-1]),
    }
    if notebook.taped:
        arrays |= _values_again(v, found[2], lambda tensor: _grouped(tensor, lead, layout))
    labels = Labels(tuple(output.shape), rows.labels.values.unsqueeze(-1), folded=True)
    notebook.attach(output, _record(notebook, sides, layout, (output, labels, layout), arrays))
    return output


def _scale(given: float | None, width: int) -> float:
    """The scale of the scores, which may be zero."""
    return 1 / math.sqrt(width) if given is None else given


def _run_kernel(call: Call) -> Tensor:
    """Run the kernel; a learned bias is detached, since the fused kernels want it constant."""
    mask = call.argument(3, "attn_mask", None)
    if mask is None or not mask.requires_grad or isinstance(call.notebook.tag(mask), Tokens | Pair):
        return call.run(*call.args, **call.kwargs)
    if len(call.args) > 3:
        return call.run(*call.args[:3], mask.detach(), *call.args[4:], **call.kwargs)
    return call.run(*call.args, **(call.kwargs | {"attn_mask": mask.detach()}))


@dataclass(frozen=True, slots=True, eq=False)
class Lettered:
    """An operand of a product with a letter for each of its axes."""

    tensor: Tensor
    letters: str
    tag: Any = None

    def laid(self, order: Sequence[str]) -> Tensor:
        """The tensor along the given letters; missing ones are axes of size 1."""
        return self.along(self.tensor.detach(), order)

    def along(self, tensor: Tensor, order: Sequence[str]) -> Tensor:
        """Another tensor with the same letters, along the given ones."""
        moved = tensor.permute(
            [self.letters.index(letter) for letter in order if letter in self.letters]
        )
        for position, letter in enumerate(order):
            if letter not in self.letters:
                moved = moved.unsqueeze(position)
        return moved


@dataclass(frozen=True, slots=True, eq=False)
class _Sides:
    """Tokens of the queries and of the keys, along the leading axes and their own."""

    rows: Tokens
    keys: Tokens
    query_shape: tuple[int, ...]
    key_shape: tuple[int, ...]


def attend(call: Call, pair: Pair, maps: Lettered, value: Lettered, out: str) -> Tag:
    """Shape (c): an attention map times values."""
    notebook, letters = call.notebook, maps.letters
    key = next(letter for letter in letters if letter not in out)
    features = [letter for letter in value.letters if letter not in letters]
    query = _query_letter(pair, letters, value.letters, out)
    if query is None or len(features) != 1:
        return call.lost("is an attention in a form relmap does not read")
    lead = [letter for letter in letters if letter not in (query, key)]
    call.result = output = _with_gradient(call.result)
    shape = tuple(maps.tensor.shape[letters.index(letter)] for letter in lead)
    query_shape = (*shape, maps.tensor.shape[letters.index(query)])
    keys = _values(notebook, value, [*lead, key], pair, letters)
    if keys is None:
        return call.lost("reads values whose tokens are not those of the keys")
    rows = _rows(notebook, pair, maps, [*lead, query], keys, query_shape)
    sides = _Sides(rows, keys, query_shape, (*shape, maps.tensor.shape[letters.index(key)]))
    order = [out.index(letter) for letter in (*lead, query, features[0])]
    layout = _lay_out(sides)
    arranged = replace(layout, permutation=tuple(order[axis] for axis in layout.permutation))
    laid = value.laid([*lead, key, features[0]])
    arrays: dict[str, object] = {
        "probabilities": layout.apply(maps.laid([*lead, query, key])),
        "value": layout.apply(laid.expand(*shape, *laid.shape[-2:])),
    }
    if notebook.taped:
        arrays |= _scored(pair, layout, (*shape,))

        def lay(tensor: Tensor) -> Tensor:
            moved = value.along(tensor, [*lead, key, features[0]])
            return layout.apply(moved.expand(*shape, *moved.shape[-2:]))

        arrays |= _values_again(value.tensor, value.tag, lay)
    spread = Labels((*query_shape, 1), rows.labels.values.unsqueeze(-1)).permute(_inverse(order))
    labels = Labels(tuple(output.shape), spread.values, folded=True)
    return _record(notebook, sides, layout, (output, labels, arranged), arrays)


def _values_again(values: Tensor, tag: Any, lay: Callable[[Tensor], Tensor]) -> dict[str, object]:
    """What it takes to ask for the values of a call in another pass."""
    if not isinstance(tag, Tokens) or not values.requires_grad:
        return {}
    return {
        "value_input": _projected_from(tag.node),
        "value_output": activation(values, tag.labels, value=False),
        "lay_values": lay,
    }


def _projected_from(node: Node) -> Activation | None:
    """What the last projection behind a value read; nothing where several values met since."""
    current = node.root
    while current.read is None and len(current.parents) == 1:
        current = current.parents[0].root
    return current.read


def _scored(pair: Pair, layout: Arrangement, lead: tuple[int, ...]) -> dict[str, object]:
    """Queries and keys that the scores were made of, where both have a row per token and head."""
    sides = [side.node.scored for side in (pair.rows, pair.columns) if side is not None]
    found = [side for side in sides if side is not None and side.ndim == len(lead) + 2]
    if len(found) < 2 or any(tuple(one.shape[:-2]) != lead for one in found):
        return {}
    return {"query": layout.apply(found[0]), "key": layout.apply(found[1])}


def _inverse(order: list[int]) -> list[int]:
    return [order.index(axis) for axis in range(len(order))]


def _query_letter(pair: Pair, letters: str, value_letters: str, out: str) -> str | None:
    free = [letter for letter in letters if letter in out and letter not in value_letters]
    if pair.rows is not None:
        varying = [one for one in free if letters.index(one) in pair.rows.labels.varying]
        if len(varying) == 1:
            return varying[0]
    return free[-1] if free else None


def _values(
    notebook: Notebook, value: Lettered, order: list[str], pair: Pair, letters: str
) -> Tokens | None:
    """Tokens of the values along (lead, key); for constant values those of the keys."""
    columns, tag, tensor = pair.columns, value.tag, value.tensor
    if tag is None or isinstance(tag, Constant):
        if columns is not None:
            return Tokens(columns.state, _ordered(columns.labels, letters, order), columns.node)
        features = [
            axis
            for axis, letter in enumerate(value.letters)
            if letter != order[-1] and not (axis == 0 and tensor.ndim > 2)
        ]
        tag = notebook.learn(tensor, features)
    tag = notebook.settle(tag, tensor)
    key_axis = value.letters.index(order[-1])
    if tensor.shape[key_axis] > 1 and key_axis not in tag.labels.varying:
        return None
    return Tokens(tag.state, _ordered(tag.labels, value.letters, order), tag.node)


def _rows(
    notebook: Notebook,
    pair: Pair,
    maps: Lettered,
    order: list[str],
    keys: Tokens,
    shape: tuple[int, ...],
) -> Tokens:
    if pair.rows is not None:
        labels = _ordered(pair.rows.labels, maps.letters, order)
        return Tokens(pair.rows.state, labels, pair.rows.node)
    if keys.state.kind == "learned" and shape[-1] == keys.labels.shape[-1]:
        return keys
    # Learned queries: one set per group, numbered where the keys' groups vary.
    features = [axis for axis in range(len(shape) - 1) if axis not in keys.labels.varying]
    return notebook.learned(maps.tensor.new_zeros(shape), Labels.number(shape, features))


def _ordered(labels: Labels, letters: str, order: list[str]) -> Labels:
    """Labels along the given letters; missing ones are added, others (features) dropped."""
    kept = [letter for letter in order if letter in letters]
    gone = [letter for letter in letters if letter not in order]
    moved = labels.permute([letters.index(letter) for letter in (*kept, *gone)])
    moved = moved.collapse(range(len(kept), len(letters))) if gone else moved
    values, shape = moved.values, list(moved.shape)
    for position, letter in enumerate(order):
        if letter not in letters:
            values = values.unsqueeze(position)
            shape.insert(position, 1)
    return Labels(tuple(shape), values)


def _token_operands(
    notebook: Notebook, tensors: tuple[Tensor, ...], tags: list[Tag | None]
) -> list[Tokens]:
    """Tokens of q, k, v; constants become learned tokens, shared where their rows pair up."""
    known = next((tag for tag in tags[1:] + tags[:1] if isinstance(tag, Tokens)), None)
    lead = () if known is None else known.labels.varying
    found: list[Tokens] = []
    for position, (tensor, tag) in enumerate(zip(tensors, tags, strict=True)):
        if isinstance(tag, Tokens):
            found.append(notebook.settle(tag, tensor))
            continue
        twin = _twin(found, tensor, position)
        if twin is not None:
            found.append(twin)
            continue
        groups = {0} if known is None else {a for a in lead if a < tensor.ndim - 2}
        features = [a for a in range(tensor.ndim) if a != tensor.ndim - 2 and a not in groups]
        found.append(notebook.learn(tensor, features))
    return found


def _twin(found: list[Tokens], tensor: Tensor, position: int) -> Tokens | None:
    """Learned tokens of the same call that a constant shares: v those of k, k those of q."""
    for other in reversed(found if position == 2 else found[:1]):
        same_rows = other.labels.shape[-2] == tensor.shape[-2]
        if same_rows and (other.state.kind == "learned" or position == 2):
            return Tokens(other.state, Labels(tuple(tensor.shape), other.labels.values), other.node)
    return None


def _lay_out(sides: _Sides) -> Arrangement:
    """Which leading axes are groups (their tokens differ) and which are heads."""
    rank = len(sides.query_shape) - 1
    rows = sides.rows.labels.broadcast_to(sides.query_shape)
    columns = sides.keys.labels.broadcast_to(sides.key_shape)
    varying = {*rows.varying, *columns.varying}
    groups = [axis for axis in range(rank) if axis in varying]
    heads = [axis for axis in range(rank) if axis not in varying]
    group_count = math.prod(sides.query_shape[axis] for axis in groups)
    head_count = math.prod(sides.query_shape[axis] for axis in heads)
    plain = Arrangement((*groups, *heads, rank, rank + 1), group_count, head_count)
    if head_count > 1 or group_count == 1:
        return plain
    return _unfold_heads(plain, rows, columns)


def _unfold_heads(plain: Arrangement, rows: Labels, columns: Labels) -> Arrangement:
    """Heads folded into the groups (`bmm` on batch x heads): groups with the same tokens."""
    signature = torch.cat(
        [_by_group(labels, plain.permutation) for labels in (rows, columns)], dim=-1
    )
    distinct = torch.unique(signature, dim=0).shape[0]
    total = plain.groups
    if distinct == total or total % distinct:
        return plain
    heads = total // distinct
    if torch.equal(signature, signature[::heads].repeat_interleave(heads, 0)):
        return Arrangement(plain.permutation, distinct, heads)
    if torch.equal(signature, signature[:distinct].repeat(heads, 1)):
        return Arrangement(plain.permutation, distinct, heads, heads_first=True)
    return plain


def _by_group(labels: Labels, permutation: tuple[int, ...]) -> Tensor:
    moved = labels.full().permute([axis for axis in permutation if axis < len(labels.shape)])
    return moved.reshape(-1, labels.shape[-1])


def _group_tokens(labels: Labels, shape: tuple[int, ...], layout: Arrangement) -> Tensor:
    """Token numbers as (group, token)."""
    full = labels.broadcast_to(shape)
    spread = Labels(shape, full.values).full().unsqueeze(-1)
    return layout.apply(spread)[:, 0, :, 0].contiguous()


def _lead(tensor: Tensor, lead: tuple[int, ...], layout: Arrangement) -> Tensor:
    return layout.apply(tensor.expand(*lead, *tensor.shape[-2:]))


def _grouped(tensor: Tensor, lead: tuple[int, ...], layout: Arrangement) -> Tensor:
    """Keys or values, which may have fewer heads than the queries."""
    if tensor.ndim == len(lead) + 2 and tensor.shape[-3] not in (1, lead[-1]):
        expanded = tensor.expand(*lead[:-1], *tensor.shape[-3:])
        heads = layout.heads * tensor.shape[-3] // lead[-1]
        return replace(layout, heads=heads).apply(expanded)
    return _lead(tensor, lead, layout)


def _mask(mask: Tensor, lead: tuple[int, ...], layout: Arrangement, q: Tensor, k: Tensor) -> Tensor:
    return layout.apply(mask.expand(*lead, q.shape[-2], k.shape[-2]))


def _with_gradient(output: Tensor) -> Tensor:
    """An attention between constants still has a gradient to ask for."""
    if torch.is_grad_enabled() and not output.requires_grad:
        return output.detach().requires_grad_()
    return output


def _record(
    notebook: Notebook,
    sides: _Sides,
    layout: Arrangement,
    result: tuple[Tensor, Labels, Arrangement],
    arrays: dict[str, object],
) -> Tokens:
    """Draft the call; `result` is its output, whose tokens it holds, and how it is laid out."""
    output, labels, output_layout = result
    rows, keys = sides.rows, sides.keys
    row_tokens = _group_tokens(rows.labels, sides.query_shape, layout)
    column_tokens = _group_tokens(keys.labels, sides.key_shape, layout)
    for tokens, what in ((row_tokens, "queries"), (column_tokens, "keys")):
        if tokens.shape[1] > 1 and bool((tokens == tokens[:, :1]).all()):
            raise notebook.refuse(f"an attention was found whose {what} cannot be told apart")
    draft = AttentionDraft(
        len(notebook.attentions),
        rows,
        keys,
        row_tokens,
        column_tokens,
        output_layout,
        activation(output, labels, value=False),
        arrays,
        notebook.module(),
        (rows.node, keys.node),
    )
    notebook.attentions.append(draft)
    node = notebook.node(rows.node, keys.node)
    return Tokens(rows.state, labels, node, Pending((draft,)))
