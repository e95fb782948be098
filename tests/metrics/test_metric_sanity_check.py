"""The sanity check: maps of a model that has forgotten what it learned."""

import pytest
import torch
from tiny.trials import measured, pictures, text_model, texts, vit

import relmap
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


@pytest.mark.parametrize("source", ["image", "text"])
def test_every_stage_is_the_same_method_on_a_network_that_forgot_more(source):
    stats = pytest.importorskip("scipy.stats")
    if source == "image":
        model, examples = vit(), pictures(2)
        inputs = [{"pixel_values": one.image[None]} for one in examples]
    else:
        model, examples = text_model(), texts([7, 4])
        rows = [list(map(int, one.text.split())) for one in examples]
        inputs = [{"input_ids": torch.tensor([row])} for row in rows]
    name, option, value = {
        "image": ("input-x-gradient", "backward", "libra"),
        "text": ("genatt", "start_layer", 1),
    }[source]
    options = {"method": name, option: value}
    metric = f"sanity-check:source={source},stages=3,seed=5"
    found = measured(model, examples, f"{name}:{option}={value}", metric)
    assert list(found["sanity-check-curve"]) == [1 / 3, 2 / 3, 1]
    for at, given in enumerate(inputs):
        chosen = int(model.network(**given).logits.argmax())
        (known,) = relmap.explain(model.network, **given, **options).scores.values()
        curve = []
        for stage in (1, 2, 3):
            network = randomised(model.network, stage / 3, 5)
            (other,) = relmap.explain(network, target=chosen, **given, **options).scores.values()
            content = slice(1, None if source == "image" else -1)  # no special tokens
            pair = (one[0, content].abs().numpy() for one in (known, other))
            curve.append(stats.spearmanr(*pair).statistic)
        values = [found["sanity-check-curve"][step][at] for step in (1 / 3, 2 / 3, 1)]
        assert values == pytest.approx(curve, abs=1e-9)
        assert found["sanity-check"][None][at] == pytest.approx(sum(curve) / 3, abs=1e-9)


def test_another_seed_shuffles_otherwise():
    network = vit().network
    some, same, other = (randomised(network, 1.0, seed).classifier.weight for seed in (0, 0, 1))
    assert torch.equal(some, same)
    assert not torch.equal(some, other)
