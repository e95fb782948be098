"""Image-text models of open_clip: two embeddings and a scale out."""

from open_clip.coca_model import CoCa
from open_clip.model import CLIP, CustomTextCLIP

from . import targets
from .registration import architecture
from .samples import VOCABULARY, pixels, words

VISION = {"layers": 2, "width": 16, "head_width": 8, "patch_size": 4, "image_size": 12}
TEXT = {"context_length": 7, "vocab_size": VOCABULARY, "width": 16, "heads": 2, "layers": 2}


def _inputs(length=7, size=12):
    """Texts end with the largest id, where the text embedding is read."""
    text = words(length=length)
    text[0, -1] = text[1, -3] = VOCABULARY - 1
    text[1, -2:] = 0
    return {"image": pixels(size=size), "text": text}


@architecture("open_clip:ViT", attentions=4, family="open_clip")
@architecture("open_clip:ViT-gap", attentions=4, family="open_clip", pool_type="avg")
@architecture(
    "open_clip:ViT-attnpool",
    attentions=5,
    family="open_clip",
    attentional_pool=True,
    attn_pooler_queries=4,
    attn_pooler_heads=2,
)
@architecture(
    "open_clip:ResNet",
    attentions=3,
    family="open_clip",
    layers=(1, 1, 1, 1),
    patch_size=None,
    image_size=64,
)
def clip(**changes):
    vision = {**VISION, **changes}
    network = CLIP(embed_dim=16, vision_cfg=vision, text_cfg=TEXT)
    return network, _inputs(size=vision["image_size"])


@architecture("open_clip:ViT-custom-text", attentions=4, family="open_clip")
def custom_text():
    text = {**TEXT, "pool_type": "last"}
    network = CustomTextCLIP(embed_dim=16, vision_cfg=VISION, text_cfg=text, init_logit_bias=-1.0)
    return network, _inputs()


def _cosine(output):
    similarity = (output["image_features"] * output["text_features"]).sum(-1)
    return output["logit_scale"] * similarity


# Image 2 and the pooler 1, text 2, decoder 2 x (self + cross), which the similarity does not read.
@architecture("open_clip:CoCa", attentions=9, unread=4, family="open_clip", target=_cosine)
@architecture(
    "open_clip:CoCa-caption",
    attentions=9,
    family="open_clip",
    target=targets.token("logits", -1),
)
def coca():
    network = CoCa(
        embed_dim=16,
        vision_cfg={
            **VISION,
            "attentional_pool": True,
            "attn_pooler_queries": 4,
            "attn_pooler_heads": 2,
            "output_tokens": True,
        },
        text_cfg={**TEXT, "embed_cls": True, "output_tokens": True},
        multimodal_cfg={**TEXT, "dim_head": 8, "attn_pooler_heads": 2},
    )
    return network, _inputs()
