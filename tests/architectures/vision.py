"""Vision transformers of transformers: images in, class scores or features out."""

import torch

from . import targets
from .registration import architecture
from .samples import LABELS, VISION, pixels


@architecture("ViT", "ViTForImageClassification", attentions=2)
@architecture("DeiT", "DeiTForImageClassificationWithTeacher", attentions=2)
@architecture("BEiT", "BeitForImageClassification", attentions=2)
@architecture(
    "BEiT(relpos)", "BeitForImageClassification", attentions=2, use_relative_position_bias=True
)
@architecture("Data2Vec-vision", "Data2VecVisionForImageClassification", attentions=2)
@architecture("DINOv2", "Dinov2ForImageClassification", attentions=2)
@architecture(
    "DINOv2-reg",
    "Dinov2WithRegistersForImageClassification",
    attentions=2,
    num_register_tokens=3,
)
@architecture("I-JEPA", "IJepaForImageClassification", attentions=2)
@architecture("ViT-MSN", "ViTMSNForImageClassification", attentions=2)
@architecture(
    "DINOv3",
    "DINOv3ViTModel",
    attentions=2,
    target=targets.token("last_hidden_state"),
    num_register_tokens=2,
)
@architecture("Pixio", "PixioModel", attentions=2, target=targets.token("last_hidden_state"))
@architecture("AIMv2", "Aimv2VisionModel", attentions=3, target=lambda o: o.pooler_output[:, 0])
@architecture("MLCD", "MLCDVisionModel", attentions=2, target=lambda o: o.pooler_output[:, 0])
@architecture("RADIO", "RadioModel", attentions=2, target=targets.mean("last_hidden_state"))
@architecture(
    "ViTDet",
    "VitDetModel",
    attentions=2,
    eager_only=True,
    target=targets.grid("last_hidden_state"),
    use_relative_position_embeddings=True,
    window_block_indices=[0],
    window_size=2,
)
def plain(kind, **changes):
    return kind.config_class(**VISION, **LABELS, **changes), {"pixel_values": pixels()}


# SigLIP's pooling head runs, but the class scores come from the mean of the patches.
@architecture("SigLIP-vision", "SiglipForImageClassification", attentions=3, unread=1)
@architecture("CLIP-vision", "CLIPForImageClassification", attentions=2)
def tower(kind):
    return kind.config_class(vision_config=VISION, **LABELS), {"pixel_values": pixels()}


@architecture("ViT(not square)", "ViTForImageClassification", attentions=2)
def not_square(kind):
    config = kind.config_class(**{**VISION, "image_size": (8, 20)}, **LABELS)
    return config, {"pixel_values": pixels(size=(8, 20))}


@architecture(
    "ViTMAE",
    "ViTMAEForPreTraining",
    attentions=3,
    target=targets.mean("logits"),
)
def masked_autoencoder(kind):
    config = kind.config_class(
        **VISION,
        decoder_hidden_size=16,
        decoder_num_hidden_layers=1,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=32,
    )
    # The noise decides which patches are hidden; given, it makes the forward deterministic.
    return config, {"pixel_values": pixels(), "noise": torch.rand(2, 9)}


SWIN = {
    "image_size": 16,
    "patch_size": 2,
    "embed_dim": 8,
    "depths": [2, 2],
    "num_heads": [2, 2],
    "window_size": 2,
}


# Two stages of two blocks; the windows of every second block are shifted.
@architecture("Swin", "SwinForImageClassification", attentions=4)
@architecture("Swinv2", "Swinv2ForImageClassification", attentions=4, eager_only=True)
@architecture(
    "Donut-Swin", "DonutSwinForImageClassification", attentions=4, eager_only=True, window_size=4
)
def swin(kind, **changes):
    config = kind.config_class(**{**SWIN, **LABELS, **changes})
    return config, {"pixel_values": pixels(size=16)}


