"""Constants put beside a raw input, before it is embedded, are no content of it.

The truth is the same network spelled the other way round: first embedded, then put side by side.
"""

import pytest
import torch
from torch import nn

import relmap

WIDTH, TOKENS = 4, 5


class Network(nn.Module):
    """A read-out token, or padding, beside the input: before the embedding or after it."""

    def __init__(self, where, early):
        super().__init__()
        torch.manual_seed(0)
        self.beside = nn.Parameter(torch.randn(1, 2, WIDTH))
        self.embed, self.head = nn.Linear(WIDTH, 8), nn.Linear(8, 3)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.where, self.early = where, early

    def forward(self, x):
        beside = self.beside.expand(len(x), -1, -1)
        if not self.early:
            x, beside = self.embed(x), self.embed(beside)
        parts = {
            "before": [beside, x],
            "behind": [x, beside],
            "both": [beside[:, :1], x, beside[:, 1:]],
        }[self.where]
        x = torch.cat(parts, 1)
        return self.head(self.block(self.embed(x) if self.early else x)[:, 0])


@pytest.mark.parametrize("where", ["before", "behind", "both"])
@pytest.mark.parametrize("method", ["genatt", "wra", "rollout"])
def test_they_are_special_as_those_put_beside_the_embedded_input(where, method):
    x = torch.randn(3, TOKENS, WIDTH)
    early, late = (
        relmap.explain(Network(where, early).eval(), x=x, target=1, method=method)
        for early in (True, False)
    )
    torch.testing.assert_close(early.scores["x"], late.scores["x"])
    assert early.layout["x"].special.tolist() == late.layout["x"].special.tolist()
    assert early.layout["x"].content.sum(1).tolist() == [TOKENS] * 3


@pytest.mark.parametrize(
    ("sizes", "special"),
    [((0, 0, 0, 2), [0] * 5 + [1] * 2), ((0, 0, 1, 0), [1] + [0] * 5), ((0, 2, 0, 0), [0] * 5)],
)
def test_zeros_that_were_padded(sizes, special):
    class Padded(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.embed = nn.Linear(WIDTH + sizes[1], 8)
            self.block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)

        def forward(self, x):
            return self.block(self.embed(nn.functional.pad(x, sizes)))[:, 2]

    result = relmap.explain(Padded().eval(), x=torch.randn(2, TOKENS, WIDTH), target=1)
    assert result.layout["x"].special.int().tolist() == [special] * 2


def test_a_mask_of_the_input_finds_its_tokens_beside_a_read_out_token():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.first = nn.Parameter(torch.randn(1, 1, WIDTH))
            self.embed = nn.Linear(WIDTH, 8)
            self.block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)

        def forward(self, inputs_embeds, attention_mask):
            x = torch.cat([self.first.expand(len(inputs_embeds), -1, -1), inputs_embeds], 1)
            unseen = torch.cat([attention_mask.new_zeros(len(x), 1), 1 - attention_mask], 1).bool()
            return self.block(self.embed(x), src_key_padding_mask=unseen)[:, 0]

    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    result = relmap.explain(
        Masked().eval(), inputs_embeds=torch.randn(2, TOKENS, WIDTH), attention_mask=mask, target=1
    )
    layout = result.layout["inputs_embeds"]
    assert layout.padding.int().tolist() == [[0] * 6, [0] * 4 + [1] * 2]
    assert layout.special.int().tolist() == [[1] + [0] * 5] * 2
