"""Which axis counts the examples, where another is as long: found, or refused."""

import pytest
import torch
from reference.encoder import WIDE, Encoder
from torch import nn
from torch.nn import functional

import relmap
from relmap.errors import TraceError


def explained(network, method="full-lrp", **inputs):
    """Scores under rules that keep the total of every example, where the method has such."""
    backward = "deep-taylor" if method == "full-lrp" else None
    return relmap.explain(
        network, method=method, backward=backward, target=lambda output: output[:, 1], **inputs
    ).scores["x"]


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("tokens", [3, 5])
def test_the_order_of_axes_does_not_matter(norm_first, tokens):
    """As many tokens as examples: sums over one must not become sums over the other."""
    x = torch.randn(3, tokens, WIDE, dtype=torch.float64)
    first = explained(Encoder(True, norm_first).double(), x=x)
    last = explained(Encoder(False, norm_first).double(), x=x.transpose(0, 1))
    torch.testing.assert_close(first, last, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(first.sum(-1), torch.ones(3).double(), rtol=0, atol=1e-6)
    alone = [explained(Encoder(True, norm_first).double(), x=one) for one in x.split(1)]
    torch.testing.assert_close(first, torch.cat(alone), rtol=1e-6, atol=1e-9)


def test_a_pooled_sequence_of_as_many_tokens_as_examples():
    """What is behind the last token belongs to examples, whatever its axes are."""

    class Pooled(Encoder):
        def forward(self, x):
            x = self.encoder(x)
            pooled = x.mean(0 if not self.first else 1)
            return self.head(pooled + torch.relu(pooled @ self.head.weight.T @ self.head.weight))

    x = torch.randn(3, 3, WIDE, dtype=torch.float64)
    maps = [
        explained(Pooled(first).double(), x=x if first else x.transpose(0, 1))
        for first in (True, False)
    ]
    torch.testing.assert_close(*maps, rtol=1e-6, atol=1e-9)


class Clips(nn.Module):
    """Attention inside of frames, whose average is read: frames behave as examples do."""

    def __init__(self, frames_first):
        super().__init__()
        torch.manual_seed(1)
        self.query, self.value, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.frames = 0 if frames_first else 1

    def forward(self, x):
        x = x + functional.scaled_dot_product_attention(self.query(x), x, self.value(x))
        return self.head(x.mean(2).mean(self.frames))


@pytest.mark.parametrize("method", ["full-lrp", "genatt"])
@pytest.mark.parametrize("frames_first", [False, True])
def test_an_axis_that_may_count_examples_or_not_is_refused(method, frames_first):
    network = Clips(frames_first).double()
    two, three = torch.randn(3, 2, 4, 8).double(), torch.randn(3, 3, 4, 8).double()
    if frames_first:
        two = two.transpose(0, 1)
    whole = explained(network, method, x=two)
    alone = [explained(network, method, x=one) for one in two.split(1, 1 if frames_first else 0)]
    torch.testing.assert_close(whole, torch.cat(alone), rtol=1e-7, atol=1e-9)
    with pytest.raises(TraceError, match="explain one example at a time"):
        explained(network, method, x=three)


class Packed(Clips):
    """Frames of two tokens beside those of other examples: as many tokens as examples."""

    def forward(self, x):
        batch = len(x)
        x = x.reshape(-1, 2, 8)
        x = x + functional.scaled_dot_product_attention(self.query(x), x, self.value(x))
        return self.head(x.mean(1).reshape(batch, -1, 8).mean(1))


@pytest.mark.parametrize("method", ["full-lrp", "genatt"])
def test_tokens_of_an_attention_are_no_examples(method):
    network, x = Packed(False).double(), torch.randn(2, 3, 2, 8, dtype=torch.float64)
    whole = explained(network, method, x=x)
    alone = [explained(network, method, x=one) for one in x.split(1)]
    torch.testing.assert_close(whole, torch.cat(alone), rtol=1e-7, atol=1e-9)


class Placed(Encoder):
    """Positions added to what comes in, before anything says which axis is which."""

    def forward(self, x):
        places = torch.arange(len(self.head.weight)).sin().double()
        places = self.encoder.layers[0].linear1.weight[: len(places)] * places[:, None]
        return super().forward(x + (places if self.first else places[:, None]))


def test_positions_on_raw_inputs():
    x = torch.randn(3, 3, WIDE, dtype=torch.float64)
    maps = [
        explained(Placed(first).double(), x=x if first else x.transpose(0, 1))
        for first in (True, False)
    ]
    alone = [explained(Placed(True).double(), x=one) for one in x.split(1)]
    torch.testing.assert_close(maps[0], torch.cat(alone), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(*maps, rtol=1e-6, atol=1e-9)
