"""Choices that are kept: in every spelling of an axis, the second reading takes the first's."""

import pytest
import torch

import relmap
from relmap.targets.frozen_choices import Choices

FIRST = torch.tensor([[3.0, 1.0, 2.0], [1.0, 5.0, 4.0], [2.0, 7.0, 6.0]])
SECOND = FIRST.flip(0) * torch.tensor([1.0, -1.0, 2.0])

SPELLINGS = {
    "max(axis=0)": lambda x: x.max(axis=0).values,
    "max(dim=0)": lambda x: x.max(dim=0).values,
    "max(0)": lambda x: x.max(0).values,
    "torch.max(input=, dim=)": lambda x: torch.max(input=x, dim=0).values,
    "min(axis=0, keepdim)": lambda x: x.min(axis=0, keepdim=True).values,
    "sort(dim=0)": lambda x: x.sort(dim=0).values,
    "sort(stable, axis)": lambda x: torch.sort(x, stable=True, dim=0).values,
    "topk(k, axis)": lambda x: x.topk(k=2, dim=0).values,
    "topk(2, 0)": lambda x: x.topk(2, 0).values,
    "kthvalue(2, dim)": lambda x: x.kthvalue(k=2, dim=0).values,
    "median(axis=0)": lambda x: x.median(axis=0).values,
    "mode(dim=0)": lambda x: x.mode(dim=0).values,
    "cummax(0)": lambda x: x.cummax(0).values,
}
INDICES = {
    "max(axis=0)": lambda x: x.max(0), "max(dim=0)": lambda x: x.max(0),
    "max(0)": lambda x: x.max(0), "torch.max(input=, dim=)": lambda x: x.max(0),
    "min(axis=0, keepdim)": lambda x: x.min(0, keepdim=True),
    "sort(dim=0)": lambda x: x.sort(0), "sort(stable, axis)": lambda x: x.sort(0),
    "topk(k, axis)": lambda x: x.topk(2, 0), "topk(2, 0)": lambda x: x.topk(2, 0),
    "kthvalue(2, dim)": lambda x: x.kthvalue(2, 0), "median(axis=0)": lambda x: x.median(0),
    "mode(dim=0)": lambda x: x.mode(0), "cummax(0)": lambda x: x.cummax(0),
}  # fmt: skip


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_the_second_reading_takes_the_places_of_the_first(spelling):
    choices = Choices(SPELLINGS[spelling])
    chosen = INDICES[spelling](FIRST)
    torch.testing.assert_close(choices.read(FIRST), chosen.values)
    at = chosen.indices if chosen.indices.ndim == 2 else chosen.indices[None]
    expected = SECOND.gather(0, at).reshape(chosen.values.shape)
    torch.testing.assert_close(choices.read(SECOND), expected)


def test_integrated_gradients_of_a_transposed_choice():
    torch.manual_seed(0)
    network = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    head = torch.nn.Linear(8, 3)

    class Classifier(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = network, head

        def forward(self, x):
            return self.head(self.body(x)[:, 0])

    given = {"x": torch.randn(3, 4, 8), "method": "integrated-gradients"}
    numpy = relmap.explain(
        Classifier().eval(), target=lambda out: out.T.max(axis=0).values, **given
    )
    plain = relmap.explain(Classifier().eval(), target=None, **given)
    torch.testing.assert_close(numpy.scores["x"], plain.scores["x"])


def test_a_target_function_is_called_once():
    network = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    calls = []

    def read(output):
        calls.append(output)
        return output[:, 0, 3]

    relmap.explain(network, src=torch.randn(2, 4, 8), target=read, method="genatt")
    assert len(calls) == 1
