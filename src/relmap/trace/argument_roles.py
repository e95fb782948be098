"""What the arguments of a forward are for, told by their names: one list for the whole house.

Networks of all libraries name alike what they take: `input_ids`, `pixel_values`, `attention_mask`.
An argument plays the role of its exact name or else of a suffix that stands behind an underscore,
so that `generation`, `head_pose` or `cached_features` are never taken for a ratio, a head mask or a
cache. A name that is in neither list is data, whose tokens are explained. Sizes, indices and other
counts are whole numbers: a floating tensor with such an ending (`body_mass_index`) is data too.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor

__all__ = [
    "BESIDE_TEXT",
    "CACHES",
    "MAIN",
    "PER_EXAMPLE",
    "PICTURES",
    "Role",
    "belongs",
    "decodes",
    "ids_name",
    "may_be_infinite",
    "modality",
    "padding_masks",
    "role",
    "steers",
]


class Role(StrEnum):
    """What an argument is for; all but the first are no tokens and only steer the pass."""

    DATA = "data"
    MASK = "mask"
    POSITION = "position"
    TYPE = "type"
    COUNT = "count"
    CACHE = "cache"
    LABEL = "label"


PICTURES = ("pixel_values", "image", "images", "x")
"""Pictures, under the names that networks of pictures give their main argument."""

MAIN = (
    "input_ids", "inputs_embeds", "input_features", "input_values", "pixel_values",
    "flattened_patches",
)  # fmt: skip
"""Arguments that have one row for every example, in the order in which they are asked."""

CACHES = frozenset(
    ["past_key_values", "past_key_value", "layer_past", "past", "cache_params", "mems"]
)
"""Arguments in which networks keep what they computed from earlier tokens."""

_EXACT: Mapping[str, Role] = MappingProxyType(
    {
        **dict.fromkeys(["past_key_values", "past_key_value", "cache_params"], Role.CACHE),
        **dict.fromkeys(["cache", "cache_position", "past_key_values_length"], Role.CACHE),
        **dict.fromkeys(["mask", "masks", "padding", "padding_mask_videos"], Role.MASK),
        **dict.fromkeys(["noise", "rope_deltas", "position_embeddings"], Role.POSITION),
        **dict.fromkeys(["bbox", "visual_bbox", "timestamps"], Role.POSITION),
        **dict.fromkeys(["past_time_features", "future_time_features"], Role.POSITION),
        **dict.fromkeys(["position_id", "position_ids", "valid_ratios"], Role.POSITION),
        **dict.fromkeys(["token_type", "token_type_ids", "type_ids"], Role.TYPE),
        **dict.fromkeys(["aspect_ratio_ids", "input_shape_ids"], Role.TYPE),
        **dict.fromkeys(["labels", "labels_input_ids", "labels_input_shape_ids"], Role.LABEL),
        **dict.fromkeys(["labels_input_pronunciation_ids"], Role.LABEL),
        **dict.fromkeys(["lengths", "spatial_shapes_list", "target_sizes"], Role.COUNT),
        **dict.fromkeys(["image_sizes", "image_sizes_videos", "target_sizes_videos"], Role.COUNT),
        **dict.fromkeys(["num_local_patches", "num_frames_per_video"], Role.COUNT),
        **dict.fromkeys(["image_num_crops", "batch_num_images", "num_options"], Role.COUNT),
        **dict.fromkeys(["num_delay_tokens", "num_steps", "grid_thw"], Role.COUNT),
    }
)

_SUFFIXES: Mapping[str, Role] = MappingProxyType(
    {
        **dict.fromkeys(["mask", "masks", "masked_pos", "padding"], Role.MASK),
        **dict.fromkeys(["position_ids", "position_embeddings"], Role.POSITION),
        **dict.fromkeys(["type_ids", "token_type"], Role.TYPE),
        "cache": Role.CACHE,
        "past_key_values": Role.CACHE,
        "labels": Role.LABEL,
    }
)

_WHOLE_NUMBERS: Mapping[str, Role] = MappingProxyType(
    {
        **dict.fromkeys(["size", "sizes", "shape", "shapes", "lens", "lengths"], Role.COUNT),
        **dict.fromkeys(["index", "indices", "seqlens", "grid_thw"], Role.COUNT),
        **dict.fromkeys(["shape_ids"], Role.TYPE),
        **dict.fromkeys(["bbox"], Role.POSITION),
    }
)
"""Suffixes of counts, which a floating tensor never is."""

_ATTENTION_MASKS = frozenset(["src_mask", "tgt_mask", "memory_mask"])
"""Masks of torch.nn between tokens and tokens: they say who sees whom, not what is padding."""

BESIDE_TEXT: Mapping[str, int | None] = MappingProxyType(
    {
        "attention_mask": 1,
        "token_type_ids": 0,
        "mm_token_type_ids": 0,
        "image_embeds_position_mask": 0,
        "cross_attention_mask": None,
    }
)
"""What has an entry for every token of a text: that of one more token, None to repeat the last."""

PER_EXAMPLE = (
    "pixel_values", "pixel_mask", "input_ids", "attention_mask", "token_type_ids", "position_ids",
    "bbox",
)  # fmt: skip
"""What one picture, or one text, is repeated with where there are several of the other kind."""

_WORDS: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "audio": frozenset(["audio", "sound", "speech", "waveform", "waveforms", "spectrogram"]),
        "image": frozenset(["pixel", "pixels", "image", "images", "vision", "video", "videos"]),
    }
)
_SOUNDS = frozenset(["input_features", "input_values"])


def role(name: str, value: Any = None) -> Role:
    """The role that a name gives to an argument, with the type of its numbers where it is known.

    Example:
        >>> role("attention_mask"), role("masked_image"), role("encoder_attention_mask")
        (<Role.MASK: 'mask'>, <Role.DATA: 'data'>, <Role.MASK: 'mask'>)
        >>> role("seq_lengths"), role("leg_lengths", torch.ones(1, 4))
        (<Role.COUNT: 'count'>, <Role.DATA: 'data'>)
    """
    name = name.lower()
    if name in _EXACT:
        return _EXACT[name]
    floating = isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())
    known = _SUFFIXES if floating else {**_WHOLE_NUMBERS, **_SUFFIXES}
    words = name.split("_")
    ends = ("_".join(words[at:]) for at in range(1, len(words)))
    return next((known[end] for end in ends if end in known), Role.DATA)


def steers(name: str, value: Tensor) -> bool:
    """Whether an argument only steers the forward pass (masks, positions, sizes, switches)."""
    if value.dtype == torch.bool or value.ndim == 0:
        return True
    return role(name, value) is not Role.DATA


def modality(name: str) -> Literal["audio", "image", "text"] | None:
    """What a name says its data are; None where it says nothing.

    Example:
        >>> modality("pixel_values_videos"), modality("input_values"), modality("imagery")
        ('image', 'audio', None)
    """
    name = name.lower()
    words = set(name.split("_"))
    if name in _SOUNDS or words & _WORDS["audio"] or name.endswith("input_features"):
        return "audio"
    if words & _WORDS["image"]:
        return "image"
    return "text" if name == "inputs_embeds" else None


def padding_masks(name: str) -> tuple[str, ...]:
    """The arguments that may say which tokens of a source are padding, the closest first.

    Example:
        >>> padding_masks("decoder_input_ids")[0], padding_masks("tgt")
        ('decoder_attention_mask', ())
    """
    stem, _, last = name.rpartition("_")
    near = [f"{name.removesuffix('s')}_mask", f"{name}_mask"]
    if last in ("ids", "embeds", "feats", "features", "values"):
        begin = stem.removesuffix("input").removesuffix("inputs").removesuffix("_")
        near.insert(0, f"{begin}_attention_mask" if begin else "attention_mask")
    return tuple(dict.fromkeys(one for one in near if one not in _ATTENTION_MASKS))


def may_be_infinite(name: str) -> bool:
    """Whether minus infinity is at home in an argument: masks, and what is added to scores."""
    return role(name) is Role.MASK or name.rpartition("_")[2] == "bias"


def decodes(arguments: Mapping[str, Any]) -> bool:
    """Whether a decoder of its own was given what it has written so far."""
    return "decoder_input_ids" in arguments or "decoder_inputs_embeds" in arguments


def ids_name(arguments: Mapping[str, Any]) -> str:
    """The argument that holds the text which the network goes on with."""
    return "decoder_input_ids" if "decoder_input_ids" in arguments else "input_ids"


def belongs(name: str, source: str, is_text: bool) -> bool:
    """Whether an argument of the same length goes with a source: its mask, positions or types.

    Two sources may happen to have one length. Forward arguments of boxes and patches share the
    first word of their names (visual_feats, visual_pos, visual_attention_mask); those of text have
    no such word.
    """
    begin = f"{source.partition('_')[0]}_"
    if not is_text or begin == "decoder_":
        return name.startswith(begin)
    return not name.startswith(("visual_", "image_", "pixel_", "decoder_"))
