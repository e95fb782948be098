"""Transformer Attribution and other methods on relevance: literal loops, refusals, traces left."""

import copy
import gc
import threading

import pytest
import torch
from architectures import build
from reference import lrp
from torch import Tensor

import relmap
from relmap import backwards
from relmap.backwards import BACKWARDS
from relmap.errors import InputError
from relmap.methods import METHODS
from relmap.request.compatibility import choose_backward, default_backward, pairs
from relmap.request.request import following, read_request

NEEDS = ("attention", "attention-gradient", "attention-relevance", "join-gradient")
METHOD = "transformer-attribution"


@pytest.fixture(scope="module")
def vision():
    torch.manual_seed(0)
    return lrp.TinyViT(depth=2).double().eval(), torch.randn(2, 3, 4, 4, dtype=torch.float64)


@pytest.fixture(scope="module")
def layers(vision):
    """(A, R_A, dA) of every layer, for each of the two images."""
    return [maps_of(*vision, index) for index in range(2)]


def explained(network, images, method=METHOD, **options):
    found = relmap.explain(network, pixels=images, target=1, method=method, **options)
    return found.scores["pixels"]


def close(found, wanted):
    torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-10)


def maps_of(network, images, index):
    """A, R_A and dA of every layer of one example, laid out by hand from the recorded pass."""
    asked = read_request(network, METHOD, {"pixels": images}, "deep-taylor")
    found = []
    with following(asked, [1], NEEDS) as passes:
        passed = next(iter(passes)).passed
        for call in passed.graph.attentions:
            lay = call.output_arrangement.apply
            value, scores = call.value[index], call.query[index] @ call.key[index].mT
            attention = (scores * call.scale).softmax(-1)
            share = lrp.divide(lay(passed.relevance(call.output))[index], attention @ value)
            relevance = attention * (share @ value.mT) / 2
            gradient = lay(passed.gradient(call.output))[index] @ value.mT
            found.append((attention, relevance, gradient))
    return found


OPTIONS = {
    "all": {},
    "normalize": {"normalize": True},
    "start_layer=1": {"start_layer": 1},
    "start_layer=-1": {"start_layer": -1},
    "first": {"layers": "first"},
    "last": {"layers": "last"},
    "no gradient": {"gradient": False},
    "no relevance": {"relevance": False},
    "neither": {"gradient": False, "relevance": False},
    "first, no gradient, normalized": {"layers": "first", "gradient": False, "normalize": True},
}


def literal(
    recorded, *, start_layer=0, layers="all", normalize=False, gradient=True, relevance=True
):  # fmt: skip
    start = start_layer if start_layer >= 0 else len(recorded) + start_layer
    product = torch.eye(recorded[0][0].shape[-1], dtype=torch.float64)
    for number, (a, r, d) in enumerate(recorded):
        if number < start:
            continue
        mixed = torch.zeros_like(a)
        if layers == "all" or number == (0 if layers == "first" else len(recorded) - 1):
            mixed = (r if relevance else a) * (d if gradient else 1)
        mixed = mixed.clamp_min(0).mean(0) + torch.eye(a.shape[-1], dtype=a.dtype)
        product = (mixed / mixed.sum(-1, keepdim=True) if normalize else mixed) @ product
    return product[0]


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_a_loop_over_the_recorded_maps(vision, layers, options):
    found = explained(*vision, **options)
    for row, recorded in zip(found, layers, strict=True):
        close(row, literal(recorded, **options))


@pytest.mark.parametrize(("normalize", "gradient"), [(False, True), (True, False)])
@pytest.mark.parametrize("backward", ["deep-taylor", "lrp"])
def test_a_propagation_by_hand(vision, normalize, gradient, backward):
    network, images = vision
    rules = lrp.Rules() if backward == "deep-taylor" else lrp.Rules(False, False)
    found = explained(network, images, backward=backward, normalize=normalize, gradient=gradient)
    for index, image in enumerate(images):
        maps = lrp.propagate(network, image[None], 1, rules).maps
        gradients = lrp.attention_gradients(network, image[None], 1) if gradient else None
        close(found[index], lrp.transformer_attribution(maps, gradients, normalize))