PYRAMID = {
    "num_encoder_blocks": 2,
    "depths": [1, 1],
    "hidden_sizes": [16, 16],
    "num_attention_heads": [2, 2],
    "mlp_ratios": [2, 2],
    "strides": [2, 2],
}


@architecture("SegFormer", "SegformerForImageClassification", attentions=2, local=True)
@architecture(
    "SegFormer-segmentation",
    "SegformerForSemanticSegmentation",
    attentions=2,
    local=True,
    target=targets.grid("logits"),
    decoder_hidden_size=16,
)
@architecture("PVTv2", "PvtV2ForImageClassification", attentions=2, local=True, eager_only=True)
@architecture(
    "PVTv2(linear)",
    "PvtV2ForImageClassification",
    attentions=2,
    approximate=True,
    eager_only=True,
    linear_attention=True,
)
def pyramid(kind, **changes):
    config = kind.config_class(
        **PYRAMID, patch_sizes=[3, 3], sr_ratios=[2, 1], image_size=16, **LABELS, **changes
    )
    return config, {"pixel_values": pixels(size=16)}


@architecture("PVT", "PvtForImageClassification", attentions=2, eager_only=True)
def pvt(kind):
    config = kind.config_class(
        **{**PYRAMID, "strides": [4, 2]},
        patch_sizes=[4, 2],
        sequence_reduction_ratios=[2, 1],
        image_size=16,
        **LABELS,
    )
    return config, {"pixel_values": pixels(size=16)}


@architecture("CvT", "CvtForImageClassification", attentions=3, approximate=True, eager_only=True)
def cvt(kind):
    config = kind.config_class(
        embed_dim=[16, 16],
        num_heads=[2, 2],
        depth=[1, 2],
        mlp_ratio=[2.0, 2.0],
        cls_token=[False, True],
        **LABELS,
    )
    return config, {"pixel_values": pixels(size=32)}


@architecture(
    "MobileViT", "MobileViTForImageClassification", attentions=9, approximate=True, eager_only=True
)
def mobile_vit(kind):
    config = kind.config_class(
        image_size=128,
        hidden_sizes=[16, 16, 16],
        neck_hidden_sizes=[8, 8, 8, 8, 8, 8, 16],
        num_attention_heads=2,
        **LABELS,
    )
    return config, {"pixel_values": pixels(size=128)}


@architecture("LeViT", "LevitForImageClassification", attentions=5, eager_only=True)
def levit(kind):
    # One attention in each of the three stages, and two that shrink the grid between them.
    config = kind.config_class(
        image_size=128,
        hidden_sizes=[16, 16, 16],
        num_attention_heads=[2, 2, 2],
        depths=[1, 1, 1],
        key_dim=[8, 8, 8],
        **LABELS,
    )
    return config, {"pixel_values": pixels(size=128)}


@architecture("Hiera", "HieraForImageClassification", attentions=3, eager_only=True)
def hiera(kind):
    # The queries of the second and third block are pooled two by two.
    config = kind.config_class(
        image_size=[16, 16],
        patch_size=[3, 3],
        patch_stride=[2, 2],
        patch_padding=[1, 1],
        embed_dim=16,
        depths=[1, 1, 1],
        num_heads=[1, 2, 2],
        masked_unit_size=[4, 4],
        masked_unit_attention=[True, True, False],
        query_stride=[2, 2],
        num_query_pool=2,
        **LABELS,
    )
    return config, {"pixel_values": pixels(size=16)}


@architecture(
    "MGP-STR",
    "MgpstrForSceneTextRecognition",
    attentions=5,  # two layers, and a learned query for each of letters, pieces and words
    unread=2,
    eager_only=True,
    target=lambda output: output.logits[0][:, 0, 1],
)
def mgp_str(kind):
    config = kind.config_class(
        **{**VISION, "image_size": [8, 12]},
        max_token_length=3,
        num_character_labels=5,
        num_bpe_labels=6,
        num_wordpiece_labels=7,
    )
    return config, {"pixel_values": pixels(size=(8, 12))}
