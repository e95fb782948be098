"""What holds of the plug-in once it is installed."""

import torch
from torch import nn

import relmap
from relmap.testing import check_backward


class Guided(torch.autograd.Function):
    """ReLU with the backward of the paper, written out."""

    @staticmethod
    def forward(context, given):
        context.save_for_backward(given)
        return given.clamp_min(0)

    @staticmethod
    def backward(context, gradient):
        (given,) = context.saved_tensors
        return gradient.clamp_min(0) * (given > 0)


torch.manual_seed(0)
network = nn.TransformerEncoderLayer(8, 2, batch_first=True).eval()
features = torch.randn(1, 5, 8)


def read(output: torch.Tensor) -> torch.Tensor:
    return output[:, 0, 3]


result = relmap.explain(
    network,
    src=features,
    target=read,
    method="input-x-gradient",
    backward="guided-backpropagation",
)
entering = features.clone().requires_grad_()
attended = network.norm1(entering + network._sa_block(entering, None, None))
hidden = network.linear2(Guided.apply(network.linear1(attended)))
read(network.norm2(attended + hidden)).sum().backward()
torch.testing.assert_close(result.scores["src"], (entering * entering.grad).sum(-1))
check_backward("guided-backpropagation")
