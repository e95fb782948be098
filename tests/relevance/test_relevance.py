"""Backwards of the relevance family: rules by hand, conserved totals, batches and layouts."""

import functools

import pytest
import torch
from architectures import build
from reference import lrp, spellings
from reference.encoder import WIDE, Encoder
from torch import nn
from torch.nn import functional

import relmap
from relmap import backwards
from relmap.errors import InputError
from relmap.request.request import following, read_request

NEEDS = ("attention", "attention-gradient", "attention-relevance", "token-relevance")
deep_taylor = backwards.deep_taylor()


def explained(network, method="full-lrp", backward="deep-taylor", target=1, **inputs):
    return relmap.explain(network, method=method, backward=backward, target=target, **inputs)


@functools.cache
def vision():
    torch.manual_seed(3)
    network = lrp.TinyViT().double().eval()
    return network, torch.randn(2, 3, 4, 4, dtype=torch.float64)


RULES = {
    "deep-taylor": lrp.Rules(),
    "lrp": lrp.Rules(joint=False, rescale_sums=False),
}


@pytest.mark.parametrize("backward", RULES)
def test_rules_by_hand(backward):
    network, images = vision()
    found = explained(network, backward=backward, pixels=images)
    for index, image in enumerate(images):
        wanted = lrp.propagate(network, image[None], 1, RULES[backward])
        close = functools.partial(torch.testing.assert_close, rtol=1e-8, atol=1e-10)
        close(found.scores["pixels"][index], wanted.streams[-1].sum(-1))
        close(found.pixels["pixels"][index], wanted.pixels[0])


@pytest.mark.parametrize("backward", RULES)
def test_relevance_of_every_layer_by_hand(backward):
    """R at attention outputs, and at the streams that enter a layer, for both images at once."""
    network, images = vision()
    asked = read_request(network, "full-lrp", {"pixels": images}, backward)
    with following(asked, [1], NEEDS) as passes:
        passed = next(iter(passes)).passed
    graph, joins = passed.graph, [one for one in passed.graph.states if one.kind == "join"]
    assert len(graph.attentions) == len(joins) == 3
    for index, image in enumerate(images):
        wanted = lrp.propagate(network, image[None], 1, RULES[backward])
        for call, output in zip(graph.attentions, wanted.outputs, strict=True):
            found = call.output_arrangement.apply(passed.relevance(call.output))[index]
            torch.testing.assert_close(found, output, rtol=1e-8, atol=1e-9)
        for join, stream in zip(joins, reversed(wanted.streams[1:]), strict=True):
            found = passed.relevance(join.residual)[index]
            torch.testing.assert_close(found, stream, rtol=1e-8, atol=1e-9)


def test_three_products_are_four():
    """(x W^T + |x| |W|^T) / 2 is x+ W+^T + x- W-^T, with large biases and negative rows, too."""
    network = Linear()
    for bias, factor in ((0.0, 1.0), (50.0, 1.0), (0.0, 1e-3), (0.0, 1e3)):
        network.inner.bias.data.fill_(bias)
        x = torch.randn(2, 4, 6, dtype=torch.float64) * factor
        seen = total_at(network, x)
        w, R = network.inner.weight.detach(), seen["after"]
        above, below = x.clamp_min(0), x.clamp_max(0)
        share = lrp.divide(R, above @ w.clamp_min(0).T + below @ w.clamp_max(0).T)
        wanted = above * (share @ w.clamp_min(0)) + below * (share @ w.clamp_max(0))
        torch.testing.assert_close(seen["before"], wanted, rtol=1e-5, atol=1e-9 * factor)


class Linear(nn.Module):
    """A linear layer in front of an attention with a residual."""

    def __init__(self):
        super().__init__()
        self.inner, self.value, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.double()
        self.inner.weight.data[0] = self.inner.weight.data[0].abs()

    def forward(self, x):
        self.x = x
        self.z = z = self.inner(x)
        mixed = functional.scaled_dot_product_attention(z, z, self.value(z))
        return self.head((z + mixed)[:, 0])


def total_at(network, x, backward="deep-taylor"):
    """Relevance before and after the inner layer, by autograd through a recorded pass."""
    asked = read_request(network, "full-lrp", {"x": x}, backward)
    with following(asked, [1], NEEDS) as passes:
        passed = next(iter(passes)).passed
        (join,) = [one for one in passed.graph.states if one.kind == "join"]
        after = passed.relevance(join.residual)
        return {"before": passed.arguments["x"], "after": after}


