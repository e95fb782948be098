"""AttCAT as it is computed equals AttCAT as it is written."""

from __future__ import annotations

import pytest
import torch
from reference import cases
from reference.attcat import relevance

import relmap

MAKERS = [cases.vit, cases.bert, cases.lxmert]


@pytest.mark.parametrize("make", MAKERS, ids=lambda one: one.__name__)
@pytest.mark.parametrize("attention", [True, False])
def test_maps_agree_with_the_formula(make, attention):
    case = make("eager")
    found = relmap.explain(
        case.fast, target=case.target, method="attcat", attention=attention, **case.inputs
    )
    for index in range(2):
        wanted = relevance(case.records(index), case.size, attention)
        scores = case.side_by_side(found.scores, index)
        torch.testing.assert_close(scores, wanted, rtol=1e-6, atol=1e-6)
        assert (scores < 0).any()


def test_start_layer_leaves_the_first_layers_out():
    case = cases.vit("sdpa")
    found = relmap.explain(
        case.fast, target=case.target, method="attcat", start_layer=1, **case.inputs
    )
    wanted = relevance(case.records(0)[1:], case.size)
    torch.testing.assert_close(found.scores["pixel_values"][0], wanted, rtol=1e-6, atol=1e-6)
