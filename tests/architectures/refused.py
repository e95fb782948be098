"""Architectures whose tokens are mixed by something else than softmax attention, or not at all."""

from . import targets
from .audio_and_series import SERIES, history
from .detection import RESNET, SIZES, SWIN
from .registration import architecture
from .samples import DECODER, ENCODER, LABELS, pixels, prompt, text, words


@architecture(
    "Nystromformer",
    "NystromformerForSequenceClassification",
    attentions=0,
    mixers=2,  # landmarks stand between queries and keys: three softmaxes a layer
    eager_only=True,
    num_landmarks=4,
    segment_means_seq_len=8,
    conv_kernel_size=3,
)
@architecture("YOSO", "YosoForSequenceClassification", attentions=0, mixers=2, eager_only=True)
@architecture(
    "MRA", "MraForSequenceClassification", attentions=0, refused="linear", eager_only=True
)
def encoder(kind, **changes):
    return kind.config_class(**ENCODER, **LABELS, **changes), {"input_ids": words(length=8)}


@architecture("FNet", "FNetForSequenceClassification", attentions=0, mixers=2, eager_only=True)
def fnet(kind):
    return kind.config_class(**ENCODER, **LABELS), {"input_ids": words()}


@architecture("RWKV", "RwkvForCausalLM", attentions=0, mixers=2, eager_only=True)
@architecture("Mamba", "MambaForCausalLM", attentions=0, mixers=2, eager_only=True)
@architecture(
    "Mamba-2",
    "Mamba2ForCausalLM",
    attentions=0,
    mixers=2,
    eager_only=True,
    num_heads=4,
    head_dim=8,
    n_groups=2,
    state_size=8,
    chunk_size=4,
)
@architecture(
    "xLSTM",
    "xLSTMForCausalLM",
    attentions=0,
    mixers=2,
    eager_only=True,
    num_heads=2,
    chunk_size=4,
    qk_dim_factor=1.0,
)
def no_attention(kind, **changes):
    config = kind.config_class(**{**DECODER, **changes}, use_cache=False)
    return config, {"input_ids": words()}


# One layer of a state space or of linear attention, one of softmax attention.
@architecture(
    "Qwen3-Next",
    "Qwen3NextForCausalLM",
    attentions=1,
    mixers=1,
    layer_types=["linear_attention", "full_attention"],
    head_dim=8,
    linear_key_head_dim=8,
    linear_value_head_dim=8,
    linear_num_key_heads=2,
    linear_num_value_heads=2,
    num_experts=3,
    num_experts_per_tok=2,
    moe_intermediate_size=16,
    shared_expert_intermediate_size=16,
)
@architecture(
    "MiniMax",
    "MiniMaxForCausalLM",
    attentions=1,
    mixers=1,
    layer_types=["linear_attention", "full_attention"],
    num_local_experts=2,
    head_dim=8,
)
@architecture(
    "RecurrentGemma",
    "RecurrentGemmaForCausalLM",
    attentions=1,
    mixers=1,
    approximate=True,
    block_types=["recurrent", "attention"],
)
@architecture(
    "Jamba",
    "JambaForCausalLM",
    attentions=1,
    mixers=1,
    attn_layer_period=2,
    attn_layer_offset=1,
    num_experts=2,
    num_experts_per_tok=1,
    use_mamba_kernels=False,
    mamba_d_state=4,
)
@architecture(
    "Bamba",
    "BambaForCausalLM",
    attentions=1,
    mixers=1,
    attn_layer_indices=[1],
    mamba_n_heads=4,
    mamba_d_head=8,
    mamba_d_state=8,
    mamba_chunk_size=4,
)
@architecture(
    "Falcon-H1",
    "FalconH1ForCausalLM",
    attentions=2,
    mixers=2,
    mamba_n_heads=4,
    mamba_d_head=8,
    mamba_d_ssm=32,
    mamba_d_state=8,
    mamba_chunk_size=4,
)
def hybrid(kind, **changes):
    return kind.config_class(**{**DECODER, **changes}), text()


@architecture(
    "Reformer",
    "ReformerForSequenceClassification",
    attentions=2,
    refused="reversible",
    sources=False,
    eager_only=True,
)
def reformer(kind):
    config = kind.config_class(
        vocab_size=60,
        hidden_size=16,
        num_attention_heads=2,
        attention_head_size=8,
        feed_forward_size=32,
        attn_layers=["local", "local"],
        local_attn_chunk_length=4,
        axial_pos_embds=False,
        max_position_embeddings=64,
        pad_token_id=0,
        eos_token_id=2,
        is_decoder=False,
        num_hash_functions=1,
        **LABELS,
    )
    return config, text(length=8)


