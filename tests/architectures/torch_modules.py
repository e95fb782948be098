"""Transformers of torch.nn itself."""

import torch
from torch import nn

from .registration import architecture


def _mean(output):
    return output.mean(dim=(1, 2))


def _first_token(output):
    return output[:, 0].sum(-1)


@architecture("nn.TransformerEncoder", attentions=2, family="torch", target=_first_token)
@architecture(
    "nn.TransformerEncoder pre",
    attentions=2,
    family="torch",
    target=_first_token,
    norm_first=True,
)
def encoder(*, norm_first=False):
    layer = nn.TransformerEncoderLayer(
        16, 2, dim_feedforward=32, batch_first=True, norm_first=norm_first
    )
    network = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    padding = torch.zeros(2, 6, dtype=torch.bool)
    padding[1, -2:] = True
    return network, {"src": torch.randn(2, 6, 16), "src_key_padding_mask": padding}


@architecture("nn.Transformer", attentions=6, family="torch", target=_first_token)
def transformer():
    network = nn.Transformer(16, 2, 2, 2, dim_feedforward=32, batch_first=True)
    return network, {"src": torch.randn(2, 6, 16), "tgt": torch.randn(2, 4, 16)}
