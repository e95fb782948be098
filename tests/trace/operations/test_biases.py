"""`trace.operations.biases`: every spelling of a bias is the same bias in the same place.

FullGrad adds up x dF/dx of the input and b dF/db of every bias. The truth is the same sum over the
parameters by plain autograd; what a normalisation adds of its running mean is no parameter, and the
places in which the same bias is read twice must not count twice.
"""

import pytest
import torch
from tiny.spelled import Spelled, example, table
from tiny.spellings import ADDITIONS, CONVOLUTIONS, PRODUCTS, REDUCTIONS

import relmap

BIASED = {
    "a constant": ADDITIONS["a constant"],
    "linear": PRODUCTS["linear"],
    "layer_norm": REDUCTIONS["layer_norm"],
    "one place": CONVOLUTIONS["one place"],
    "three places": CONVOLUTIONS["three places"],
}
ADDED_BY_HAND = ("a constant", "one place", "three places")


def total_by_hand(network, x, by_hand):
    """The sum over the input and all biases of each times its gradient."""
    x = x[:1].clone().requires_grad_()
    network(x)[:, 2].sum().backward()
    biases = [value for name, value in network.named_parameters() if name.endswith("bias")]
    biases += [network.scale] if by_hand else []
    parts = [x, *(bias for bias in biases if bias.grad is not None)]
    return sum((part * part.grad).sum() for part in parts).detach()


def fullgrad(bodies, place, x):
    return relmap.explain(
        Spelled(bodies[place]), x=x[:1], target=2, method="fullgrad-plus", backward="gradient",
        layers="input",
    ).scores["x"]  # fmt: skip


@pytest.mark.parametrize("name", BIASED)
def test_all_biases_add_up_to_what_autograd_says(name):
    x = example()
    wanted = total_by_hand(Spelled(BIASED[name][0]), x, name in ADDED_BY_HAND)
    assert torch.allclose(fullgrad(BIASED[name], 0, x).sum(), wanted, rtol=1e-9)


@pytest.mark.parametrize(
    ("name", "place"),
    table(BIASED | {"running statistics": CONVOLUTIONS["running statistics"]}),
)
def test_every_spelling_has_the_same_biases(name, place):
    x = example()
    bodies = (BIASED | CONVOLUTIONS)[name]
    plain, spelled = fullgrad(bodies, 0, x), fullgrad(bodies, place, x)
    assert torch.allclose(spelled, plain, rtol=1e-9, atol=1e-12)
