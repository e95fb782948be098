"""Operations that somebody else registers: one call, and every method goes through them.

A network that computes by operators of a library of its own must be explained as the same network
is that computes by functions of torch.
"""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn
from torch.nn import functional

import relmap
from relmap.errors import InputError, TraceError
from relmap.trace.calls import along, function_name
from relmap.trace.operations import OPERATIONS
from relmap.trace.operations.registered import Operations

LIBRARY = torch.library.Library("relmaptests", "DEF")
FORMS = {
    "swish": ("(Tensor x) -> Tensor", functional.silu),
    "gelu": ("(Tensor x) -> Tensor", functional.silu),  # no gelu, whatever its name says
    "affine": ("(Tensor x, Tensor w, Tensor? b) -> Tensor", functional.linear),
    "attend": ("(Tensor q, Tensor k, Tensor v) -> Tensor", functional.scaled_dot_product_attention),
    "swap": ("(Tensor(a) x, int one, int other) -> Tensor(a)", torch.transpose),
    "swapped": ("(Tensor x, int one, int other) -> Tensor", lambda *x: torch.transpose(*x).clone()),
    "first": ("(Tensor x) -> Tensor", lambda x: x[:, :1]),
    "swish_": ("(Tensor(a!) x) -> Tensor(a!)", lambda x: x.copy_(functional.silu(x.clone()))),
}
for operation, (schema, function) in FORMS.items():
    LIBRARY.define(f"{operation}{schema}")
    LIBRARY.impl(operation, function, "CompositeImplicitAutograd")
OWN = torch.ops.relmaptests
ALIKE = {"swish": "silu", "gelu": "silu", "affine": "linear", "swap": "transpose",
         "swapped": "transpose",
         "attend": "scaled_dot_product_attention"}  # fmt: skip


@torch.library.custom_op("relmaptests::opaque", mutates_args=())
def opaque(x: torch.Tensor) -> torch.Tensor:
    return torch.sigmoid(x) * x


def keep(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def back(ctx, arriving):
    (x,) = ctx.saved_tensors
    gate = torch.sigmoid(x)
    return arriving * (gate + x * gate * (1 - gate))


opaque.register_autograd(back, setup_context=keep)


@pytest.fixture
def operations():
    """The registry of all, put back as it was."""
    OPERATIONS.discover()
    before = dict(OPERATIONS._entries)
    yield OPERATIONS
    OPERATIONS._entries.clear()
    OPERATIONS._entries.update(before)


@pytest.fixture
def registered(operations):
    for name, like in ALIKE.items():
        operations.register(f"relmaptests.{name}", like=like)
    operations.register("relmaptests.opaque", like="silu")
    return operations


class Block(nn.Module):
    def __init__(self, own):
        super().__init__()
        self.norm, self.again = nn.LayerNorm(8), nn.LayerNorm(8)
        self.query, self.key, self.value, self.out = (nn.Linear(8, 8) for _ in range(4))
        self.widen, self.narrow = nn.Linear(8, 12), nn.Linear(12, 8)
        self.affine = OWN.affine if own else functional.linear
        self.attend = OWN.attend if own else functional.scaled_dot_product_attention
        self.swap = OWN.swap.default if own else torch.transpose
        self.swapped = OWN.swapped if own else torch.transpose
        self.active = OWN.gelu if own else functional.silu
        self.last = opaque if own else functional.silu

    def apply_to(self, x, layer):
        return self.affine(x, layer.weight, layer.bias)

    def forward(self, x):
        y = self.norm(x)
        heads = [
            self.swapped(self.apply_to(y, layer).unflatten(-1, (2, 4)), 1, 2)
            for layer in (self.query, self.key, self.value)
        ]
        mixed = self.swap(self.attend(*heads), 1, 2).flatten(-2)
        x = x + self.apply_to(mixed, self.out)
        wide = self.active(self.apply_to(self.again(x), self.widen))
        return x + self.last(self.apply_to(wide, self.narrow))


class Network(nn.Module):
    def __init__(self, own):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Linear(3, 8)
        self.blocks = nn.Sequential(Block(own), Block(own))
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.blocks(self.embed(x)).mean(1))


def scores(own, **how):
    torch.manual_seed(1)
    x = torch.randn(2, 5, 3, dtype=torch.float64)
    return relmap.explain(Network(own).double(), x=x, **how).scores["x"]


HOW = [
    *(("genatt", backward) for backward in ("gradient", "libra", "attnlrp", "deep-taylor", "lrp")),
    ("genatt", "reslrp"),
    ("genatt", "cp-lrp"),
    ("input-x-gradient", "libra"),
    ("transformer-attribution", "deep-taylor"),
    ("full-lrp", "lrp"),
    ("fullgrad-plus", "libra"),
    ("integrated-gradients", "gradient"),
    ("legrad", "gradient"),
    ("wra", "gradient"),
    ("tokentm", "gradient"),
]


@pytest.mark.parametrize(("method", "backward"), HOW)
def test_an_own_operation_is_explained_as_the_one_that_it_is_like(registered, method, backward):
    found, wanted = (scores(own, method=method, backward=backward) for own in (True, False))
    assert wanted.abs().sum() > 0
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)


def test_without_a_rule_for_its_tokens_it_is_a_mixer_which_has_no_map():
    with pytest.raises(TraceError, match="mixes tokens by something else"):
        scores(True, method="rollout")


