"""Image classifiers of timm, shrunk as far as their constructors allow."""

import functools

import timm
from timm.models.efficientformer import EfficientFormer
from timm.models.gcvit import GlobalContextVit
from timm.models.maxxvit import MaxxVit, MaxxVitCfg, MaxxVitTransformerCfg
from timm.models.mlp_mixer import MlpMixer
from timm.models.mvitv2 import MultiScaleVit, MultiScaleVitCfg
from timm.models.nest import Nest
from timm.models.volo import VOLO

from .registration import architecture
from .samples import pixels

entry = functools.partial(architecture, family="timm")
SMALL = {"embed_dim": 16, "depth": 2, "num_heads": 2}
FOUR_STAGES = {
    "embed_dims": (16, 16, 16, 16),
    "depths": (1, 1, 1, 1),
    "num_heads": (1, 1, 2, 2),
}


def _made(model, *, size, **changes):
    network = timm.create_model(model, pretrained=False, num_classes=3, **changes)
    return network, {"x": pixels(size=size)}


@entry("timm:vit_tiny_patch16_224", attentions=2, model="vit_tiny_patch16_224")
@entry("timm:deit3_small_patch16_224", attentions=2, model="deit3_small_patch16_224")
@entry(
    "timm:deit_tiny_distilled_patch16_224", attentions=2, model="deit_tiny_distilled_patch16_224"
)
@entry("timm:beit_base_patch16_224", attentions=2, model="beit_base_patch16_224")
@entry("timm:flexivit_small", attentions=2, model="flexivit_small")
@entry("timm:eva02_tiny_patch14_224", attentions=2, model="eva02_tiny_patch14_224", patch=14)
@entry("timm:eva02_base_patch14_224", attentions=2, model="eva02_base_patch14_224", patch=14)
@entry("timm:eva_giant_patch14_224", attentions=2, model="eva_giant_patch14_224", patch=14)
@entry("timm:vit_base_patch16_siglip_224", attentions=3, model="vit_base_patch16_siglip_224")
@entry(
    "timm:vit_so150m_patch16_reg4_map_256", attentions=3, model="vit_so150m_patch16_reg4_map_256"
)
@entry(
    "timm:vit_small_patch14_reg4_dinov2",
    attentions=2,
    model="vit_small_patch14_reg4_dinov2",
    patch=14,
)
@entry("timm:vit_base_patch16_dinov3", attentions=2, model="vit_base_patch16_dinov3")
@entry("timm:vit_medium_patch16_gap_256", attentions=2, model="vit_medium_patch16_gap_256")
@entry(
    "timm:vit_base_patch16_rope_reg1_gap_256",
    attentions=2,
    model="vit_base_patch16_rope_reg1_gap_256",
)
@entry("timm:vit_relpos_small_patch16_224", attentions=2, model="vit_relpos_small_patch16_224")
@entry("timm:vit_srelpos_small_patch16_224", attentions=2, model="vit_srelpos_small_patch16_224")
@entry("timm:samvit_base_patch16", attentions=2, local=True, model="samvit_base_patch16")
@entry("timm:vit_base_patch32_clip_224", attentions=2, model="vit_base_patch32_clip_224", patch=32)
@entry("timm:vit_pe_core_tiny_patch16_384", attentions=3, model="vit_pe_core_tiny_patch16_384")
@entry("timm:aimv2_large_patch14_224", attentions=2, model="aimv2_large_patch14_224", patch=14)
@entry("timm:naflexvit_base_patch16_gap", attentions=2, model="naflexvit_base_patch16_gap")
@entry("timm:vit_tiny_r_s16_p8_224", attentions=2, model="vit_tiny_r_s16_p8_224", patch=32)
def plain(*, model, patch=16):
    return _made(model, size=3 * patch, img_size=3 * patch, **SMALL)


# Two layers among the patches, two in which the class token alone looks at them.
@entry("timm:cait_xxs24_224", attentions=4, model="cait_xxs24_224")
# Two softmaxes of content, and one of places alone, which is no attention by itself.
@entry("timm:convit_tiny", attentions=2, model="convit_tiny", local_up_to_layer=1)
@entry(
    "timm:xcit_nano_12_p16_224",
    attentions=1,
    mixers=2,
    approximate=True,
    model="xcit_nano_12_p16_224",
    cls_attn_layers=1,
)
def patches_48(*, model, **changes):
    return _made(model, size=48, img_size=48, **SMALL, **changes)