@architecture(
    "PoolFormer",
    "PoolFormerForImageClassification",
    attentions=0,
    refused="no attention",
    eager_only=True,
    strides=[2, 2, 2, 2],
)
@architecture(
    "ConvNeXt",
    "ConvNextForImageClassification",
    attentions=0,
    refused="no attention",
    eager_only=True,
)
@architecture(
    "ResNet",
    "ResNetForImageClassification",
    attentions=0,
    refused="no attention",
    eager_only=True,
    embedding_size=8,
    layer_type="basic",
)
@architecture(
    "MobileNetV2",
    "MobileNetV2ForImageClassification",
    attentions=0,
    refused="no attention",
    eager_only=True,
)
def convolutional(kind, **changes):
    config = kind.config_class(depths=[1, 1, 1, 1], hidden_sizes=[8, 8, 8, 8], **LABELS, **changes)
    return config, {"pixel_values": pixels(size=32)}


@architecture(
    "FocalNet",
    "FocalNetForImageClassification",
    attentions=0,
    refused="no attention",
    eager_only=True,
)
def focal_net(kind):
    config = kind.config_class(
        image_size=16, patch_size=2, embed_dim=8, depths=[1, 1], focal_levels=[1, 1], **LABELS
    )
    return config, {"pixel_values": pixels(size=16)}


TWO_LEVELS = {
    "backbone_config": {**RESNET, "out_features": ["stage1", "stage2"]},
    **SIZES,
    "d_model": 32,
    "num_feature_levels": 2,
    "encoder_n_points": 2,
    "decoder_n_points": 2,
}


@architecture(
    "DeformableDETR",
    "DeformableDetrForObjectDetection",
    attentions=2,  # the decoder's self-attentions; the four others sample points
    mixers=4,
)
def deformable_detr(kind):
    return kind.config_class(**TWO_LEVELS), {"pixel_values": pixels(size=32)}


@architecture(
    "GroundingDino",
    "GroundingDinoForObjectDetection",
    attentions=12,  # words 2 + 2, fusion 2 x 2, decoder 2 x (self + words); 4 sample points
    refused="deformable",
    eager_only=True,
)
def grounding_dino(kind):
    config = kind.config_class(
        **TWO_LEVELS, text_config={**ENCODER, "model_type": "bert"}, max_text_len=16
    )
    return config, {**text(), "pixel_values": pixels(size=32)}


@architecture(
    "RT-DETR", "RTDetrForObjectDetection", attentions=3, mixers=2, approximate=True, eager_only=True
)
def rt_detr(kind):
    config = kind.config_class(
        backbone_config={
            "model_type": "rt_detr_resnet",
            "embedding_size": 8,
            "hidden_sizes": [8, 8, 16, 16],
            "depths": [1, 1, 1, 1],
            "layer_type": "basic",
            "out_features": ["stage2", "stage3", "stage4"],
        },
        encoder_hidden_dim=16,
        encoder_in_channels=[8, 16, 16],
        decoder_in_channels=[16, 16, 16],
        **{**SIZES, "encoder_layers": 1},
        num_denoising=0,
    )
    return config, {"pixel_values": pixels(size=64)}


@architecture(
    "Mask2Former",
    "Mask2FormerForUniversalSegmentation",
    attentions=8,
    mixers=4,
    approximate=True,
    eager_only=True,
    target=targets.token("class_queries_logits"),
)
def mask2former(kind):
    config = kind.config_class(
        backbone_config=SWIN,
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=32,
        encoder_layers=1,
        decoder_layers=3,
        num_attention_heads=2,
        dim_feedforward=32,
        num_queries=4,
        **LABELS,
    )
    return config, {"pixel_values": pixels(size=32)}


# Delays found by a Fourier transform take the place of queries and keys; or the queries that were
# not drawn take the running sum of all values.
@architecture(
    "Autoformer",
    "AutoformerForPrediction",
    attentions=0,
    mixers=2,
    eager_only=True,
    label_length=2,
    target=targets.mean("encoder_last_hidden_state"),
)
@architecture(
    "Informer",
    "InformerForPrediction",
    attentions=1,
    mixers=7,
    approximate=True,
    eager_only=True,
    target=targets.mean("encoder_last_hidden_state"),
)
def series(kind, **changes):
    return kind.config_class(**SERIES, **changes), history()


@architecture(
    "Florence-2", "Florence2ForConditionalGeneration", attentions=8, mixers=2, approximate=True
)
def florence2(kind):
    # Windows 2, channels 2 (refused), and an encoder-decoder of one layer on either side.
    config = kind.config_class(
        vision_config={
            "depths": [1, 1],
            "patch_size": [3, 3],
            "patch_stride": [2, 2],
            "patch_padding": [1, 1],
            "patch_prenorm": [False, True],
            "embed_dim": [16, 16],
            "num_heads": [2, 2],
            "num_groups": [2, 2],
            "window_size": 2,
            "projection_dim": 16,
        },
        text_config={
            "model_type": "bart",
            "vocab_size": 60,
            "d_model": 16,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "encoder_ffn_dim": 32,
            "decoder_ffn_dim": 32,
            "max_position_embeddings": 64,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
        image_token_id=4,
        decoder_start_token_id=2,
        is_encoder_decoder=True,
    )
    # 4 x 4 patches and their mean.
    inputs = {**prompt(17, 4), "pixel_values": pixels(size=16)}
    return config, {**inputs, "decoder_input_ids": words(length=4)}
