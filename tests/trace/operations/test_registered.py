"""`trace.operations.registered`: an operator of a library, called in every spelling.

Its parameters have names of the library's own, so the rules that it borrows go by their places.
"""

import pytest
import torch
from tiny.spelled import before_attention, check_backward, check_spelling
from torch.nn import functional

from relmap.trace.operations import OPERATIONS

LIBRARY = torch.library.Library("relmapspelled", "DEF")
LIBRARY.define("affine(Tensor x, Tensor w, Tensor? b) -> Tensor")
LIBRARY.define("turned(Tensor x, int one, int other) -> Tensor")
LIBRARY.impl("affine", functional.linear, "CompositeImplicitAutograd")
LIBRARY.impl("turned", lambda *x: torch.transpose(*x).clone(), "CompositeImplicitAutograd")
OWN = torch.ops.relmapspelled
AFFINE = [
    before_attention(function)
    for function in (
        lambda net, x: functional.linear(x, net.linear.weight, net.linear.bias),
        lambda net, x: OWN.affine(x, net.linear.weight, net.linear.bias),
        lambda net, x: OWN.affine.default(x, net.linear.weight, net.linear.bias),
        lambda net, x: OWN.affine(x=x, w=net.linear.weight, b=net.linear.bias),
        lambda net, x: OWN.affine(b=net.linear.bias, w=net.linear.weight, x=x),
        lambda net, x: OWN.affine(x, b=net.linear.bias, w=net.linear.weight),
    )
]
TURNED = [
    before_attention(function)
    for function in (
        lambda net, x: x.transpose(1, 2).transpose(1, 2),
        lambda net, x: OWN.turned(OWN.turned(x, 1, 2), 1, 2),
        lambda net, x: OWN.turned(x=OWN.turned(other=2, one=1, x=x), one=2, other=1),
    )
]


@pytest.fixture
def operations():
    """The registry of all, put back as it was."""
    OPERATIONS.discover()
    before = dict(OPERATIONS._entries)
    OPERATIONS.register("relmapspelled.affine", like="linear")
    OPERATIONS.register("relmapspelled.turned", like="transpose")
    yield
    OPERATIONS._entries.clear()
    OPERATIONS._entries.update(before)


@pytest.mark.usefixtures("operations")
@pytest.mark.parametrize("place", range(len(AFFINE)))
def test_a_product_under_names_of_its_own(place):
    check_spelling(AFFINE, place)


@pytest.mark.usefixtures("operations")
@pytest.mark.parametrize("backward", ["attnlrp", "lrp"])
def test_a_backward_under_names_of_its_own(backward):
    check_backward(AFFINE, backward)


@pytest.mark.usefixtures("operations")
@pytest.mark.parametrize("place", range(len(TURNED)))
def test_a_movement_under_names_of_its_own(place):
    check_spelling(TURNED, place)