@entry("timm:swin_tiny_patch4_window7_224", attentions=4, model="swin_tiny_patch4_window7_224")
@entry("timm:swinv2_tiny_window8_256", attentions=4, model="swinv2_tiny_window8_256")
@entry("timm:swinv2_cr_tiny_224", attentions=4, model="swinv2_cr_tiny_224")
def swin(*, model):
    sizes = {"embed_dim": 8, "depths": (2, 2), "num_heads": (2, 2), "window_size": 4}
    return _made(model, size=32, img_size=32, **sizes)


@entry("timm:pit_ti_224", attentions=3, approximate=True)  # its pooling windows overlap
def pit():
    sizes = {"base_dims": (8, 8, 8), "depth": (1, 1, 1), "heads": (2, 2, 2)}
    return _made("pit_ti_224", size=64, img_size=64, **sizes)


@entry("timm:levit_128s", attentions=5)
def levit():
    # Three stages of one block, and two blocks that shrink the grid between them.
    sizes = {"embed_dim": (16, 16, 16), "depth": (1, 1, 1), "num_heads": (2, 2, 2), "key_dim": 8}
    return _made("levit_128s", size=128, img_size=128, **sizes)


@entry("timm:twins_svt_small", attentions=5, approximate=True)
def twins_svt():
    sizes = {**FOUR_STAGES, "depths": (1, 1, 2, 1), "wss": (2, 2, 2, 1)}
    return _made("twins_svt_small", size=64, img_size=64, **sizes)


@entry("timm:twins_pcpvt_small", attentions=4, approximate=True)
def twins_pcpvt():
    return _made("twins_pcpvt_small", size=64, img_size=64, **FOUR_STAGES)


@entry("timm:pvt_v2_b0", attentions=4, local=True)
def pvt_v2():
    return _made("pvt_v2_b0", size=64, **FOUR_STAGES)


@entry("timm:tiny_vit_5m_224", attentions=3, approximate=True)
def tiny_vit():
    return _made("tiny_vit_5m_224", size=64, **FOUR_STAGES, window_sizes=(2, 2, 2, 2))


@entry("timm:mvitv2_tiny", attentions=2, approximate=True)
def mvit_v2():
    sizes = MultiScaleVitCfg(depths=(1, 1), embed_dim=16, num_heads=1, mlp_ratio=2.0)
    return MultiScaleVit(sizes, img_size=(32, 32), num_classes=3), {"x": pixels(size=32)}


@entry("timm:tnt_s_patch16_224", attentions=4)
def tnt():
    # In each layer within the patches and among them.
    sizes = {"embed_dim": 16, "inner_dim": 8, "num_heads_inner": 2, "num_heads_outer": 2}
    return _made("tnt_s_patch16_224", size=48, img_size=48, depth=2, **sizes)


@entry("timm:crossvit_tiny_240", attentions=5)
def cross_vit():
    # One layer on the finer patches, two on the coarser, and each class token looks across.
    return _made(
        "crossvit_tiny_240",
        size=48,
        img_size=48,
        img_scale=(1.0, 0.75),
        embed_dim=(16, 16),
        depth=((1, 2, 0),),
        num_heads=(2, 2),
        mlp_ratio=(2.0, 2.0, 1.0),
    )


@entry("timm:nest_tiny", attentions=2, approximate=True)
def nest():
    sizes = {"embed_dims": (16, 16), "num_heads": (2, 2), "depths": (1, 1)}
    network = Nest(img_size=32, patch_size=4, num_levels=2, num_classes=3, **sizes)
    return network, {"x": pixels(size=32)}


@entry("timm:gcvit_xxtiny", attentions=4, approximate=True)
def gc_vit():
    network = GlobalContextVit(
        img_size=64,
        embed_dim=16,
        depths=(1, 1, 2),
        num_heads=(2, 2, 2),
        window_ratio=(16, 16, 16),
        num_classes=3,
    )
    return network, {"x": pixels(size=64)}


@entry("timm:hiera_tiny_224", attentions=4)
def hiera():
    return _made("hiera_tiny_224", size=64, img_size=64, embed_dim=16, stages=(1, 1, 1, 1))


@entry("timm:visformer_tiny", attentions=2)
def visformer():
    sizes = {"embed_dim": 48, "depth": (1, 1, 1), "num_heads": 2}
    return _made("visformer_tiny", size=64, img_size=64, **sizes)


@entry("timm:efficientformer_l1", attentions=1)
def efficient_former():
    sizes = {"depths": (1, 1, 1, 2), "embed_dims": (8, 8, 8, 16), "num_vit": 1}
    return EfficientFormer(num_classes=3, **sizes), {"x": pixels(size=224)}


@entry("timm:efficientformerv2_s0", attentions=3, approximate=True)
def efficient_former_v2():
    sizes = {"embed_dims": (16, 16, 16, 16), "depths": (1, 1, 1, 1), "num_vit": 1}
    return _made("efficientformerv2_s0", size=64, img_size=64, **sizes)


