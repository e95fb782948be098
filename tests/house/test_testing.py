"""The contract tests that relmap hands to others, run on its own plug-ins and on broken ones."""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager

import pytest
import torch
from architectures import build
from reference.house import ROOT
from torch import nn

from relmap.backwards import BACKWARDS, Backward, deep_taylor, libra
from relmap.methods import METHODS
from relmap.metrics import METRICS
from relmap.relevance.attention_maps import gradient_weighted, head_mean
from relmap.relevance.rows import PropagationRule, push_rows
from relmap.testing import check_backward, check_method, check_metric, check_model
from relmap.testing.networks import Looking, looking, subjects

# What the tiny networks cannot be asked: a language model with image tokens, a detector, captions.
OTHER_NETWORKS = {"tam"}
OTHER_MODELS = {"detr-segmentation", "open-vocabulary-segmentation", "ref-clip-score"}


@pytest.mark.parametrize("name", [name for name in METHODS if name not in OTHER_NETWORKS])
def test_every_method_keeps_the_contract(name):
    check_method(name)


@pytest.mark.parametrize("name", list(BACKWARDS))
def test_every_backward_keeps_the_contract(name):
    check_backward(name)


@pytest.mark.parametrize("name", [name for name in METRICS if name not in OTHER_MODELS])
def test_every_metric_keeps_the_contract(name):
    check_metric(name)


@pytest.mark.parametrize("subject", subjects(), ids=lambda subject: subject.name)
def test_the_tiny_networks_keep_the_contract(subject):
    check_model(subject.network, **subject.inputs)


@pytest.mark.parametrize("kind", ["ViT", "BERT", "DETR", "T5"])
def test_networks_of_others_keep_the_contract(kind):
    built = build(kind)
    inputs = {
        name: value.double() if value.is_floating_point() else value
        for name, value in built.inputs.items()
    }
    check_model(built.network.double(), target=built.target, **inputs)


@pytest.mark.parametrize("name", sorted(OTHER_NETWORKS))
def test_a_method_that_could_not_be_tried_is_no_method_that_passed(name):
    with pytest.raises(AssertionError, match=r"explains none of the networks.*pass one"):
        check_method(name)


@pytest.mark.parametrize("name", sorted(OTHER_MODELS))
def test_a_metric_that_could_not_be_tried_is_no_metric_that_passed(name):
    with pytest.raises(AssertionError, match=r"judges none of the models.*pass"):
        check_metric(name)


@contextmanager
def registered(registry, function, **declared):
    """A plug-in that is there as long as the block lasts."""
    registry.names()
    registry.register("broken", **declared)(function)
    try:
        yield
    finally:
        del registry._entries["broken"], registry._names["broken"]


def one(sums, share):
    return torch.ones_like(sums), torch.ones_like(sums)


def pushed(passed):
    return push_rows(passed, PropagationRule(gradient_weighted, one))


def gives_nan(passed):
    """A method."""
    return {state: row * torch.nan for state, row in pushed(passed).items()}


def mixes_examples(passed):
    """A method."""
    return {state: row / row.sum() for state, row in pushed(passed).items()}


def draws_numbers(passed):
    """A method."""
    return {state: row + torch.rand(()) for state, row in pushed(passed).items()}


def scores_padding(passed):
    """A method."""
    return {state: torch.where(row == 0, 1.0, row) for state, row in pushed(passed).items()}


def looks_away(passed):
    """A method."""
    return push_rows(passed, PropagationRule(head_mean, one, gradient=False))


def without_words(passed):
    return pushed(passed)


def refuses(passed):
    """A method."""
    from relmap.errors import InputError

    raise InputError("not today")


GRADIENT = {"needs": ("attention", "attention-gradient")}


@pytest.mark.parametrize(
    ("method", "declared", "message"),
    [
        (gives_nan, GRADIENT, "NaN or infinite"),
        (mixes_examples, GRADIENT, "in a batch than alone: examples must not mix"),
        (draws_numbers, GRADIENT, "another map when it is asked again"),
        (scores_padding, GRADIENT, "relevance on padding"),
        (looks_away, {"needs": ("attention",)}, "does not depend on the target, but declares"),
        (pushed, GRADIENT, "no docstring"),
        (pushed, GRADIENT | {"target_dependent": False}, "no docstring"),
        (refuses, GRADIENT, r"refuses the network \(not today\), but declares no `requires`"),
        (looks_away, {"backward": "lrpp"}, "names a backward 'lrpp' that there is not"),
    ],
)
def test_a_broken_method_is_told_what_it_does_not_keep(method, declared, message):
    with (
        registered(METHODS, method, **declared),
        pytest.raises(AssertionError, match=message),
    ):
        check_method("broken")


