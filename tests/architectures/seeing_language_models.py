"""Language models that see: image tokens take their places between the words."""

import torch

from . import targets
from .registration import architecture
from .samples import DECODER, IMAGE_ID, VISION, pixels, prompt

LLAMA = {**DECODER, "model_type": "llama"}
CLIP_VISION = {**VISION, "model_type": "clip_vision_model"}
SIGLIP_VISION = {**VISION, "model_type": "siglip_vision_model"}


@architecture("LLaVA", "LlavaForConditionalGeneration", attentions=4, unread=1)
def llava(kind):
    # The features come from the layer before the last one of the tower, which runs all the same.
    config = kind.config_class(
        text_config=LLAMA,
        vision_config=CLIP_VISION,
        image_token_index=IMAGE_ID,
        image_seq_length=9,
    )
    return config, {**prompt(9), "pixel_values": pixels()}


def _prefix(image_tokens):
    """Kind 0 is the prefix, whose tokens all see each other; 1 would be the answer."""
    inputs = prompt(image_tokens)
    kinds = torch.zeros_like(inputs["input_ids"])
    return {**inputs, "token_type_ids": kinds, "pixel_values": pixels()}


@architecture("PaliGemma", "PaliGemmaForConditionalGeneration", attentions=5, unread=1)
def pali_gemma(kind):
    # 2 + 2, and the tower's pooling head, whose result is not read.
    config = kind.config_class(
        text_config={**DECODER, "model_type": "gemma", "head_dim": 8},
        vision_config={**SIGLIP_VISION, "projection_dim": 16},
        image_token_index=IMAGE_ID,
        projection_dim=16,
        hidden_size=16,
    )
    return config, _prefix(9)


@architecture("Idefics3", "Idefics3ForConditionalGeneration", attentions=4)
@architecture("SmolVLM", "SmolVLMForConditionalGeneration", attentions=4)
def idefics3(kind):
    # 4 x 4 patches, shuffled two by two into 4 tokens.
    config = kind.config_class(
        text_config=LLAMA,
        vision_config={**VISION, "image_size": 16},
        image_token_id=IMAGE_ID,
        scale_factor=2,
        pad_token_id=0,
    )
    images = pixels(size=16)[:, None]
    return config, {**prompt(4), "pixel_values": images}


@architecture("Gemma3-VL", "Gemma3ForConditionalGeneration", attentions=5, unread=1)
def gemma3_vl(kind):
    # 2 + 2, and the pooling head of the tower; 4 x 4 patches are averaged to 2 x 2 tokens.
    config = kind.config_class(
        text_config={**DECODER, "head_dim": 8, "sliding_window": 4},
        vision_config={**VISION, "image_size": 16},
        mm_tokens_per_image=4,
        image_token_index=IMAGE_ID,
        boi_token_index=2,
        eoi_token_index=1,
    )
    inputs = prompt(4)
    inputs["token_type_ids"] = (inputs["input_ids"] == IMAGE_ID).long()
    return config, {**inputs, "pixel_values": pixels(size=16)}


@architecture("Mllama", "MllamaForConditionalGeneration", attentions=6)
def mllama(kind):
    # Tower 2 (one of them global), language model 4 (one of them looks at the image).
    config = kind.config_class(
        text_config={
            **DECODER,
            "num_hidden_layers": 3,
            "cross_attention_layers": [1],
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        },
        vision_config={
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_global_layers": 1,
            "attention_heads": 2,
            "intermediate_size": 32,
            "vision_output_dim": 32,
            "image_size": 8,
            "patch_size": 4,
            "max_num_tiles": 2,
            "intermediate_layers_indices": [0],
            "supported_aspect_ratios": [[1, 1], [1, 2], [2, 1]],
        },
        image_token_index=IMAGE_ID,
    )
    inputs = prompt(1)
    length = inputs["input_ids"].shape[1]
    return config, {
        **inputs,
        "pixel_values": torch.randn(2, 1, 2, 3, 8, 8),
        "aspect_ratio_ids": torch.tensor([[2], [3]]),
        "aspect_ratio_mask": torch.ones(2, 1, 2, dtype=torch.long),
        "cross_attention_mask": torch.ones(2, length, 1, 2, dtype=torch.long),
    }


@architecture("ViP-LLaVA", "VipLlavaForConditionalGeneration", attentions=4)
def vip_llava(kind):
    config = kind.config_class(
        text_config=LLAMA,
        vision_config=CLIP_VISION,
        image_token_index=IMAGE_ID,
        image_seq_length=9,
        vision_feature_layer=[-2, -1],
    )
    return config, {**prompt(9), "pixel_values": pixels()}


@architecture("LLaVA-NeXT", "LlavaNextForConditionalGeneration", attentions=4, unread=1)
def llava_next(kind):
    # Each image comes as a thumbnail and four tiles: 9 tokens, 6 x 6 more, and 6 ends of lines.
    config = kind.config_class(
        text_config=LLAMA,
        vision_config=CLIP_VISION,
        image_token_index=IMAGE_ID,
        image_seq_length=9,
        image_grid_pinpoints=[[24, 24]],
    )
    return config, {
        **prompt(51),
        "pixel_values": torch.randn(2, 5, 3, 12, 12),
        "image_sizes": torch.tensor([[24, 24], [24, 24]]),
    }


