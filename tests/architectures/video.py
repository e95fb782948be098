"""Videos: tokens over time and space, class scores out."""

import torch

from .registration import architecture
from .samples import LABELS, VISION

VIDEO = {**VISION, "image_size": 8, "num_frames": 4}


def _frames():
    return {"pixel_values": torch.randn(2, 4, 3, 8, 8)}


@architecture("VideoMAE", "VideoMAEForVideoClassification", attentions=2)
def video_mae(kind):
    return kind.config_class(**VIDEO, tubelet_size=2, **LABELS), _frames()


@architecture("TimeSformer", "TimesformerForVideoClassification", attentions=4, eager_only=True)
def timesformer(kind):
    # In each layer first over time, then over space.
    return kind.config_class(**VIDEO, **LABELS), _frames()


@architecture("ViViT", "VivitForVideoClassification", attentions=2)
def vivit(kind):
    return kind.config_class(**VIDEO, tubelet_size=[2, 4, 4], **LABELS), _frames()


@architecture("V-JEPA 2", "VJEPA2ForVideoClassification", attentions=4)  # 2, pooler 2
def vjepa2(kind):
    config = kind.config_class(
        patch_size=4,
        crop_size=8,
        frames_per_clip=4,
        tubelet_size=2,
        hidden_size=24,
        num_attention_heads=2,
        num_hidden_layers=2,
        mlp_ratio=2.0,
        pred_hidden_size=24,
        pred_num_attention_heads=2,
        pred_num_hidden_layers=2,
        num_pooler_layers=1,
        **LABELS,
    )
    return config, {"pixel_values_videos": torch.randn(2, 4, 3, 8, 8)}