def test_without_a_rule_for_a_family_its_backwards_are_refused(operations):
    for name, like in ALIKE.items():
        operations.register(f"relmaptests.{name}", like=like)
    operations.register("relmaptests.opaque", tokens="silu", gradient="silu")
    assert scores(True, method="genatt", backward="libra").abs().sum() > 0
    with pytest.raises(TraceError, match=r"no rule for 'relmaptests\.opaque'.*OPERATIONS"):
        scores(True, method="genatt", backward="deep-taylor")


def test_rules_may_be_functions_of_ones_own(operations):
    """Silu written by hand: x f(x) with f taken for a constant, and relevance as it is."""
    for name, like in ALIKE.items():
        operations.register(f"relmaptests.{name}", like=like)
    seen = []

    def tokens(call):
        seen.append("tokens")
        return along(call, call.tag(0, "x"))

    def gradient(operation):
        seen.append("gradient")
        (x,) = operation.args
        factor = torch.sigmoid(x.detach())
        return operation.context.pass_back(operation.run(), lambda back: (back * factor,), x)

    def relevance(operation):
        seen.append("relevance")
        (x,) = operation.args
        return operation.context.pass_back(operation.run(), lambda back: (back,), x)

    operations.register("relmaptests.opaque", tokens=tokens, gradient=gradient, relevance=relevance)
    for backward in ("libra", "deep-taylor"):
        found, wanted = (scores(own, method="genatt", backward=backward) for own in (True, False))
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
    assert set(seen) == {"tokens", "gradient", "relevance"}


def test_a_rule_for_tokens_that_does_not_fit_the_result_is_refused(operations):
    operations.register("relmaptests.first", like="silu")  # it keeps one token of all

    class First(Network):
        def forward(self, x):
            return self.head(OWN.first(self.blocks(self.embed(x))).mean(1))

    with pytest.raises(TraceError, match=r"'relmaptests.first' gives .*\(2, 5, 1\).*\(2, 1, 8\)"):
        relmap.explain(First(False), x=torch.randn(2, 5, 3), method="genatt")


def test_an_operation_of_torch_gets_the_rule_that_it_lacks(operations):
    class Sine(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.layer = nn.TransformerEncoderLayer(
                8, 2, 16, batch_first=True, activation=torch.sin
            )

        def forward(self, x):
            return self.layer(x)[:, 0]

    def explained():
        torch.manual_seed(1)
        return relmap.explain(
            Sine(), x=torch.randn(2, 4, 8), target=lambda output: output[:, 1], backward="libra",
            method="genatt",
        )  # fmt: skip

    with pytest.raises(TraceError, match="no rule for 'sin'"):
        explained()
    operations.register("sin", gradient="gelu", relevance="gelu")
    assert explained().scores["x"].abs().sum() > 0


def test_an_operator_in_place_passes_back_what_its_function_does(registered):
    class InPlace(Network):
        def forward(self, x):
            return self.head(OWN.swish_(self.blocks(self.embed(x)).clone()).mean(1))

    class Beside(Network):
        def forward(self, x):
            return self.head(functional.silu(self.blocks(self.embed(x))).mean(1))

    torch.manual_seed(1)
    x = torch.randn(2, 5, 3, dtype=torch.float64)
    for backward in ("gradient", "libra", "deep-taylor"):
        found, wanted = (
            relmap.explain(kind(own).double(), x=x, method="genatt", backward=backward).scores["x"]
            for kind, own in ((InPlace, True), (Beside, False))
        )
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)


def test_operators_are_named_with_their_library():
    assert function_name(OWN.gelu) == function_name(OWN.gelu.default) == "relmaptests.gelu"
    assert function_name(torch.ops.aten.gelu) == function_name(functional.gelu) == "gelu"
    # Their overloads take other arguments than torch's functions, for which the rules are.
    assert function_name(torch.ops.aten.softmax.int) == "softmax.int"


def one(call): ...


def two(call, tag): ...


@pytest.mark.parametrize(
    ("name", "rules", "message"),
    [
        ("lib::op", {"like": "gelu"}, "written 'gelu' or, with its library, 'library.operation'"),
        ("lib.op_", {"like": "gelu"}, "relmap calls it 'lib.op'"),
        ("lib.op", {}, "give it a rule"),
        ("lib.op", {"like": "gelo"}, "like='gelo' is no operation known. Did you mean 'gelu'?"),
        ("lib.op", {"tokens": "sofmax"}, "no rule for the tokens of 'sofmax'. Did you mean"),
        ("lib.op", {"gradient": "sin"}, "no rule for the gradient of 'sin'"),
        ("lib.op", {"tokens": two}, "nor a function of one argument"),
        ("lib.op", {"bias": one}, "nor a function of two arguments"),
        ("gelu", {"tokens": one}, "relmap has a rule for its tokens already"),
        ("gelu", {"gradient": one}, "relmap has a rule for its gradient already"),
        ("linear", {"bias": two}, "relmap has a rule for its bias already"),
        ("softmax", {"like": "gelu"}, "give it a rule"),
    ],
)
def test_what_cannot_be_used_is_refused_when_it_is_registered(operations, name, rules, message):
    with pytest.raises(InputError, match=re.escape(message)):
        operations.register(name, **rules)
    assert operations.find(name) is None


def test_a_name_is_registered_once_but_a_module_may_be_reloaded():
    operations = Operations()
    for kind in ("tokens", "gradient"):
        operations.reserve(kind, ["gelu", "silu"])
    operations.register("lib.op", like="gelu")
    operations.register("lib.op", like="gelu")
    with pytest.raises(InputError, match="registered already, with tokens: as gelu"):
        operations.register("lib.op", like="silu")
    assert operations.names() == ["lib.op"]
