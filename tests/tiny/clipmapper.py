"""Tiny CLIPmappers, as configs and as models with weights like trained ones, and their inputs."""

from typing import Any

import torch
from architectures.weights import enlarge
from torch import Tensor

from clipmapper.model import CLIPmapperConfig

TOWER = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
VISION = {**TOWER, "hidden_size": 12, "image_size": 12, "patch_size": 4}
BEGIN, END, WORDS = 27, 28, 29
TEXT = {**TOWER, "hidden_size": 10, "vocab_size": WORDS, "max_position_embeddings": 9,
        "bos_token_id": BEGIN, "eos_token_id": END}  # fmt: skip
CLIP = {"vision_config": VISION, "text_config": TEXT, "projection_dim": 6}
ANSWERS, LENGTH = 5, 6


def config(mapper: str = "a", **fields: Any) -> CLIPmapperConfig:
    sizes = {"hidden_size": 16, "num_attention_heads": 4, "num_labels": ANSWERS}
    return CLIPmapperConfig(clip_config=CLIP, mapper=mapper, **{**sizes, **fields})


def make(kind: type[Any], mapper: str = "a", **fields: Any) -> Any:
    """A model that behaves like a trained one."""
    torch.manual_seed(5)
    model = kind(config(mapper, **fields))
    enlarge(model)
    return model.eval()


def sample(batch: int = 3, padded: bool = False) -> dict[str, Tensor]:
    inputs = {
        "pixel_values": torch.randn(batch, 3, 12, 12),
        "input_ids": torch.randint(0, BEGIN, (batch, LENGTH)),
    }
    if padded:
        inputs["attention_mask"] = torch.ones(batch, LENGTH, dtype=torch.long)
        inputs["attention_mask"][1:, LENGTH - 2 :] = 0
    return inputs
