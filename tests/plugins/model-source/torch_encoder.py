"""Encoders of plain torch: a safetensors file whose metadata says how large the layers are."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from relmap import InputError, Model
from relmap.models import SOURCES, read_weights, settle


class Encoder(nn.Module):
    """A transformer encoder that reads features and classifies their mean."""

    def __init__(self, width: int, heads: int, layers: int, classes: int) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(width, heads, 2 * width, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, classes)

    def forward(self, features: Tensor) -> Tensor:
        """Features (batch, token, width) to the scores of the classes."""
        return self.head(self.layers(features).mean(1))


@SOURCES.register("torch-encoder", usage="torch-encoder:FILE.safetensors")
def torch_encoder(
    name: str,
    *,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
    trust_remote_code: bool = False,
) -> Model:
    """An encoder in a safetensors file, its sizes and class names in the file's metadata."""
    weights = read_weights(Path(name))
    with safe_open(name, framework="pt") as file:
        about = json.loads((file.metadata() or {}).get("encoder", "null"))
    if about is None:
        raise InputError(f"{name} does not say how large its encoder is: no metadata 'encoder'")
    labels = dict(enumerate(about.pop("labels")))
    network = Encoder(**about, classes=len(labels))
    network.load_state_dict(weights)
    return Model(settle(network, device, dtype), f"torch-encoder:{name}", _prepare, labels)


def _prepare(**given: Any) -> dict[str, Any]:
    raise InputError(f"an encoder takes features=, not {', '.join(given)}")
