"""Attention flow equals a literal one; what is too large is refused."""

from __future__ import annotations

import pytest
import torch
from reference import cases
from reference.attention_flow import relevance

import relmap
from relmap.errors import InputError
from relmap.methods import attention_flow

WEIGHTS = {
    "attention": lambda record: record.attention.mean(0),
    "gradient": lambda record: record.attention_gradient.clamp_min(0).mean(0),
    "attention-gradient": lambda record: (
        (record.attention * record.attention_gradient).clamp_min(0).mean(0)
    ),
}


@pytest.mark.parametrize("make", [cases.vit, cases.bert], ids=lambda one: one.__name__)
@pytest.mark.parametrize("capacities", WEIGHTS)
def test_flows_agree_with_augmenting_paths(make, capacities):
    case = make("sdpa")
    found = relmap.explain(
        case.fast, target=case.target, method="attention-flow", capacities=capacities,
        **case.inputs,
    )  # fmt: skip
    for index in range(2):
        wanted = relevance(case.records(index), case.size, case.row(index), WEIGHTS[capacities])
        scores = case.side_by_side(found.scores, index)
        torch.testing.assert_close(scores, wanted, rtol=1e-6, atol=1e-6)


def test_large_inputs_are_refused(monkeypatch):
    case = cases.bert("sdpa")
    pairs = 2 * 7 * 7
    monkeypatch.setattr(attention_flow, "EDGES", pairs)
    relmap.explain(case.fast, target=case.target, method="attention-flow", **case.inputs)
    monkeypatch.setattr(attention_flow, "EDGES", pairs - 1)
    with pytest.raises(InputError, match=r"98 pairs of attending tokens.*rollout"):
        relmap.explain(case.fast, target=case.target, method="attention-flow", **case.inputs)