def rules_with(family, name, rule):
    whole = libra() if family == "gradient" else deep_taylor()
    return Backward("broken", family, {**whole.rules, name: rule}, whole.settings)


def changes_values():
    """A backward."""
    return rules_with("gradient", "gelu", lambda operation: operation.run() * 1.001)


def is_called_otherwise():
    """A backward."""
    return libra()


def is_of_another_family():
    """A backward."""
    return Backward("broken", "relevance", {})


def has_no_rules():
    """A backward."""
    return Backward("broken", "gradient", {"add": lambda operation: operation.run()})


def mixes_what_flows_back():
    """A backward."""

    def rule(operation):
        (x, *_) = operation.args
        return operation.context.pass_back(
            operation.run(), lambda back: ((back + back.mean()) @ operation.args[1],), x
        )

    return rules_with("gradient", "linear", rule)


@pytest.mark.parametrize(
    ("backward", "message"),
    [
        (changes_values, "changes what the network computes"),
        (is_called_otherwise, "a Backward that is called 'libra'"),
        (is_of_another_family, "family 'gradient', but makes a Backward of the family 'relevance'"),
        (has_no_rules, "goes through none of the networks"),
        (mixes_what_flows_back, "in a batch than alone"),
    ],
)
def test_a_broken_backward_is_told_what_it_does_not_keep(backward, message):
    with (
        registered(BACKWARDS, backward, family="gradient"),
        pytest.raises(AssertionError, match=message),
    ):
        check_backward("broken")


def inside(map, mask):
    """A metric."""
    return (map * mask).flatten(1).sum(1) / map.flatten(1).sum(1)


def spoils(map, mask):
    """A metric."""
    map.mul_(mask)
    return map.flatten(1).sum(1)


def against_the_batch(map, mask):
    """A metric."""
    return (map * mask).flatten(1).sum(1) / map.sum()


def calls_it_otherwise(map, mask):
    """A metric."""
    return {"other": inside(map, mask)}


def fails(trial):
    """A metric."""
    raise ZeroDivisionError("a bug")


MASK = {"needs": ("mask",), "category": "localisation"}


@pytest.mark.parametrize(
    ("metric", "declared", "message"),
    [
        (inside, MASK | {"direction": "lower"}, "declares that lower broken is better"),
        (spoils, MASK | {"direction": "higher"}, "changes the maps or masks"),
        (against_the_batch, MASK | {"direction": "higher"}, "in a batch than alone"),
        (calls_it_otherwise, MASK | {"direction": "higher"}, "gives other, and no quantity"),
        (fails, MASK | {"direction": "higher", "needs": ("model",)}, "ZeroDivisionError: a bug"),
    ],
)
def test_a_broken_metric_is_told_what_it_does_not_keep(metric, declared, message):
    with (
        registered(METRICS, metric, **declared),
        pytest.raises(AssertionError, match=message),
    ):
        check_metric("broken")


def test_a_sound_plug_in_passes():
    with registered(METRICS, inside, **MASK, direction="higher"):
        check_metric("broken")


class Mixing(Looking):
    """Its examples see each other."""

    def forward(self, pixel_values):
        return super().forward(pixel_values + pixel_values.flip(0))


class Counting(Looking):
    """It remembers how often it was called."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, pixel_values):
        self.calls += 1
        return super().forward(pixel_values)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Mixing, "in a batch than alone"),
        (Counting, "changes the network's calls"),
        (lambda: nn.Linear(12, 3), "is refused: no attention"),
    ],
)
def test_a_network_that_cannot_be_explained_rightly_is_told_why(kind, message):
    torch.manual_seed(0)
    network = kind().double().eval()
    inputs = looking().inputs
    if isinstance(network, nn.Linear):
        inputs = {"input": inputs["pixel_values"]}
    with pytest.raises(AssertionError, match=message):
        check_model(network, **inputs)


def test_the_checks_need_no_test_runner():
    code = (
        "import sys; import relmap.testing; relmap.testing.check_backward('gradient'); "
        "print([name for name in ('pytest', 'sklearn', 'scipy') if name in sys.modules])"
    )
    path = {"PYTHONPATH": str(ROOT / "src")}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=path)
    assert found.stdout.split() == ["[]"], found.stderr