# --- totals -----------------------------------------------------------------------------------


def in_double(name, implementation=None):
    built = build(name, implementation)
    inputs = {
        key: value.double() if torch.is_tensor(value) and value.is_floating_point() else value
        for key, value in built.inputs.items()
    }
    return built.network.double(), inputs, built.target


@pytest.mark.parametrize(
    ("name", "backward"),
    [("BERT", "lrp"), *((name, "deep-taylor") for name in ("Swin", "Llama", "T5", "CLIP"))],
)
def test_a_batch_of_two_is_two_singles(name, backward):
    network, inputs, target = in_double(name)
    whole = relmap.explain(
        network, target=target, method="full-lrp", backward=backward, **inputs
    )  # fmt: skip
    for index in range(2):
        one = {
            key: value[index : index + 1] if torch.is_tensor(value) else value
            for key, value in inputs.items()
        }
        alone = relmap.explain(network, target=target, method="full-lrp", backward=backward, **one)
        for source, row in alone.scores.items():
            scale = float(row.abs().max())
            torch.testing.assert_close(
                whole.scores[source][index : index + 1], row, rtol=1e-4, atol=1e-5 * scale
            )


def test_packed_images_are_exact():
    network, inputs, target = in_double("Qwen2.5-VL")
    given = {"method": "full-lrp", "backward": "deep-taylor", "target": target, **inputs}
    found = relmap.explain(network, **given)
    assert all(scores.isfinite().all() for scores in found.scores.values())
    assert float(sum(scores.sum() for scores in found.scores.values())) > 0.5


@pytest.mark.parametrize("name", ["Llama", "BERT", "ViT", "GPT-2"])
def test_the_total_reaches_the_tokens(name):
    network, inputs, target = in_double(name)
    found = relmap.explain(
        network, target=target, method="full-lrp", backward="deep-taylor", **inputs
    )
    total = sum(float(scores.sum()) for scores in found.scores.values())
    assert total == pytest.approx(2, abs=0.05)


CANCELLING = {
    "a difference": lambda output: output[:, 1] - output[:, 0],
    "a log probability": lambda output: output.log_softmax(-1)[:, 1],
    "in one example": lambda output: output[:, 1] - torch.tensor([0, 1]) * output[:, 0],
}


@pytest.mark.parametrize("target", CANCELLING.values(), ids=CANCELLING.keys())
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_start_that_sums_to_zero_is_refused(target, dtype):
    """Its total is kept, as in the published code: all relevance would be rounding errors."""
    x, network = torch.randn(2, 5, WIDE, dtype=dtype), Encoder(True).to(dtype)
    for method in ("full-lrp", "transformer-attribution"):
        with pytest.raises(InputError, match=r"sums to zero.*backward='lrp'"):
            explained(network, method, x=x, target=target)
    found = explained(network, backward="lrp", x=x, target=target)
    assert (found.scores["x"].abs().sum(-1) > 1e-3).all()
    halved = explained(network, x=x, target=lambda output: output[:, 1] - output[:, 0] / 2)
    assert (halved.scores["x"].abs().sum(-1) > 1e-3).all()


def test_a_similarity_shares_its_relevance_between_the_two_sides():
    network, inputs, _ = in_double("CLIP")
    found = explained(network, target=lambda output: output.logits_per_image.diagonal(), **inputs)
    for scores in found.scores.values():
        torch.testing.assert_close(
            scores.sum(-1), torch.full((2,), 0.5).double(), rtol=0, atol=0.02
        )


@pytest.mark.parametrize("name", ["T5", "BEiT(relpos)"])
def test_fused_and_eager_attention_agree(name):
    maps = []
    for implementation in ("eager", "sdpa"):
        network, inputs, target = in_double(name, implementation)
        maps.append(
            relmap.explain(
                network, target=target, method="full-lrp", backward="deep-taylor", **inputs
            )
        )
    for source, scores in maps[0].scores.items():
        # Some normalise in float32, whatever they are.
        torch.testing.assert_close(scores, maps[1].scores[source], rtol=1e-3, atol=1e-3)


# --- pixels -----------------------------------------------------------------------------------


