"""Detectors: queries that become boxes, and patches that name what they show."""

import torch

from . import targets
from .registration import architecture
from .samples import ENCODER, LABELS, VISION, VOCABULARY, pixels, words

RESNET = {
    "model_type": "resnet",
    "embedding_size": 8,
    "hidden_sizes": [8, 16],
    "depths": [1, 1],
    "layer_type": "basic",
    "out_features": ["stage2"],
}


SWIN = {
    "model_type": "swin",
    "image_size": 32,
    "patch_size": 2,
    "embed_dim": 8,
    "depths": [1, 1, 1, 1],
    "num_heads": [2, 2, 2, 2],
    "window_size": 2,
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}
SIZES = {
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "num_queries": 5,
    "num_labels": 3,
}


@architecture("DETR", "DetrForObjectDetection", attentions=6)
@architecture("ConditionalDETR", "ConditionalDetrForObjectDetection", attentions=6)
@architecture(
    "Table Transformer", "TableTransformerForObjectDetection", attentions=6, eager_only=True
)
@architecture(
    "DAB-DETR", "DabDetrForObjectDetection", attentions=6, eager_only=True, hidden_size=16
)
def detr(kind, **changes):
    config = kind.config_class(backbone_config=RESNET, **SIZES, **changes)
    return config, {"pixel_values": pixels(size=(24, 32))}


# The mask head also weighs positions by queries and keys, but multiplies no values with them.
@architecture("DETR-segmentation", "DetrForSegmentation", attentions=6, local=True)
def detr_segmentation(kind):
    backbone = {**RESNET, "hidden_sizes": [8, 8, 8, 16], "depths": [1, 1, 1, 1]}
    backbone["out_features"] = ["stage1", "stage2", "stage3", "stage4"]
    # The mask head takes the width and two heads, a multiple of eight.
    sizes = {**SIZES, "encoder_attention_heads": 8, "decoder_attention_heads": 8}
    config = kind.config_class(backbone_config=backbone, **sizes)
    return config, {"pixel_values": pixels(size=(64, 64))}


@architecture("YOLOS", "YolosForObjectDetection", attentions=2)
def yolos(kind):
    config = kind.config_class(
        **{**VISION, "image_size": [12, 16]}, num_detection_tokens=4, **LABELS
    )
    return config, {"pixel_values": pixels(size=(12, 16))}


@architecture("OwlViT", "OwlViTForObjectDetection", attentions=4)
@architecture("OwlViT-2", "Owlv2ForObjectDetection", attentions=4)
def owl_vit(kind):
    config = kind.config_class(
        text_config={**ENCODER, "eos_token_id": VOCABULARY - 1},
        vision_config=VISION,
        projection_dim=16,
    )
    # Two texts for each of the two images.
    ids = words(batch=4)
    ids[:, -1] = VOCABULARY - 1
    return config, {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": pixels(),
    }


@architecture(
    "MaskFormer",
    "MaskFormerForInstanceSegmentation",
    attentions=8,  # backbone 4, decoder 2 x (self + cross)
    local=True,
    eager_only=True,
    target=targets.mean("class_queries_logits"),
)
def mask_former(kind):
    config = kind.config_class(
        backbone_config=SWIN,
        decoder_config={"model_type": "detr", **SIZES},
        fpn_feature_size=32,
        mask_feature_size=32,
        **LABELS,
    )
    return config, {"pixel_values": pixels(size=32)}


@architecture(
    "SAM",
    "SamModel",
    attentions=9,  # tower 2, decoder 2 x (self, to the image, from the image), and one to end
    approximate=True,
    target=lambda output: output.iou_scores[:, 0, 0],
)
@architecture(
    "SAM-HQ",
    "SamHQModel",
    attentions=9,
    approximate=True,
    target=lambda output: output.iou_scores[:, 0, 0],
)
def sam(kind):
    config = kind.config_class(
        vision_config={
            **VISION,
            "image_size": 32,
            "patch_size": 8,
            "output_channels": 16,
            "num_pos_feats": 8,
            "window_size": 2,
            "global_attn_indexes": [1],
            "mlp_dim": 32,
        },
        prompt_encoder_config={"hidden_size": 16, "image_size": 32, "patch_size": 8},
        mask_decoder_config={
            "hidden_size": 16,
            "num_attention_heads": 2,
            "mlp_dim": 32,
            "iou_head_hidden_dim": 16,
            "vit_dim": 16,
        },
    )
    return config, {
        "pixel_values": pixels(size=32),
        "input_points": torch.tensor([[[[8.0, 9.0]]], [[[20.0, 5.0]]]]),
    }
