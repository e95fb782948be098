"""An image tower and a text tower that meet in one similarity."""

import torch

from .registration import architecture
from .samples import ENCODER, VISION, VOCABULARY, pixels, text, words

END = VOCABULARY - 1
CLIP_TEXT = {**ENCODER, "eos_token_id": END, "projection_dim": 16}


@architecture("CLIP", "CLIPModel", attentions=4)
@architecture("ChineseCLIP", "ChineseCLIPModel", attentions=4)
@architecture("AltCLIP", "AltCLIPModel", attentions=4, project_dim=16)
def clip(kind, **text_changes):
    config = kind.config_class(
        text_config={**CLIP_TEXT, **text_changes}, vision_config=VISION, projection_dim=16
    )
    return config, {**text(end=END), "pixel_values": pixels()}


@architecture("SigLIP", "SiglipModel", attentions=5)  # 2 + 2 + the pooling head
def siglip(kind):
    config = kind.config_class(text_config=ENCODER, vision_config=VISION)
    return config, {"input_ids": words(), "pixel_values": pixels()}


@architecture("SigLIP2", "Siglip2Model", attentions=5)  # 2 + 2 + the pooling head
def siglip2(kind):
    config = kind.config_class(text_config=ENCODER, vision_config={**VISION, "num_patches": 9})
    inputs = {
        "input_ids": words(),
        "pixel_values": torch.randn(2, 9, 3 * VISION["patch_size"] ** 2),
        "pixel_attention_mask": torch.ones(2, 9, dtype=torch.long),
        "spatial_shapes": torch.tensor([[3, 3], [3, 3]]),
    }
    return config, inputs


@architecture("BLIP-retrieval", "BlipForImageTextRetrieval", attentions=6, eager_only=True)
def blip_retrieval(kind):
    return kind.config_class(**_blip()), {**text(), "pixel_values": pixels()}


@architecture(
    "BLIP-vqa",
    "BlipForQuestionAnswering",
    attentions=10,  # tower 2, question 2 x (self + cross), answer 2 x (self + cross)
    eager_only=True,
    target=lambda output: -output.loss[None],  # the forward returns nothing else of the answer
)
def blip_vqa(kind):
    inputs = {**text(batch=1), "labels": words(batch=1, length=3), "pixel_values": pixels(batch=1)}
    return kind.config_class(**_blip()), inputs


@architecture("BLIP-caption", "BlipForConditionalGeneration", attentions=6, eager_only=True)
def blip_caption(kind):
    return kind.config_class(**_blip()), {**text(), "pixel_values": pixels()}


def _blip():
    return {
        "text_config": {**ENCODER, "encoder_hidden_size": 16, "projection_dim": 16},
        "vision_config": {**VISION, "projection_dim": 16},
        "projection_dim": 16,
        "image_text_hidden_size": 16,
    }


@architecture("MetaCLIP 2", "MetaClip2Model", attentions=4)
@architecture("AIMv2-CLIP", "Aimv2Model", attentions=5)  # 2 + 2 + the pooling head
def clip_like(kind):
    config = kind.config_class(text_config=CLIP_TEXT, vision_config=VISION, projection_dim=16)
    return config, {**text(end=END), "pixel_values": pixels()}


@architecture("ALIGN", "AlignModel", attentions=2, local=True, eager_only=True)
def align(kind):
    # The image tower is convolutional: one token that nothing attends to.
    config = kind.config_class(
        text_config=ENCODER,
        vision_config={
            "image_size": 32,
            "width_coefficient": 0.25,
            "depth_coefficient": 0.2,
            "hidden_dim": 16,
        },
        projection_dim=80,  # the width of the last block
    )
    return config, {**text(), "pixel_values": pixels(size=32)}


@architecture(
    "GroupViT",
    "GroupViTModel",
    attentions=5,
    eager_only=True,
    mixers=2,  # an MLP across the group tokens makes each of all
)
def group_vit(kind):
    # Text 2, vision 2, the groups look at the patches, and the patches are assigned to the groups.
    config = kind.config_class(
        text_config=CLIP_TEXT,
        vision_config={
            **VISION,
            "depths": [1, 1],
            "num_group_tokens": [4, 0],
            "num_output_groups": [4, 4],
        },
        projection_dim=16,
        projection_intermediate_dim=32,
    )
    return config, {**text(end=END), "pixel_values": pixels()}


@architecture(
    "CLIPSeg",
    "CLIPSegForImageSegmentation",
    attentions=6,
    approximate=True,  # the text gates the decoder's patches
    unread=4,  # the towers run without gradient
    target=lambda output: output.logits.flatten(1).mean(-1),
)
def clip_seg(kind):
    # Towers 2 + 2, decoder 2.
    config = kind.config_class(
        text_config=CLIP_TEXT,
        vision_config={**VISION, "num_hidden_layers": 2},
        projection_dim=16,
        extract_layers=[0, 1],
        reduce_dim=16,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=32,
    )
    return config, {**text(end=END), "pixel_values": pixels()}


@architecture(
    "X-CLIP",
    "XCLIPModel",
    attentions=8,  # text 2, vision 2 x (frames among each other, self), over time 1, prompt 1
    target=lambda output: output.logits_per_video.diagonal(),
)
def x_clip(kind):
    config = kind.config_class(
        text_config=CLIP_TEXT,
        vision_config={
            **VISION,
            "num_frames": 3,
            "mit_hidden_size": 16,
            "mit_intermediate_size": 32,
            "mit_num_hidden_layers": 1,
            "mit_num_attention_heads": 2,
        },
        projection_dim=16,
        prompt_layers=1,
        prompt_num_attention_heads=2,
    )
    return config, {**text(end=END), "pixel_values": torch.randn(2, 3, 3, 12, 12)}


@architecture("LiT(ViT+BERT)", "VisionTextDualEncoderModel", attentions=4)
def dual_encoder(kind):
    config = kind.config_class(
        vision_config={**VISION, "model_type": "vit"},
        text_config={**ENCODER, "model_type": "bert"},
        projection_dim=16,
    )
    return config, {**text(), "pixel_values": pixels()}
