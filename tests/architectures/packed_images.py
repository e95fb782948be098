"""Language models that see through a tower of packed images: all patches in one long sequence."""

import torch

from .registration import architecture
from .samples import DECODER, IMAGE_ID, prompt

QWEN_IDS = {
    "image_token_id": IMAGE_ID,
    "video_token_id": 3,
    "vision_start_token_id": 2,
    "vision_end_token_id": 1,
}
QWEN_ROPE = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}


def _packed(patches, *, patch=4, frames=2, merge=2):
    """Two images of 4 x 4 patches, packed in one sequence, and the prompt of each."""
    side = 4
    grid = torch.tensor([[1, side, side], [1, side, side]])
    texts = prompt(side * side // merge**2)
    texts["mm_token_type_ids"] = (texts["input_ids"] == IMAGE_ID).long()
    flat = torch.randn(2 * side * side, 3 * frames * patch * patch)
    return {**texts, patches: flat, "image_grid_thw": grid}


@architecture("Qwen2-VL", "Qwen2VLForConditionalGeneration", attentions=6)
def qwen2_vl(kind):
    # The tower attends within each of the two packed images separately: 2 x 2, and 2.
    config = kind.config_class(
        text_config={**DECODER, "rope_parameters": QWEN_ROPE},
        vision_config={
            "depth": 2,
            "embed_dim": 16,
            "hidden_size": 16,
            "num_heads": 2,
            "patch_size": 4,
            "mlp_ratio": 2,
        },
        **QWEN_IDS,
    )
    return config, _packed("pixel_values")


def _patch_vision(**changes):
    return {
        "depth": 2,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_heads": 2,
        "patch_size": 4,
        "out_hidden_size": 16,
        **changes,
    }


@architecture("Qwen2.5-VL", "Qwen2_5_VLForConditionalGeneration", attentions=12)
def qwen2_5_vl(kind):
    # Two packed images: the first layer attends in 2 x 4 windows, the second in each image, and 2.
    config = kind.config_class(
        text_config={**DECODER, "rope_parameters": QWEN_ROPE},
        vision_config=_patch_vision(window_size=8, fullatt_block_indexes=[1]),
        **QWEN_IDS,
    )
    return config, _packed("pixel_values")


@architecture("Qwen3-VL", "Qwen3VLForConditionalGeneration", attentions=6)
def qwen3_vl(kind):
    config = kind.config_class(
        text_config={
            **DECODER,
            "head_dim": 8,
            "rope_parameters": {**QWEN_ROPE, "mrope_section": [2, 1, 1]},
        },
        vision_config=_patch_vision(num_position_embeddings=16, deepstack_visual_indexes=[0]),
        **QWEN_IDS,
    )
    return config, _packed("pixel_values")


@architecture("GLM-4V", "Glm4vForConditionalGeneration", attentions=6)
def glm4v(kind):
    config = kind.config_class(
        text_config={**DECODER, "rope_parameters": QWEN_ROPE},
        vision_config=_patch_vision(image_size=16),
        image_token_id=IMAGE_ID,
        video_token_id=3,
        image_start_token_id=2,
        image_end_token_id=1,
        video_start_token_id=2,
        video_end_token_id=1,
    )
    return config, _packed("pixel_values")