@pytest.mark.parametrize(("clamp", "gradient"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("backward", ["deep-taylor", "lrp"])
def test_partial_lrp_by_hand(vision, backward, gradient, clamp):
    network, images = vision
    rules = lrp.Rules() if backward == "deep-taylor" else lrp.Rules(False, False)
    options = {"clamp": clamp, "gradient": gradient}
    found = explained(network, images, "partial-lrp", backward=backward, **options)
    for row, image in zip(found, images, strict=True):
        one = lrp.propagate(network, image[None], 1, rules).maps[-1]
        if gradient:
            one = one * lrp.attention_gradients(network, image[None], 1)[-1]
        close(row, (one.clamp_min(0) if clamp else one).mean(0)[0])


def added(product, relevance, gradient):
    return product + (relevance * gradient).clamp_min(0).mean(0) @ product


def rolled(product, relevance, gradient):
    mixed = torch.eye(5, dtype=torch.float64) + relevance.clamp_min(0).mean(0)
    return mixed / mixed.sum(-1, keepdim=True) @ product


def halved(product, relevance, gradient):
    """WRA with equal weights: R <- R / 2 + Norm(E_h[(R_A dA)+]) R / 2; dead rows stay (eq. 1-4)."""
    mixed = (relevance * gradient).clamp_min(0).mean(0)
    sums = mixed.sum(-1, keepdim=True)
    mixed = torch.where(sums > 0, mixed / sums, torch.eye(5, dtype=torch.float64))
    return (product + mixed @ product) / 2


def read(product, relevance, gradient):
    """Raw attention keeps the last layer alone."""
    return relevance.mean(0)


@pytest.mark.parametrize(
    ("method", "step", "options"),
    [
        ("genatt", added, {}),
        ("rollout", rolled, {}),
        ("raw-attention", read, {}),
        ("wra", halved, {"weights": "equal"}),
    ],
)
def test_other_methods_read_relevance_in_place_of_attention(vision, layers, method, step, options):
    found = explained(*vision, method, backward="deep-taylor", **options)
    for row, recorded in zip(found, layers, strict=True):
        product = torch.eye(5, dtype=torch.float64)
        for _, relevance, gradient in recorded:
            product = step(product, relevance, gradient)
        close(row, product[0])
    assert not torch.allclose(found, explained(*vision, method, **options))


# --- which pairs there are --------------------------------------------------------------------


def test_every_pair_works_or_is_refused_with_what_works(vision):
    network, images = vision
    working = set(pairs())
    assert {(METHOD, "deep-taylor"), (METHOD, "lrp"), ("full-lrp", "lrp"), ("genatt", "libra"),
            ("genatt", "deep-taylor"), ("input-x-gradient", "attnlrp")} <= working  # fmt: skip
    assert not {(METHOD, "libra"), (METHOD, "gradient"), ("full-lrp", "gradient"),
                ("rollout", "libra"), ("raw-attention", "reslrp"), ("random", "libra"),
                ("input-x-gradient", "deep-taylor")} & working  # fmt: skip
    for method in METHODS.entries():
        assert (method.name, default_backward(method)) in working
        for name in BACKWARDS:
            if (method.name, name) in working:
                assert choose_backward(method, name).name == name
                continue
            with pytest.raises(InputError, match="It works with") as caught:
                explained(network, images, method.name, backward=name)
            assert method.name in str(caught.value)
            assert name in str(caught.value)
            assert default_backward(method) in str(caught.value)


def test_a_backward_is_a_name_an_alias_or_an_object(vision):
    network, images = vision
    plain = explained(network, images)
    assert torch.equal(explained(network, images, backward="dtd"), plain)
    assert torch.equal(explained(network, images, backward=backwards.deep_taylor()), plain)
    with pytest.raises(InputError, match="deep-taylor"):
        explained(network, images, backward="deep-tailor")


def test_provenance_names_the_backward_and_its_options(vision):
    network, images = vision
    for backward, name, options in (
        (None, "deep-taylor", {"rescale_linear": False}),
        (backwards.deep_taylor(rescale_linear=True), "deep-taylor", {"rescale_linear": True}),
        ("lrp", "lrp", {"separate": True}),
    ):
        meta = relmap.explain(
            network, pixels=images, target=1, method=METHOD, backward=backward
        ).meta
        assert meta["backward"] == name
        assert options.items() <= meta["backward_options"].items()
    meta = relmap.explain(
        network, pixels=images, method="input-x-gradient", backward=backwards.reslrp(gamma=0.5)
    ).meta
    assert (meta["backward"], meta["backward_options"]) == ("reslrp", {"gamma": 0.5})


# --- nothing is left --------------------------------------------------------------------------

CALLS = [(METHOD, "deep-taylor"), ("full-lrp", "lrp"), ("genatt", "attnlrp"), ("wra", "libra"),
         ("input-x-gradient", "reslrp")]  # fmt: skip
calls = pytest.mark.parametrize(("method", "backward"), CALLS)


@calls
def test_the_network_is_left_as_it_was(method, backward):
    built = build("BERT")
    network = built.network.train()
    some = list(network.parameters())[3].requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    tensors = [*network.parameters(), *network.buffers()]
    known = [dict(vars(tensor)) for tensor in tensors]
    relmap.explain(network, method=method, backward=backward, **built.inputs)
    assert [vars(tensor) for tensor in tensors] == known
    assert all(one.requires_grad == (one is not some) for one in network.parameters())
    assert all(one.grad is None for one in network.parameters())
    assert all(not module._forward_hooks for module in network.modules())
    assert all(module.training for module in network.modules())
    after = network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(not vars(one) for one in built.inputs.values() if isinstance(one, Tensor))


@pytest.mark.parametrize(
    ("method", "backward"),
    [*CALLS, ("genatt", None), ("tokentm", None), (None, None)],
)
@pytest.mark.parametrize("name", ["Swin", "T5"])
def test_memory_is_given_back_at_once(method, backward, name):
    """By counting references alone: circles through autograd's nodes are never collected."""
    built = build(name)

    def run():
        if method is None:
            relmap.record(built.network, **built.inputs)
        else:
            given = {"target": built.target, "method": method, "backward": backward}
            relmap.explain(built.network, **given, **built.inputs)

    def alive():
        return sum(type(one) is Tensor for one in gc.get_objects())

    run()
    gc.collect()
    gc.disable()
    try:
        before = alive()
        run()
        assert alive() <= before
    finally:
        gc.enable()


@calls
def test_gradients_need_not_be_on(vision, method, backward):
    network, images = vision
    wanted = explained(network, images, method, backward=backward)
    with torch.no_grad():
        assert torch.equal(explained(network, images, method, backward=backward), wanted)
    frozen = copy.deepcopy(network).requires_grad_(False)
    assert torch.equal(explained(frozen, images, method, backward=backward), wanted)


@pytest.mark.parametrize(
    "method", ["transformer-attribution", "transformer-attribution:blocks=last"]
)
def test_the_old_name_of_an_option_is_told(vision, method):
    network, images = vision
    old = {} if ":" in method else {"blocks": "last"}
    with pytest.warns(DeprecationWarning, match="'blocks' is called 'layers'"):
        found = relmap.explain(
            network, pixels=images, target=1, method=method, backward="deep-taylor", **old
        ).scores["pixels"]
    wanted = relmap.explain(
        network, pixels=images, target=1, method="transformer-attribution",
        backward="deep-taylor", layers="last",
    ).scores["pixels"]  # fmt: skip
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("method", "backward"), [CALLS[0], CALLS[2], CALLS[4]])
def test_half_precision_runs(method, backward, dtype):
    network = lrp.TinyViT(depth=2).to(dtype).eval()
    found = explained(network, torch.randn(2, 3, 4, 4, dtype=dtype), method, backward=backward)
    assert found.isfinite().all()
    assert (found != 0).any()
    assert found.dtype == torch.float32


def test_two_threads_do_not_meet(vision):
    network, images = vision
    wanted = [explained(network, images, method, backward=name) for method, name in CALLS]
    found = {}

    def work(number):
        for place, (method, name) in enumerate(CALLS):
            found[number, place] = explained(network, images, method, backward=name)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2 * len(CALLS)
    assert all(torch.equal(one, wanted[place]) for (_, place), one in found.items())


@calls
def test_an_error_in_the_middle_leaves_nothing(vision, method, backward):
    network, images = vision
    wanted = explained(network, images, method, backward=backward)

    def fails(output):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        relmap.explain(network, pixels=images, target=fails, method=method, backward=backward)
    assert all(not vars(one) and one.requires_grad for one in network.parameters())
    assert torch.equal(explained(network, images, method, backward=backward), wanted)
