"""What every method gives, on every kind of model.

The methods come from the registry: whoever adds one is tested here without writing a line.
"""

from __future__ import annotations

import pytest
import torch
from architectures import build
from reference.contract import (
    CLASSIFIERS,
    PAIRS,
    REFUSED,
    double,
    explained,
    kinds_and_methods,
    methods_on,
    one_example,
    shared,
    usual,
)

import relmap
from relmap.methods import METHODS
from relmap.request.compatibility import default_backward, pairs
from relmap.testing import check_batch, check_layout


@kinds_and_methods
def test_scores_are_finite_and_laid_out(kind, method):
    built, found = shared(kind), usual(kind, method)
    check_layout(found, built.inputs, f"{method} on {kind}")
    assert len(found) == 2
    assert any((scores != 0).any() for scores in found.scores.values())
    for name, scores in found.scores.items():
        assert name == found.layout[name].names[0]
        assert scores.dtype == torch.float32


@kinds_and_methods
def test_a_batch_equals_its_examples(kind, method):
    # Relevance divides by sums near zero, which blows the noise of float32 up to per cents.
    check_together(kind, double(kind), method)


@pytest.mark.parametrize("kind", ["ViT", "LXMERT"])
@pytest.mark.parametrize(
    ("method", "backward"),
    [
        (method, backward)
        for method, backward in pairs()
        if backward != default_backward(METHODS.get(method))
    ],
)
def test_every_backward_that_fits_a_method_works_with_it(kind, method, backward):
    if (kind, method) not in PAIRS:
        pytest.skip("the method refuses this kind of network, whatever the backward")
    whole = check_together(kind, double(kind), method, backward=backward)
    assert whole.meta["backward"] == backward
    assert any((scores != 0).any() for scores in whole.scores.values())
    assert all(scores.isfinite().all() for scores in whole.scores.values())


REFUSALS = [(kind, method) for method in REFUSED for kind in sorted(REFUSED[method])]


@pytest.mark.parametrize(("kind", "method"), REFUSALS)
def test_a_method_that_refuses_a_network_says_why(kind, method):
    assert METHODS.get(method).requires
    with pytest.raises(relmap.RelmapError) as refusal:
        explained(shared(kind), method)
    assert len(str(refusal.value)) > 60


def check_together(kind, built, method, **changes):
    """Both examples together come out as each does alone."""
    if kind != "ViLT":
        how = {"target": built.target, "method": method, **changes}
        return check_batch(built.network, built.inputs, who=f"{method} on {kind}", **how)
    # It draws the order of its patches, for each example another.
    whole = explained(built, method, **changes)
    for index in range(0 if method == "random" else 2):
        alone = relmap.explain(
            built.network,
            target=built.target,
            method=method,
            **one_example(built, index),
            **changes,
        )
        for name, scores in alone.scores.items():
            of_one, of_both = scores, whole.scores[name][index : index + 1]
            if whole.layout[name].grid is not None:
                of_one, of_both = alone.image.scores, whole[index].image.scores
            torch.testing.assert_close(of_both, of_one, rtol=2e-4, atol=2e-6)
    return whole


@pytest.mark.parametrize("kind", ["LXMERT", "T5"])
def test_scores_do_not_change_their_type_where_nothing_arrives(kind):
    built = double(kind)
    network, inputs = built.network, built.inputs
    for method in (method for one, method in PAIRS if one == kind):
        found = relmap.explain(network, target=built.target, method=method, **inputs)
        wanted = torch.float32 if method == "random" else torch.float64
        assert {scores.dtype for scores in found.scores.values()} <= {wanted, torch.float64}, method


@methods_on("BERT", "nn.TransformerEncoder")
def test_padding_is_marked_where_a_mask_says_so(method):
    built = build("BERT")
    found = explained(built, method)
    padding = built.inputs["attention_mask"] == 0
    assert torch.equal(found.layout["input_ids"].padding, padding)
    assert found.scores["input_ids"][padding].eq(0).all()
    torch_built = build("nn.TransformerEncoder")
    found = explained(torch_built, method)
    padding = torch_built.inputs["src_key_padding_mask"]
    assert found.scores["src"].shape == padding.shape
    assert found.scores["src"][padding].eq(0).all()


@methods_on("Llama")
def test_padding_on_the_left_receives_nothing_either(method):
    built = build("Llama")
    ids, mask = built.inputs["input_ids"].flip(1), built.inputs["attention_mask"].flip(1)
    padding = mask == 0
    assert padding[1, 0]
    found = relmap.explain(built.network, method=method, input_ids=ids, attention_mask=mask)
    assert found.scores["input_ids"][padding].eq(0).all()


@pytest.mark.parametrize(("kind", "method"), [pair for pair in PAIRS if pair[0] in CLASSIFIERS])
def test_target_dependence_is_declared_truly(kind, method):
    built = shared(kind)
    entry = METHODS.get(method)
    first, second = (explained(built, method, target=target) for target in (0, 2))
    same = all(torch.equal(first.scores[name], second.scores[name]) for name in first.scores)
    assert same is not entry.target_dependent
    assert first.target != second.target


@methods_on("ViT")
def test_every_example_has_its_own_target(method):
    built = shared("ViT")
    mixed = explained(built, method, target=[0, 2])
    for index, target in enumerate((0, 2)):
        same = explained(built, method, target=target)
        torch.testing.assert_close(
            mixed.scores["pixel_values"][index], same.scores["pixel_values"][index]
        )