@entry("timm:efficientvit_m0", attentions=6, approximate=True)
def efficient_vit_m():
    # One head after the other, each with its own slice of the features.
    sizes = {"embed_dim": (32, 32, 32), "depth": (1, 1, 1), "num_heads": (2, 2, 2)}
    return _made("efficientvit_m0", size=128, img_size=128, window_size=(2, 2, 2), **sizes)


@entry(
    "timm:maxvit_tiny_rw_224",
    attentions=2,
    local=True,  # with one stage, all convolutions come before the tokens
    embed_dim=(32,),
    depths=(1,),
    block_type=("M",),
)
@entry(
    "timm:coatnet_0_rw_224",
    attentions=2,
    local=True,
    embed_dim=(8, 32),
    depths=(1, 2),
    block_type=("C", "T"),
)
def maxvit(**sizes):
    attention = MaxxVitTransformerCfg(dim_head=16, window_size=(4, 4), grid_size=(4, 4))
    sizes = MaxxVitCfg(stem_width=8, transformer_cfg=attention, **sizes)
    return MaxxVit(sizes, img_size=32, num_classes=3), {"x": pixels(size=32)}


@entry("timm:fastvit_sa12", attentions=1, local=True)
def fast_vit_sa():
    return _made("fastvit_sa12", size=64, layers=(1, 1, 1, 1), embed_dims=(32, 32, 32, 32))


@entry("timm:mobilevit_xxs", attentions=9, approximate=True)
def mobile_vit():
    return _made("mobilevit_xxs", size=128)


# Three attentions between the last convolutions of a residual network.
@entry("timm:eca_botnext26ts_256", attentions=3, local=True, model="eca_botnext26ts_256")
@entry("timm:halonet26t", attentions=3, local=True, model="halonet26t")
def residual(*, model):
    return _made(model, size=256)


@entry("timm:resnet50_clip", attentions=1)
def pooled_by_attention():
    return _made("resnet50_clip", size=64)


@entry("timm:coat_tiny", attentions=0, refused="linear", model="coat_tiny", size=32)
@entry(
    "timm:edgenext_xx_small",
    attentions=0,
    mixers=3,
    approximate=True,
    model="edgenext_xx_small",
    size=64,
)
@entry(
    "timm:mobilevitv2_050",
    attentions=0,
    mixers=6,
    approximate=True,
    model="mobilevitv2_050",
    size=64,
)
@entry("timm:lambda_resnet26t", attentions=0, refused="linear", model="lambda_resnet26t", size=64)
@entry(
    "timm:efficientvit_b0",
    attentions=0,
    mixers=4,
    approximate=True,
    model="efficientvit_b0",
    size=64,
)
@entry("timm:fastvit_t8", attentions=0, refused="no attention", model="fastvit_t8", size=64)
@entry("timm:mambaout_femto", attentions=0, refused="no attention", model="mambaout_femto", size=32)
@entry("timm:resnet18", attentions=0, refused="no attention", model="resnet18", size=32)
def refused(*, model, size):
    image = {"img_size": size} if model == "coat_tiny" else {}
    return _made(model, size=size, **image)


@entry("timm:davit_tiny", attentions=4, mixers=4, approximate=True)
def davit():
    sizes = {**FOUR_STAGES, "num_heads": (2, 2, 2, 2), "window_size": 2}
    return _made("davit_tiny", size=64, **sizes)


@entry("timm:convnext_atto", attentions=0, refused="no attention")
def convnext():
    return _made("convnext_atto", size=64, depths=(1, 1, 1, 1), dims=(8, 8, 8, 8))


@entry("timm:mixer_s32_224", attentions=0, mixers=2)
def mixer():
    sizes = {"patch_size": 16, "embed_dim": 16, "num_blocks": 2}
    return MlpMixer(img_size=48, num_classes=3, **sizes), {"x": pixels(size=48)}


@entry("timm:volo_d1_224", attentions=5, mixers=1)
def volo():
    network = VOLO(
        layers=(1, 1, 1, 1),
        embed_dims=(16, 16, 16, 16),
        num_heads=(2, 2, 2, 2),
        mlp_ratio=2,
        img_size=64,
        num_classes=3,
        downsamples=(True, False, False, False),
        outlook_attention=(True, False, False, False),
    )
    return network, {"x": pixels(size=64)}


@entry("timm:sequencer2d_s", attentions=0, mixers=8)
def sequencer():
    sizes = {"layers": (1, 1, 1, 1), "embed_dims": (16, 16, 16, 16), "hidden_sizes": (8, 8, 8, 8)}
    return _made("sequencer2d_s", size=64, **sizes)