@architecture("LLaVA-OneVision", "LlavaOnevisionForConditionalGeneration", attentions=5, unread=1)
def llava_onevision(kind):
    # 2 + 2, and the tower's pooling head; 9 + 6 x 6 image tokens, 6 ends of lines.
    config = kind.config_class(
        text_config={**LLAMA, "model_type": "qwen2"},
        vision_config=SIGLIP_VISION,
        image_token_index=IMAGE_ID,
        video_token_index=3,
        image_grid_pinpoints=[[24, 24]],
    )
    return config, {
        **prompt(51),
        "pixel_values": torch.randn(2, 5, 3, 12, 12),
        "image_sizes": torch.tensor([[24, 24], [24, 24]]),
    }


@architecture("VideoLLaVA", "VideoLlavaForConditionalGeneration", attentions=6, unread=2)
def video_llava(kind):
    # One tower for images and one for the frames of videos, 2 + 2, and 2.
    config = kind.config_class(
        text_config=LLAMA,
        vision_config=CLIP_VISION,
        image_token_index=IMAGE_ID,
        video_token_index=3,
    )
    inputs = prompt(9 + 20)
    inputs["input_ids"][:, 10:30] = 3  # two frames of nine patches and a class token each
    return config, {
        **inputs,
        "pixel_values_images": pixels(),
        "pixel_values_videos": torch.randn(2, 2, 3, 12, 12),
    }


@architecture("Mistral3", "Mistral3ForConditionalGeneration", attentions=4)
def mistral3(kind):
    # A Pixtral tower; 4 x 4 patches are merged two by two.
    config = kind.config_class(
        text_config={**LLAMA, "model_type": "mistral"},
        vision_config={**VISION, "model_type": "pixtral", "image_size": 16},
        image_token_index=IMAGE_ID,
        spatial_merge_size=2,
    )
    return config, {
        **prompt(4),
        "pixel_values": pixels(size=16),
        "image_sizes": torch.tensor([[16, 16], [16, 16]]),
    }


@architecture("Pixtral", "LlavaForConditionalGeneration", attentions=4)
def pixtral(kind):
    config = kind.config_class(
        text_config={**LLAMA, "model_type": "mistral"},
        vision_config={**VISION, "model_type": "pixtral"},
        image_token_index=IMAGE_ID,
        image_seq_length=1,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    return config, {
        **prompt(9),
        "pixel_values": pixels(),
        "image_sizes": torch.tensor([[12, 12], [12, 12]]),
    }


@architecture("InternVL", "InternVLForConditionalGeneration", attentions=4)
def intern_vl(kind):
    config = kind.config_class(
        text_config={**LLAMA, "model_type": "qwen2"},
        vision_config={**VISION, "image_size": [16, 16], "patch_size": [4, 4]},
        image_token_id=IMAGE_ID,
        image_seq_length=4,
    )
    return config, {**prompt(4), "pixel_values": pixels(size=16)}


@architecture("Idefics2", "Idefics2ForConditionalGeneration", attentions=5)
def idefics2(kind):
    # Tower 2, resampler 1, language model 2.
    config = kind.config_class(
        text_config={**LLAMA, "model_type": "mistral"},
        vision_config=VISION,
        perceiver_config={
            "hidden_size": 16,
            "resampler_n_latents": 4,
            "resampler_depth": 1,
            "resampler_n_heads": 2,
            "resampler_head_dim": 8,
            "num_key_value_heads": 1,
        },
        image_token_id=IMAGE_ID,
    )
    return config, {**prompt(4), "pixel_values": pixels()[:, None]}


@architecture("Llama4", "Llama4ForConditionalGeneration", attentions=4)
def llama4(kind):
    config = kind.config_class(
        text_config={
            **DECODER,
            "head_dim": 8,
            "intermediate_size_mlp": 32,
            "num_local_experts": 2,
            "attention_chunk_size": 4,
        },
        vision_config={
            **VISION,
            "image_size": 16,
            "intermediate_size": 64,
            "projector_input_dim": 16,
            "projector_output_dim": 16,
            "vision_output_dim": 16,
        },
        image_token_index=IMAGE_ID,
        boi_token_index=2,
        eoi_token_index=1,
    )
    return config, {**prompt(4), "pixel_values": pixels(size=16)}


@architecture("Aya Vision", "AyaVisionForConditionalGeneration", attentions=5, unread=1)
def aya_vision(kind):
    config = kind.config_class(
        text_config={**DECODER, "model_type": "cohere2", "sliding_window": 4},
        vision_config={**SIGLIP_VISION, "image_size": 16},
        image_token_index=IMAGE_ID,
    )
    return config, {**prompt(4), "pixel_values": pixels(size=16)}


@architecture(
    "ColPali",
    "ColPaliForRetrieval",
    attentions=5,
    unread=1,
    target=targets.token("embeddings", -1),
)
def col_pali(kind):
    config = kind.config_class(
        vlm_config={
            "model_type": "paligemma",
            "text_config": {**DECODER, "model_type": "gemma", "head_dim": 8},
            "vision_config": {**SIGLIP_VISION, "projection_dim": 16},
            "image_token_index": IMAGE_ID,
            "projection_dim": 16,
            "hidden_size": 16,
        },
        embedding_dim=8,
    )
    return config, _prefix(9)


@architecture("Fuyu", "FuyuForCausalLM", attentions=2)
def fuyu(kind):
    # No tower: the patches enter the language model as they are.
    config = kind.config_class(
        text_config={**DECODER, "model_type": "persimmon"},
        patch_size=4,
        image_size=12,
        image_token_id=IMAGE_ID,
        vocab_size=60,
        hidden_size=16,
        pad_token_id=0,
    )
    return config, {**prompt(9), "image_patches": torch.randn(2, 9, 48)}
