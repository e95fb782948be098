"""What holds of the plug-in once it is installed."""

import torch
from torch import nn

import relmap
from relmap.testing import check_method

torch.manual_seed(0)
network = nn.TransformerEncoderLayer(8, 2, batch_first=True).eval()
features = torch.randn(1, 5, 8)


def read(output: torch.Tensor) -> torch.Tensor:
    return output[:, 0, 3]


result = relmap.explain(network, src=features, target=read, method="gradient-norm")
entering = features.clone().requires_grad_()
read(network(entering)).sum().backward()
torch.testing.assert_close(result.scores["src"], entering.grad.norm(dim=-1))
check_method("gradient-norm")
