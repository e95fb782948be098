"""While a pass is recorded the network is as its users left it: trained, explained, forked."""

import functools
import os
import threading
import types

import pytest
import torch
from torch import nn

import relmap
from relmap.trace.stand_in import stand_in


class Network(nn.Module):
    """One block with dropout, which tells training from evaluation."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.5, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.block(x)[:, 0])


def in_another_thread(function):
    outcome = []

    def run():
        try:
            outcome.append(function())
        except BaseException as error:  # raised where it is seen
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(30)
    assert not thread.is_alive(), "it waits for the pass to end"
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


def test_a_step_of_training_in_the_middle_of_a_pass_is_a_step_of_training():
    network = Network().train()
    x = torch.randn(2, 5, 8)

    def step():
        torch.manual_seed(1)
        loss = network(x).square().sum()
        loss.backward()
        found = [parameter.grad.clone() for parameter in network.parameters()]
        network.zero_grad()
        return found

    wanted, seen = step(), []

    def target(output):
        seen.append(in_another_thread(step))
        return output[:, 1]

    result = relmap.explain(network, x=x, target=target)
    assert result.scores["x"].isfinite().all()
    assert len(seen) == 1
    for found, right in zip(seen[0], wanted, strict=True):
        assert torch.equal(found, right)


def test_another_network_is_explained_in_the_middle_of_a_pass():
    first, second = Network().eval(), Network().eval()
    x = torch.randn(1, 5, 8)
    alone = relmap.explain(second, x=x, target=2).scores["x"]
    seen = []

    def target(output):
        seen.append(in_another_thread(lambda: relmap.explain(second, x=x, target=2).scores["x"]))
        return output[:, 1]

    relmap.explain(first, x=x, target=target)
    assert torch.equal(seen[0], alone)
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_that_was_forked_in_the_middle_of_a_pass_can_explain():
    network, x = Network().eval(), torch.randn(1, 5, 8)
    codes = []

    def target(output):
        child = os.fork()
        if child == 0:
            good = torch.backends.mha.get_fastpath_enabled()
            os._exit(0 if good else 1)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        return output[:, 1]

    relmap.explain(network, x=x, target=target)
    assert codes == [0]


class Odd(nn.Module):
    """Whatever modules hold beside their parts."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight  # tied
        self.by_list = [self.first.weight, (self.second,)]
        self.by_name = {"first": self.first}
        self.method = self.helper
        self.bound = functools.partial(Odd.helper, self)
        self.register_forward_hook(lambda module, _, output: output * module.scale)
        self.register_buffer("steps", torch.zeros(()))
        self.scale = 2.0
        self.forward = types.MethodType(Odd.run, self)

    def helper(self, x):
        return self.second(x)

    def run(self, x):
        self.steps = self.steps + 1
        return self.method(self.by_name["first"](x)) + self.bound(x) + x @ self.by_list[0]


def test_a_stand_in_computes_the_same_and_touches_nothing():
    odd, x = Odd().train(), torch.randn(2, 4)
    wanted = odd(x)
    copied = stand_in(odd)
    assert torch.equal(copied(x), wanted)
    assert copied(x).grad_fn is None
    assert wanted.grad_fn is not None
    assert (odd.steps, copied.steps) == (1, 3)
    assert copied.second.weight is copied.first.weight is copied.by_list[0]
    assert copied.by_list[1][0] is copied.second
    assert not any(module.training for module in copied.modules())
    assert all(module.training for module in odd.modules())
    copied.register_forward_hook(lambda *_: None)
    copied.first = nn.Identity()
    assert len(odd._forward_hooks) == 1
    assert isinstance(odd.first, nn.Linear)


def test_a_network_that_was_compiled_is_copied_as_it_was():
    network = Network()
    compiled = torch.compile(network, backend="eager")
    copied = stand_in(compiled)
    assert type(copied) is Network
    assert not copied.training
