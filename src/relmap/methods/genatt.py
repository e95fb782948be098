"""GenAtt: generic attention-model explainability (Chefer, Gur & Wolf, ICCV 2021).

    E = E_h[(A * dA)+]                                                    (eq. 5)
    self-attention:  R_ss += E R_ss,  R_sq += E R_sq                      (eq. 6, 7)
    co-attention:    R_sq += N(R_ss)^T E N(R_qq),  R_ss += E R_qs         (eq. 10, 11)
    N(R) = (R - I) / rowsum(R - I) + I                                    (eq. 8, 9)

Self-attention alone is linear in R, so there the wanted rows are pushed; co-attention reads whole
maps.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from relmap.methods import METHODS
from relmap.relevance.attention_maps import gradient_weighted
from relmap.relevance.join_weights import added_up, attention_alone
from relmap.relevance.maps import Maps, carry_maps, read_rows
from relmap.relevance.rows import PropagationRule, RecordedPass, push_rows
from relmap.relevance.streams import answers, crosses, has_cross_attention, own_leaves
from relmap.trace.graph import State


def genatt_maps(
    passed: RecordedPass, normalize: bool, self_in_rule_10: bool, aggregate: bool, start_layer: int
) -> Maps:
    """The whole map R of every state, with the options of `genatt`."""
    rule = PropagationRule(
        gradient_weighted, added_up if aggregate else attention_alone, None, True, start_layer
    )
    if not has_cross_attention(passed.graph):
        return carry_maps(passed, rule)
    switches = _Switches(normalize and aggregate, self_in_rule_10, aggregate)

    def update(
        maps: Maps, state: State, residual: dict[int, Tensor], calls: list[tuple[int, Tensor]]
    ) -> dict[int, Tensor]:
        return _update(maps, switches, state, residual, calls)

    return carry_maps(passed, rule, update)


@METHODS.register(
    "genatt",
    aliases=("generic-attention", "transformer-mm", "chefer-2021b"),
    reference="Chefer, Gur & Wolf, ICCV 2021, eq. 5-11",
    needs=("attention", "attention-gradient", "contribution"),
    target_dependent=True,
    maps=genatt_maps,
)
def genatt(
    passed: RecordedPass,
    *,
    normalize: bool = True,
    self_in_rule_10: bool = True,
    aggregate: bool = True,
    start_layer: int = 0,
) -> dict[int, Tensor]:
    """Gradient-weighted attention, added up along the token graph.

    `normalize` is eq. 8-9 (used in co-attention only), `self_in_rule_10` multiplies the
    cross-attention by both self maps in eq. 10, `aggregate=False` replaces the maps instead of
    adding to them (the paper's ablation). Published settings: all defaults; the CLIP notebook uses
    `start_layer=-1`. A row without relevance stays zero in eq. 8, where the authors' DETR code
    loses the whole layer. Use it for any attention model; a good first choice for images.
    """
    if has_cross_attention(passed.graph):
        return read_rows(genatt_maps(passed, normalize, self_in_rule_10, aggregate, start_layer))
    rule = PropagationRule(
        gradient_weighted, added_up if aggregate else attention_alone, None, True, start_layer
    )
    return push_rows(passed, rule)


@dataclass(frozen=True)
class _Switches:
    normalize: bool
    self_in_rule_10: bool
    aggregate: bool


def _update(
    maps: Maps, switches: _Switches, state: State, residual: dict[int, Tensor],
    calls: list[tuple[int, Tensor]],
) -> dict[int, Tensor]:  # fmt: skip
    """All additions of a join, computed from the maps before it."""
    own = own_leaves(maps.graph, state.index)
    additions: dict[int, Tensor] = {}
    for key, mixed in calls:
        if crosses(maps.graph, state.index, key):
            found = _cross(maps, switches, state, residual, key, mixed)
        else:
            found = {leaf: mixed @ block for leaf, block in maps.blocks[key].items()}
        for leaf, block in found.items():
            additions[leaf] = additions[leaf] + block if leaf in additions else block
    if not switches.aggregate:
        # Eq. 11 replaces the own map as well, by zero where the keys know nothing of it yet.
        gone = own if any(answers(maps.graph, state.index, key) for key, _ in calls) else ()
        return {leaf: old for leaf, old in residual.items() if leaf not in gone} | additions
    blocks = dict(residual)
    for leaf, block in additions.items():
        old = residual.get(leaf)
        blocks[leaf] = block if old is None else old + block
    return blocks


def _cross(
    maps: Maps, switches: _Switches, state: State, residual: dict[int, Tensor], key: int,
    mixed: Tensor,
) -> dict[int, Tensor]:  # fmt: skip
    """Eq. 10 for the keys' own leaves, eq. 11 and plain propagation for all others."""
    theirs = [leaf for leaf in own_leaves(maps.graph, key) if leaf in maps.units[key]]
    blocks = maps.blocks[key]
    found = {leaf: mixed @ block for leaf, block in blocks.items() if leaf not in theirs}
    if not theirs:  # pooled by learned queries: what they read is all there is
        return found
    units = {leaf: maps.units[key][leaf] for leaf in theirs}
    if not switches.self_in_rule_10:
        return found | {leaf: mixed @ unit for leaf, unit in units.items()}
    read = {leaf: maps.block(key, leaf) for leaf in theirs}
    if switches.normalize:
        read = _normalized(read, units)
    mine = _own_map(maps, switches, state, residual)
    for leaf, block in read.items():
        inner = mixed @ block
        found[leaf] = inner if mine is None else mine.transpose(-1, -2) @ inner
    return found


def _own_map(
    maps: Maps, switches: _Switches, state: State, residual: dict[int, Tensor]
) -> Tensor | None:
    """The stream's map onto its own tokens, N(R_ss); None where its tokens were merged."""
    units = maps.units[state.index]
    own = [leaf for leaf in own_leaves(maps.graph, state.index) if leaf in units]
    if not own or not _is_permutation(units, own):
        return None
    whole = torch.cat([units[leaf] for leaf in own], dim=-1)
    mine = [residual.get(leaf, torch.zeros_like(units[leaf])) for leaf in own]
    total = torch.cat(mine, dim=-1) @ whole.transpose(-1, -2)
    identity = torch.eye(total.shape[-1], dtype=total.dtype, device=total.device)
    return _normalized({0: total}, {0: identity})[0] if switches.normalize else total


def _is_permutation(units: dict[int, Tensor], own: list[int]) -> bool:
    parts = [units[leaf] for leaf in own if leaf in units]
    whole = torch.cat(parts, dim=-1)
    return whole.shape[-1] == whole.shape[-2] and bool(((whole == 0) | (whole == 1)).all())


def _normalized(blocks: dict[int, Tensor], units: dict[int, Tensor]) -> dict[int, Tensor]:
    """Eq. 8-9 over blocks side by side; a row without relevance beyond its own stays as it is."""
    beyond = {leaf: block - units[leaf] for leaf, block in blocks.items()}
    total = torch.stack([part.sum(dim=-1, keepdim=True) for part in beyond.values()]).sum(0)
    safe = torch.where(total != 0, total, 1)
    return {
        leaf: torch.where(total != 0, part / safe, 0) + units[leaf] for leaf, part in beyond.items()
    }
