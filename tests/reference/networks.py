"""Where the attention sub-layers of some of transformers' networks are, written down by hand."""

from __future__ import annotations

from .records import SubLayer

IMAGE, TEXT = ("image",), ("text",)
ENCODER, DECODER = ("encoder",), ("decoder",)
BOTH = ("text", "image")


def vit(depth: int = 2) -> list[SubLayer]:
    """Normalised before: Y is what the first layer norm is given."""
    return [
        SubLayer(IMAGE, IMAGE, (f"{path}.layernorm_before", 0), f"{path}.attention", i)
        for i in range(depth)
        for path in [f"vit.layers.{i}"]
    ]


def bert(
    depth: int = 2, prefix: str = "bert.encoder.layer", names: tuple[str, ...] = TEXT
) -> list[SubLayer]:
    """Normalised after: the output module is given the attention output and Y."""
    return [_after(f"{prefix}.{i}.attention.output", names, names, i) for i in range(depth)]


def lxmert(language: int = 2, vision: int = 2, exchange: int = 2) -> list[SubLayer]:
    """Two encoders; then both directions of one cross-attention, and self-attention."""
    found, step = [], 0
    for layers, count, names in (("layer", language, TEXT), ("r_layers", vision, IMAGE)):
        for i in range(count):
            path = f"lxmert.encoder.{layers}.{i}.attention.output"
            found.append(_after(path, names, names, step))
            step += 1
    for i in range(exchange):
        path = f"lxmert.encoder.x_layers.{i}"
        cross = f"{path}.visual_attention.output"
        found += [_after(cross, TEXT, IMAGE, step), _after(cross, IMAGE, TEXT, step)]
        found.append(_after(f"{path}.lang_self_att.output", TEXT, TEXT, step + 1))
        found.append(_after(f"{path}.visn_self_att.output", IMAGE, IMAGE, step + 2))
        step += 3
    return found


def blip_text(
    vision: int = 2, depth: int = 2, prefix: str = "text_encoder.encoder.layer"
) -> list[SubLayer]:
    """A text encoder, normalised after, whose layers read the tokens of an image."""
    found = []
    for i in range(vision):
        path = f"vision_model.encoder.layers.{i}"
        found.append(SubLayer(IMAGE, IMAGE, (f"{path}.layer_norm1", 0), f"{path}.self_attn", i))
    for i in range(depth):
        path = f"{prefix}.{i}"
        found.append(_after(f"{path}.attention.output", TEXT, TEXT, vision + 2 * i))
        found.append(_after(f"{path}.crossattention.output", TEXT, IMAGE, vision + 2 * i + 1))
    return found


def t5(depth: int = 2) -> list[SubLayer]:
    """Encoder and decoder, normalised before."""
    found = []
    for i in range(depth):
        path = f"encoder.block.{i}.layer.0"
        found.append(SubLayer(ENCODER, ENCODER, (path, 0), f"{path}.SelfAttention", i))
    for i in range(depth):
        path, step = f"decoder.block.{i}.layer", depth + 2 * i
        found.append(SubLayer(DECODER, DECODER, (f"{path}.0", 0), f"{path}.0.SelfAttention", step))
        cross = f"{path}.1.EncDecAttention"
        found.append(SubLayer(DECODER, ENCODER, (f"{path}.1", 0), cross, step + 1))
    return found


def bart(depth: int = 2) -> list[SubLayer]:
    """Encoder and decoder, normalised after: Y is what the attention itself is given."""
    found = []
    for i in range(depth):
        path = f"model.encoder.layers.{i}.self_attn"
        found.append(SubLayer(ENCODER, ENCODER, (path, 0), path, i))
    for i in range(depth):
        path, step = f"model.decoder.layers.{i}", depth + 2 * i
        own, cross = f"{path}.self_attn", f"{path}.encoder_attn"
        found.append(SubLayer(DECODER, DECODER, (own, 0), own, step))
        found.append(SubLayer(DECODER, ENCODER, (cross, 0), cross, step + 1))
    return found


def _after(path: str, queries: tuple[str, ...], keys: tuple[str, ...], step: int) -> SubLayer:
    return SubLayer(queries, keys, (path, 1), f"{path}.dense", step)
