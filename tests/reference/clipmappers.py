"""CLIPmapper A and B, tiny, with everything a reference needs to know of them."""

from __future__ import annotations

from typing import Any

import torch
from architectures.samples import words
from architectures.weights import enlarge
from transformers import CLIPConfig

from clipmapper.model import (
    CLIPmapperConfig,
    CLIPmapperForCaptioning,
    CLIPmapperForQuestionAnswering,
)

from .cases import Case
from .records import SubLayer

IMAGE, TEXT = ("image",), ("text",)
WORDS, VOCABULARY = 5, 30
TOWER = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
}


def clipmapper(mapper: str, captioning: bool) -> Case:
    """A question answerer, read at the image's class token, or a captioner, at its last word."""
    fast, eager = (_built(mapper, captioning, how) for how in ("sdpa", "eager"))
    eager.load_state_dict(fast.state_dict())
    sublayers = _towers() + (_joint() if mapper == "a" else _exchange(captioning))
    ids = words(2, WORDS) % VOCABULARY
    return Case(
        fast,
        eager,
        {"pixel_values": torch.randn(2, 3, 8, 8, dtype=torch.float64), "input_ids": ids},
        sublayers,
        names={"image": "pixel_values", "text": "input_ids"},
        sizes={"image": 5, "text": WORDS},
        read=("text", lambda inputs: WORDS - 1) if captioning else ("image", lambda inputs: 0),
        scores=(lambda output: output.logits[:, -1]) if captioning else lambda o: o.logits,
    )


def _built(mapper: str, captioning: bool, implementation: str) -> Any:
    vision = {**TOWER, "image_size": 8, "patch_size": 4}
    text = {**TOWER, "vocab_size": VOCABULARY, "max_position_embeddings": 12}
    config = CLIPmapperConfig(
        clip_config=CLIPConfig(
            vision_config=vision, text_config={**text, "bos_token_id": 1, "eos_token_id": 2}
        ),
        mapper=mapper,
        hidden_size=16,
        num_attention_heads=2,
        num_hidden_layers=2,
        id2label={index: f"answer {index}" for index in range(4)},
    )
    kind = CLIPmapperForCaptioning if captioning else CLIPmapperForQuestionAnswering
    torch.manual_seed(4)
    network = kind._from_config(config, attn_implementation=implementation)
    enlarge(network)
    return network.double().eval()


def _towers() -> list[SubLayer]:
    return [
        SubLayer(names, names, (f"{path}.layer_norm1", 0), f"{path}.self_attn", step)
        for step, (tower, names) in enumerate((("vision", IMAGE), ("text", TEXT)))
        for path in [f"model.clip.{tower}_model.encoder.layers.0"]
    ]


def _joint() -> list[SubLayer]:
    both = IMAGE + TEXT
    return [
        SubLayer(both, both, (f"{path}.attention_norm", 0), f"{path}.attention", 2 + i)
        for i in range(2)
        for path in [f"model.mapper.layers.{i}"]
    ]


def _exchange(captioning: bool) -> list[SubLayer]:
    found = []
    for i in range(2):
        path, step = f"model.mapper.layers.{i}", 2 + 3 * i
        for at, (name, own) in enumerate((("image", IMAGE), ("text", TEXT))):
            branch = f"{path}.{name}"
            found.append(
                SubLayer(
                    own, own, (f"{branch}.attention_norm", 0), f"{branch}.attention", step + at
                )
            )
        for name, own, other in (("image", IMAGE, TEXT), ("text", TEXT, IMAGE)):
            branch = f"{path}.{name}"
            if not (captioning and own is IMAGE):
                norm = (f"{branch}.exchange_norm", 0)
                found.append(SubLayer(own, other, norm, f"{branch}.exchange", step + 2))
    return found
