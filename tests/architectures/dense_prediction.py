"""Images in, maps out: depth, segments, poses, mattes, finer images."""

from . import targets
from .registration import architecture
from .samples import LABELS, VISION, pixels
from .vision import PYRAMID, SWIN


@architecture(
    "DPT",
    "DPTForDepthEstimation",
    attentions=4,
    local=True,
    target=lambda output: output.predicted_depth.mean((1, 2)),
)
@architecture(
    "DPT-segmentation",
    "DPTForSemanticSegmentation",
    attentions=4,
    local=True,
    target=targets.grid("logits"),
)
def dpt(kind):
    config = kind.config_class(
        **{**VISION, "num_hidden_layers": 4},
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8,
        **LABELS,
    )
    return config, {"pixel_values": pixels(size=16)}


@architecture(
    "Depth Anything",
    "DepthAnythingForDepthEstimation",
    attentions=4,
    eager_only=True,
    local=True,
    target=lambda output: output.predicted_depth.mean((1, 2)),
)
def depth_anything(kind):
    config = kind.config_class(
        backbone_config={
            **VISION,
            "model_type": "dinov2",
            "num_hidden_layers": 4,
            "out_indices": [1, 2, 3, 4],
            "reshape_hidden_states": False,
        },
        reassemble_hidden_size=16,
        patch_size=4,
        neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8,
        head_hidden_size=8,
    )
    return config, {"pixel_values": pixels(size=16)}


@architecture(
    "ViTPose",
    "VitPoseForPoseEstimation",
    attentions=2,
    eager_only=True,
    target=targets.grid("heatmaps"),
)
def vit_pose(kind):
    config = kind.config_class(
        backbone_config={
            **VISION,
            "model_type": "vitpose_backbone",
            "image_size": [32, 24],
            "patch_size": [8, 8],
            "out_indices": [2],
        },
        num_labels=5,
        use_simple_decoder=True,
    )
    return config, {"pixel_values": pixels(size=(32, 24))}


@architecture(
    "ViTMatte",
    "VitMatteForImageMatting",
    attentions=2,
    eager_only=True,
    local=True,
    target=lambda output: output.alphas.mean((1, 2, 3)),
)
def vit_matte(kind):
    config = kind.config_class(
        backbone_config={
            **VISION,
            "image_size": 32,
            "num_channels": 4,
            "patch_size": 16,
            "model_type": "vitdet",
            "out_features": ["stage2"],
        },
        hidden_size=16,
        convstream_hidden_sizes=[8, 8, 8],
        fusion_hidden_sizes=[16, 8, 8, 8],
    )
    return config, {"pixel_values": pixels(size=32, channels=4)}


@architecture(
    "UperNet",
    "UperNetForSemanticSegmentation",
    attentions=4,
    eager_only=True,
    local=True,
    target=targets.grid("logits"),
)
def upernet(kind):
    config = kind.config_class(
        backbone_config={**SWIN, "model_type": "swin", "out_features": ["stage1", "stage2"]},
        hidden_size=8,
        pool_scales=[1, 2],
        use_auxiliary_head=False,
        **LABELS,
    )
    return config, {"pixel_values": pixels(size=16)}


@architecture(
    "SegGPT",
    "SegGptForImageSegmentation",
    attentions=2,
    local=True,
    eager_only=True,
    target=targets.grid("pred_masks"),
)
def seg_gpt(kind):
    config = kind.config_class(
        **{**VISION, "image_size": [16, 8]},
        pretrain_image_size=8,
        decoder_hidden_size=8,
        merge_index=0,
        intermediate_hidden_state_indices=[0, 1],
    )
    return config, {
        "pixel_values": pixels(size=8),
        "prompt_pixel_values": pixels(size=8),
        "prompt_masks": pixels(size=8),
    }


@architecture(
    "EoMT",
    "EomtForUniversalSegmentation",
    attentions=2,
    target=targets.mean("class_queries_logits"),
)
def eomt(kind):
    config = kind.config_class(
        **VISION, num_blocks=1, num_queries=3, num_upscale_blocks=1, num_register_tokens=1, **LABELS
    )
    return config, {"pixel_values": pixels()}


@architecture(
    "Swin2SR",
    "Swin2SRForImageSuperResolution",
    attentions=4,
    approximate=True,  # a convolution closes every stage
    eager_only=True,
    target=targets.grid("reconstruction"),
)
def swin_super_resolution(kind):
    sizes = {**SWIN, "patch_size": 1, "image_size": 8}
    return kind.config_class(**sizes, upscale=2), {"pixel_values": pixels(size=8)}


@architecture(
    "GLPN",
    "GLPNForDepthEstimation",
    attentions=2,
    local=True,
    eager_only=True,
    target=lambda output: output.predicted_depth.mean((1, 2)),
)
def glpn(kind):
    config = kind.config_class(
        **PYRAMID, patch_sizes=[3, 3], sr_ratios=[2, 1], decoder_hidden_size=8
    )
    return config, {"pixel_values": pixels(size=16)}
