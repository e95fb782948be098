"""What holds of the plug-in once it is installed."""

import torch
from torch import nn

import relmap


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer(features)[:, 0])


torch.manual_seed(0)
network, features = Classifier().eval(), torch.randn(2, 5, 8)


def entropy(output: torch.Tensor) -> torch.Tensor:
    return torch.distributions.Categorical(logits=output).entropy()


by_name = relmap.explain(network, features=features, target="uncertainty", method="genatt")
by_hand = relmap.explain(network, features=features, target=entropy, method="genatt")
torch.testing.assert_close(by_name.scores["features"], by_hand.scores["features"])
