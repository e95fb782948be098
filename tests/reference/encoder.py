"""torch's own encoder, with the batch axis in front or behind the tokens."""

import torch
from torch import nn

WIDE = 32


class Encoder(nn.Module):
    """torch's own encoder, in both orders of axes, wide enough that no product is all negative."""

    def __init__(self, batch_first, norm_first=True, width=WIDE):
        super().__init__()
        torch.manual_seed(1)
        layer = nn.TransformerEncoderLayer(
            width, 2, 48, batch_first=batch_first, norm_first=norm_first, activation="gelu"
        )
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head, self.first = nn.Linear(width, 3), batch_first
        for parameter in self.parameters():
            parameter.data.normal_(0, 0.3)

    def forward(self, x):
        x = self.encoder(x)
        return self.head(x[:, 0] if self.first else x[0])
