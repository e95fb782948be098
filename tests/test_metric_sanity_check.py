"""The sanity check: maps of a model that has forgotten what it learned."""

import pytest
import torch
from tiny_trials import measured, pictures, vit

from relmap.metrics.sanity_check import randomised, rank_correlation


def test_sanity_check_tells_maps_that_ignore_the_model():
    model, examples = vit(), pictures(4)
    blind = measured(model, examples, "random", "sanity-check")
    # the random control draws the same numbers whatever the weights
    assert blind["sanity-check"][None] == pytest.approx([1.0] * 4)
    seeing = measured(model, examples, "input-x-gradient", "sanity-check")
    assert sum(seeing["sanity-check"][None]) / 4 < 0.8
    half, whole = (randomised(model.network, share, 0) for share in (0.5, 1.0))
    first = next(iter(model.network.state_dict()))
    assert torch.equal(half.state_dict()[first], model.network.state_dict()[first])
    weights = "classifier.weight"
    assert torch.equal(half.state_dict()[weights], whole.state_dict()[weights])
    ordered = (one.state_dict()[weights].flatten().sort().values for one in (whole, model.network))
    torch.testing.assert_close(*ordered)


def test_rank_correlation_is_scipys():
    stats = pytest.importorskip("scipy.stats")
    torch.manual_seed(0)
    some, other = torch.randint(0, 5, (2, 6, 20)).double()
    wanted = [stats.spearmanr(a, b).statistic for a, b in zip(some, other, strict=True)]
    assert rank_correlation(some, other).tolist() == pytest.approx(wanted)
