"""Calls that make one branch together: heads of one attention that are computed one by one.

A list of heads, each a call of its own, is the attention that one call for all heads would be:
means over heads go over all of them. Outputs side by side along features are heads whatever they
read; added outputs are heads where each call has a single one and all read the same tokens, as
where every head has its own piece of the output projection. Calls of several heads each whose
outputs are added are attentions of their own.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from relmap.trace.tags import AttentionDraft, Pending

TWICE = (
    "puts several products of one attention map with values together; its gradient is the sum over "
    "all of them, which relmap does not form: multiply the map once, with the values side by side"
)


def side_by_side(pendings: Sequence[Pending]) -> bool:
    """Note that outputs stand side by side along features; False if one map made several."""
    drafts = _drafts(pendings)
    if _from_one_map(drafts):
        return False
    _join_heads(drafts)
    return True


def added(pendings: Sequence[Pending]) -> bool:
    """Note that outputs were added; False if one map made several."""
    drafts = _drafts(pendings)
    if _from_one_map(drafts):
        return False
    first = drafts[0]
    single = all(draft.arrangement.heads == 1 for draft in drafts)
    alike = all(draft.key.state is first.key.state for draft in drafts)
    if single and alike:
        _join_heads(drafts)
    return True


def share_of_heads(draft: AttentionDraft) -> float:
    """How large a part of all heads of its attention a call makes."""
    if not draft.heads_with:
        return 1.0
    rows = _rows(draft)
    fellows = [one for one in draft.heads_with if torch.equal(_rows(one), rows)]
    return draft.arrangement.heads / sum(one.arrangement.heads for one in fellows)


def _drafts(pendings: Sequence[Pending]) -> list[AttentionDraft]:
    known = {draft.index: draft for pending in pendings for draft in pending.attentions}
    return [known[index] for index in sorted(known)]


def _join_heads(drafts: Sequence[AttentionDraft]) -> None:
    maps = [draft for draft in drafts if "entered" not in draft.arrays]
    known = {one.index: one for draft in maps for one in (draft, *draft.heads_with)}
    if len(known) > 1:
        for draft in known.values():
            draft.heads_with = tuple(known.values())


def _from_one_map(drafts: Sequence[AttentionDraft]) -> bool:
    """Whether two of the calls multiplied the very same map."""
    seen = set[tuple[object, ...]]()
    for draft in drafts:
        arrays = draft.arrays
        made = (arrays.get("probabilities"),)
        if made[0] is None:
            made = (arrays.get("query"), arrays.get("key"), arrays.get("mask"))
        key = tuple(_place(one) for one in made if isinstance(one, Tensor))
        if key and key in seen:
            return True
        seen.add(key)
    return False


def _place(tensor: Tensor) -> tuple[object, ...]:
    return tensor.data_ptr(), tuple(tensor.shape), tensor.stride()


def _rows(draft: AttentionDraft) -> Tensor:
    rows = draft.row_tokens.flatten()
    return torch.unique(rows[rows >= 0])
