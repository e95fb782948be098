"""A tiny CLIP and a tiny ViT in double precision, with inputs."""

from __future__ import annotations

from typing import Any

import torch
from architectures import build
from torch import Tensor


def clip(implementation: str = "sdpa", batch: int = 3) -> tuple[Any, dict[str, Tensor]]:
    network = build("CLIP", implementation).network.double()
    ids = torch.randint(5, 50, (batch, 6))
    mask = torch.ones_like(ids)
    end = network.config.text_config.eos_token_id
    ids[:, -1] = end
    ids[1, 4:], mask[1, 5:] = end, 0  # one text is shorter
    pixels = torch.randn(batch, 3, 12, 12, dtype=torch.float64)
    return network, {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels}


def vit(implementation: str = "sdpa") -> tuple[Any, dict[str, Tensor]]:
    network = build("ViT", implementation).network.double()
    return network, {"pixel_values": torch.randn(2, 3, 12, 12, dtype=torch.float64)}
