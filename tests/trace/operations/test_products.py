"""`trace.operations.products`: every legal spelling gives one graph and the literal map."""

import pytest
import torch
from tiny.spelled import Spelled, check_spelling, example, genatt_by_hand, table
from tiny.spellings import PRODUCTS

import relmap


@pytest.mark.parametrize(("name", "place"), table(PRODUCTS))
def test_every_spelling_gives_the_literal_map(name, place):
    check_spelling(PRODUCTS[name], place)


def test_memory_of_the_network_that_it_writes_on_is_its_own_again():
    def body(net, x):
        return x + net.attend(torch.matmul(x, net.linear.weight, out=net.memory))

    network, plain, x = Spelled(body), Spelled(PRODUCTS["matmul"][0]), example()
    network.register_buffer("memory", torch.zeros(0, dtype=x.dtype))
    for _ in range(2):  # what the first left behind would stop the second
        result = relmap.explain(network, x=x, target=2, method="genatt", backward="gradient")
        assert torch.allclose(result.scores["x"], genatt_by_hand(plain, x, 2), rtol=1e-9)
        assert not network.memory.requires_grad
        assert vars(network.memory) == {}
    with torch.no_grad():
        assert torch.equal(network(x), plain(x))