def test_pixels_receive_what_the_patches_do_less_the_share_of_positions():
    network, images = vision()
    with_share = explained(network, pixels=images)
    kept = explained(network, backward=NO_SHARE, pixels=images)
    for found, share in ((with_share, True), (kept, False)):
        for index, image in enumerate(images):
            wanted = lrp.propagate(network, image[None], 1, lrp.Rules(share_positions=share))
            torch.testing.assert_close(
                found.pixels["pixels"][index], wanted.pixels[0], rtol=1e-7, atol=1e-9
            )
    patches = kept.scores["pixels"][:, 1:].sum(-1)
    torch.testing.assert_close(kept.pixels["pixels"].sum((1, 2)), patches, rtol=1e-6, atol=1e-9)


NO_SHARE = backwards.Backward(
    "deep-taylor",
    "relevance",
    deep_taylor.rules,
    {"normalize_sums": True, "share_positions": False},
)


# --- options and ways of writing --------------------------------------------------------------


def test_linear_layers_may_be_rescaled():
    """What an output without positive contributions loses comes back on the others."""
    network, x = Linear(), torch.rand(2, 4, 6, dtype=torch.float64)
    network.inner.weight.data[1] = -network.inner.weight.data[1].abs()
    plain = total_at(network, x)
    assert (plain["before"].sum((1, 2)) - plain["after"].sum((1, 2))).abs().min() > 1e-3
    rescaled = total_at(network, x, backwards.deep_taylor(rescale_linear=True))
    kept = [rescaled[place].sum((1, 2)) for place in ("before", "after")]
    torch.testing.assert_close(*kept, rtol=1e-7, atol=1e-9)
    alone = torch.cat([
        total_at(network, one[None], backwards.deep_taylor(rescale_linear=True))["before"]
        for one in x
    ])  # fmt: skip
    torch.testing.assert_close(rescaled["before"], alone, rtol=1e-8, atol=1e-10)


SAME = {
    "fused": ["fused attention", "einsum", "baddbmm"],
    "gelu": ["fused attention", "gelu by erf"],
    "root mean square": ["rsqrt", "power -0.5", "pow(x, -0.5)", "one by a root", "rsqrt in place"],
}


@pytest.mark.parametrize("backward", RULES)
@pytest.mark.parametrize("kind", SAME)
def test_two_ways_of_writing(kind, backward):
    x = torch.randn(2, 5, spellings.WIDTH, dtype=torch.float64)
    maps = [
        explained(spellings.Network(spellings.BODIES[body]).double(), backward=backward, x=x)
        for body in SAME[kind]
    ]
    for one in maps[1:]:
        torch.testing.assert_close(one.scores, maps[0].scores, rtol=1e-7, atol=1e-9)


def out_of_place(n, x, s):
    y = spellings.attention(n, x, s) + x
    return n.down(torch.relu(n.up(y))) + y


EXPERTS = torch.tensor([0, 2, 4])


def added_by_index(n, x, s):
    x = x + spellings.attention(n, x, s)
    out = torch.zeros_like(x)
    out.index_add_(1, EXPERTS, n.a(x[:, EXPERTS]))
    out.index_add_(1, torch.arange(5), n.b(x))
    return x + out


def added_side_by_side(n, x, s):
    x = x + spellings.attention(n, x, s)
    mask = torch.zeros(5, 1, dtype=torch.bool).index_fill(0, EXPERTS, True)
    part = torch.stack([torch.where(mask, n.a(x), 0), n.b(x)]).sum(0)
    return x + part


@pytest.mark.parametrize("backward", RULES)
@pytest.mark.parametrize(
    ("one", "other"),
    [
        (spellings.normed_after_in_place, out_of_place),
        (added_by_index, added_side_by_side),
    ],
    ids=["in place", "experts"],
)
def test_what_is_overwritten_is_kept_and_what_adds_up_is_shared(one, other, backward):
    x = torch.randn(2, 5, spellings.WIDTH, dtype=torch.float64)
    maps = [
        explained(spellings.Network(body).double(), backward=backward, x=x).scores["x"]
        for body in (one, other)
    ]
    torch.testing.assert_close(*maps, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("method", ["transformer-attribution", "full-lrp"])
def test_half_precision_stays_finite(method, dtype):
    for name in ("ViT", "Llama"):
        built = build(name)
        inputs = {
            key: value.to(dtype) if torch.is_tensor(value) and value.is_floating_point() else value
            for key, value in built.inputs.items()
        }
        found = relmap.explain(
            built.network.to(dtype), method=method, backward="deep-taylor", **inputs
        )
        assert all(scores.isfinite().all() for scores in found.scores.values())
        assert all((scores != 0).any() for scores in found.scores.values())
