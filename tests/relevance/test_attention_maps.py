"""A and dA rebuilt from q, k, v and dO equal the softmax and its gradient by autograd."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from reference.passes import followed
from torch import Tensor, nn
from torch.nn import functional

import relmap
from relmap.relevance import attention_maps as algebra

BATCH, HEADS, ROWS, KEYS, WIDTH = 2, 4, 5, 6, 3


class Reader(nn.Module):
    """Tokens `asks` read tokens `reads` by one fused attention."""

    def __init__(self, key_heads: int = HEADS, **settings: Any) -> None:
        super().__init__()
        self.key_heads, self.settings = key_heads, settings
        self.query = nn.Linear(8, HEADS * WIDTH)
        self.key, self.value = (nn.Linear(8, key_heads * WIDTH) for _ in range(2))
        self.seen: list[Tensor] = []

    def forward(self, asks: Tensor, reads: Tensor) -> Tensor:
        q = self.query(asks).unflatten(-1, (HEADS, WIDTH)).transpose(1, 2)
        k, v = (
            part(reads).unflatten(-1, (self.key_heads, WIDTH)).transpose(1, 2)
            for part in (self.key, self.value)
        )
        self.seen[:] = [part.detach() for part in (q, k, v)]  # a list that a stand-in shares
        output = functional.scaled_dot_product_attention(q, k, v, **self.settings)
        return output.transpose(1, 2).flatten(2)


def _literal(reader: Reader, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The softmax written out, and its gradient of the weighted output by autograd."""
    q, k, v = reader.seen
    k, v = (part.repeat_interleave(HEADS // part.shape[1], dim=1) for part in (k, v))
    scale = reader.settings.get("scale") or 1 / math.sqrt(WIDTH)
    scores = torch.einsum("bhid,bhjd->bhij", q, k) * scale
    mask = reader.settings.get("attn_mask")
    if reader.settings.get("is_causal"):
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
    if mask is not None and mask.dtype == torch.bool:
        scores = scores.masked_fill(~mask, -math.inf)
    elif mask is not None:
        scores = scores + mask
    probabilities = torch.softmax(scores, dim=-1).nan_to_num(0.0).requires_grad_()
    with torch.enable_grad():
        output = (probabilities @ v).transpose(1, 2).flatten(2)
        (gradient,) = torch.autograd.grad((output * weight).sum(), [probabilities])
    return probabilities.detach(), gradient


def _mask(*shape: int) -> Tensor:
    """A random boolean mask in which every row sees something."""
    torch.manual_seed(1)
    mask = torch.rand(*shape) > 0.4
    mask[..., 0] = True
    return mask


def _closed() -> Tensor:
    mask = _mask(BATCH, 1, ROWS, KEYS)
    mask[1, 0, 2] = False
    return mask


SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "scale": {"scale": 0.3},
    "causal": {"is_causal": True},
    "boolean": {"attn_mask": _mask(ROWS, KEYS)},
    "boolean per example": {"attn_mask": _mask(BATCH, 1, ROWS, KEYS)},
    "boolean padding": {"attn_mask": _mask(BATCH, 1, 1, KEYS)},
    "boolean per head": {"attn_mask": _mask(BATCH, HEADS, ROWS, KEYS)},
    "boolean with a closed row": {"attn_mask": _closed()},
    "float": {"attn_mask": torch.randn(ROWS, KEYS).double()},
    "float per example": {"attn_mask": torch.randn(BATCH, 1, ROWS, KEYS).double()},
    "position bias": {"attn_mask": torch.randn(1, HEADS, ROWS, KEYS).double()},
    "minus infinity": {
        "attn_mask": _mask(BATCH, 1, 1, KEYS).double().log()
    },
    "grouped": {"key_heads": 2, "enable_gqa": True},
    "one key head": {"key_heads": 1, "enable_gqa": True, "is_causal": True},
}  # fmt: skip


@pytest.mark.parametrize("elements", [1, 100, 1 << 24])
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_rebuilt_maps_equal_those_of_autograd(monkeypatch, settings, elements):
    monkeypatch.setattr(algebra, "TILE_ELEMENTS", elements)
    torch.manual_seed(0)
    reader = Reader(**settings).double().eval()
    weight = torch.randn(BATCH, ROWS, HEADS * WIDTH, dtype=torch.float64)
    inputs = {
        "asks": torch.randn(BATCH, ROWS, 8, dtype=torch.float64),
        "reads": torch.randn(BATCH, KEYS, 8, dtype=torch.float64),
    }
    with followed(reader, inputs, lambda output: (output * weight).sum((1, 2))) as passed:
        (attention,) = passed.graph.attentions
        wanted, wanted_gradient = _literal(reader, weight)
        assert (attention.groups, attention.heads) == (BATCH, HEADS)
        rows = torch.tensor([3, 0, 4, 1, 2])
        gradient = passed.gradient(attention.output)
        tiles = list(algebra.tiles(attention, rows, gradient))
        assert torch.cat([tile.rows for tile in tiles]).tolist() == rows.tolist()
        assert len(tiles) == {1: 5, 100: 3, 1 << 24: 1}[elements]
        found = torch.cat([tile.probabilities for tile in tiles], dim=2)
        found_gradient = torch.cat([tile.gradient for tile in tiles], dim=2)
        torch.testing.assert_close(found, wanted[:, :, rows], rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(
            found_gradient, wanted_gradient[:, :, rows], rtol=1e-10, atol=1e-12
        )
        weighted = torch.cat([algebra.gradient_weighted(tile) for tile in tiles], dim=1)
        literal = torch.relu(wanted * wanted_gradient).mean(1)[:, rows]
        torch.testing.assert_close(weighted, literal, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(
            torch.cat([algebra.head_mean(tile) for tile in tiles], dim=1), wanted.mean(1)[:, rows]
        )


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("masks", ["none", "padding", "causal", "both"])
def test_multi_head_attention_is_read_as_pytorch_computes_it(batch_first, masks):
    torch.manual_seed(0)
    network = nn.MultiheadAttention(8, 2, batch_first=batch_first).double().eval()
    tokens = torch.randn(BATCH, ROWS, 8, dtype=torch.float64)
    padding = torch.tensor([[False] * ROWS, [False] * 3 + [True] * (ROWS - 3)])
    given = {
        "key_padding_mask": padding if masks in ("padding", "both") else None,
        "attn_mask": torch.ones(ROWS, ROWS).triu(1).bool() if masks in ("causal", "both") else None,
    }

    class Alone(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = network

        def forward(self, tokens: Tensor) -> Tensor:
            moved = tokens if batch_first else tokens.transpose(0, 1)
            read, _ = self.attention(moved, moved, moved, **given)
            return (read if batch_first else read.transpose(0, 1)) + tokens

    graph = relmap.record(Alone(), tokens=tokens)
    (attention,) = graph.attentions
    with torch.no_grad():
        moved = tokens if batch_first else tokens.transpose(0, 1)
        wanted = network(moved, moved, moved, average_attn_weights=False, **given)[1]
    found = algebra.attention_rows(attention, torch.arange(ROWS))
    torch.testing.assert_close(found, wanted)


# --- three tokens by hand ---------------------------------------------------------------------


class Three(nn.Module):
    """One head of width one over three tokens; all its weights are one, and it adds what it read.

    Token 0 has query 1; the keys are 0, ln 2, ln 5, so that it attends with 1/8, 2/8, 5/8.
    """

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.fused = fused
        self.embed = nn.Linear(3, 3, bias=False).double()
        nn.init.eye_(self.embed.weight)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = self.embed(tokens)
        q, k, v = (tokens[..., i : i + 1] for i in range(3))
        if self.fused:
            read = functional.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
        else:
            read = torch.softmax(q @ k.transpose(-1, -2), dim=-1) @ v
        return tokens + read


def _three() -> Tensor:
    return torch.tensor(
        [[[1.0, 0.0, 4.0], [0.0, math.log(2), -3.0], [0.0, math.log(5), 2.0]]],
        dtype=torch.float64,
    )


def _read_last_feature(output: Tensor) -> Tensor:
    # The target reads token 0 alone, with factor 1 on its three (equal) added values' last one.
    return output[:, 0, 2]


@pytest.mark.parametrize("fused", [False, True])
def test_three_tokens_by_hand(fused):
    """Y = x_02 + sum_j A_0j v_j, so dA_0j = v_j = (4, -3, 2).

    A * dA = (4/8, -6/8, 10/8); positive part C = (0.5, 0, 1.25), sum 1.75.
    GenAtt: row 0 of I + C = (1.5, 0, 1.25). Rollout: (1 + 1/8, 2/8, 5/8) / 2.
    WRA: Y_0 = (1, 0, 4) and dy/dY_0: through the residual (0, 0, 1), through the attention what
    follows. With equal weights: 0.5 (1, 0, 0) + 0.5 (0.5, 0, 1.25) / 1.75 = (9/14, 0, 5/14).
    AttGrad keeps the sign: (0.5, -0.75, 1.25).
    Grad-CAM: the mean of dA over the whole map is (4 - 3 + 2) / 9 = 1/3: (1, 2, 5) / 24.
    """
    wanted = {
        "genatt": [1.5, 0, 1.25],
        "rollout": [9 / 16, 2 / 16, 5 / 16],
        "raw-attention": [1 / 8, 2 / 8, 5 / 8],
        "attgrad": [0.5, -0.75, 1.25],
        "attention-gradcam": [1 / 24, 2 / 24, 5 / 24],
    }
    network, tokens = Three(fused), _three()
    for method, row in wanted.items():
        found = relmap.explain(network, target=_read_last_feature, method=method, tokens=tokens)
        assert found.scores["tokens"][0].tolist() == pytest.approx(row, abs=1e-12), method
    equal = relmap.explain(
        network, target=_read_last_feature, method="wra", weights="equal", tokens=tokens
    )
    assert equal.scores["tokens"][0].tolist() == pytest.approx([9 / 14, 0, 5 / 14], abs=1e-12)


@pytest.mark.parametrize("fused", [False, True])
def test_three_tokens_weighted_by_hand(fused):
    """Only the values carry a gradient here: queries and keys are cut off.

    Y * dY: token 0 has (0, 0, 4 * (1 + 1/8)) = 4.5, token 1 -3 * 2/8 = -0.75 (clamped), token 2
    2 * 5/8 = 1.25: together 5.75. Y' is added to all three features, but only the last is read:
    Y'_02 = 4/8 - 6/8 + 10/8 = 1 with gradient 1. alpha = 5.75 / 6.75 = 23/27.
    """

    class Cut(Three):
        def forward(self, tokens: Tensor) -> Tensor:
            tokens = self.embed(tokens)
            q, k, v = tokens[..., :1].detach(), tokens[..., 1:2].detach(), tokens[..., 2:]
            if self.fused:
                q, k, v = q[:, None], k[:, None], v[:, None]
                read = functional.scaled_dot_product_attention(q, k, v)[:, 0]
            else:
                read = torch.softmax(q @ k.transpose(-1, -2), dim=-1) @ v
            return tokens + read

    found = relmap.explain(Cut(fused), target=_read_last_feature, method="wra", tokens=_three())
    alpha = 23 / 27
    wanted = [alpha + (1 - alpha) * 0.5 / 1.75, 0, (1 - alpha) * 1.25 / 1.75]
    assert found.scores["tokens"][0].tolist() == pytest.approx(wanted, abs=1e-12)


def test_half_precision_is_lifted():
    network = Three(True).bfloat16()
    found = relmap.explain(
        network, target=_read_last_feature, method="genatt", tokens=_three().bfloat16()
    )
    assert found.scores["tokens"].dtype == torch.float32
    assert found.scores["tokens"][0].tolist() == pytest.approx([1.5, 0, 1.25], abs=0.02)


def test_wide_keeps_double():
    assert algebra.wide(torch.zeros(1, dtype=torch.float64)).dtype == torch.float64
    assert algebra.wide(torch.zeros(1, dtype=torch.bfloat16)).dtype == torch.float32
