"""Images and words in one network: joint streams, two streams, documents, captions."""

import torch

from . import targets
from .registration import architecture
from .samples import (
    ENCODER,
    IMAGE_ID,
    LABELS,
    VISION,
    VOCABULARY,
    boxes,
    pixels,
    prompt,
    text,
    words,
)


@architecture("BLIP-2(itm)", "Blip2ForImageTextRetrieval", attentions=6)
def blip2_matching(kind):
    config = kind.config_class(
        vision_config=VISION,
        qformer_config={
            **ENCODER,
            "encoder_hidden_size": 16,
            "cross_attention_frequency": 1,
            "use_qformer_text_input": True,
        },
        num_query_tokens=4,
        image_text_hidden_size=16,
    )
    return config, {**text(), "pixel_values": pixels(), "use_image_text_matching_head": True}


@architecture("BLIP-2(OPT)", "Blip2ForConditionalGeneration", attentions=8)
def blip2_opt(kind):
    # Tower 2, querying transformer 2 x (self + cross), language model 2.
    config = kind.config_class(
        vision_config=VISION,
        qformer_config={**ENCODER, "encoder_hidden_size": 16, "cross_attention_frequency": 1},
        text_config={
            **ENCODER,
            "model_type": "opt",
            "ffn_dim": 32,
            "word_embed_proj_dim": 16,
        },
        num_query_tokens=4,
        image_token_index=IMAGE_ID,
    )
    return config, {**prompt(4), "pixel_values": pixels()}


@architecture("ViLT", "ViltForQuestionAnswering", attentions=2, eager_only=True)
def vilt(kind):
    config = kind.config_class(**{**ENCODER, **VISION}, **LABELS)
    return config, {
        **text(),
        "pixel_values": pixels(),
        "pixel_mask": torch.ones(2, 12, 12, dtype=torch.long),
    }


@architecture("VisualBert", "VisualBertForQuestionAnswering", attentions=2, eager_only=True)
def visual_bert(kind):
    config = kind.config_class(**ENCODER, visual_embedding_dim=12, **LABELS)
    return config, {
        **text(),
        "visual_embeds": torch.randn(2, 5, 12),
        "visual_attention_mask": torch.ones(2, 5, dtype=torch.long),
        "visual_token_type_ids": torch.ones(2, 5, dtype=torch.long),
    }


@architecture("LXMERT", "LxmertForQuestionAnswering", attentions=12, unread=2, eager_only=True)
def lxmert(kind):
    # Language 2, vision 2, and 2 x (two cross + two self); the last two of the images go nowhere.
    config = kind.config_class(
        **ENCODER, l_layers=2, r_layers=2, x_layers=2, visual_feat_dim=12, num_qa_labels=3
    )
    return config, {
        **text(),
        "visual_feats": torch.randn(2, 5, 12),
        "visual_pos": torch.rand(2, 5, 4),
    }


@architecture(
    "FLAVA",
    "FlavaModel",
    attentions=6,
    eager_only=True,
    target=targets.token("multimodal_embeddings"),
)
def flava(kind):
    config = kind.config_class(
        image_config=VISION,
        text_config=ENCODER,
        multimodal_config={
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 32,
        },
        hidden_size=16,
        projection_dim=16,
        init_codebook=False,
    )
    return config, {**text(), "pixel_values": pixels()}


@architecture("BridgeTower", "BridgeTowerForImageAndTextRetrieval", attentions=12, eager_only=True)
def bridge_tower(kind):
    # Towers 2 + 2, and 2 bridges x 2 modalities x (self + cross).
    config = kind.config_class(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        text_config=ENCODER,
        vision_config={**VISION, "hidden_size": 128},  # a head of this tower is always 64 wide
    )
    return config, {**text(), "pixel_values": pixels()}


@architecture("GIT", "GitForCausalLM", attentions=4, eager_only=True)
def git(kind):
    config = kind.config_class(**ENCODER, vision_config=VISION)
    return config, {**text(), "pixel_values": pixels()}


DOCUMENT = {
    **ENCODER,
    "max_2d_position_embeddings": 16,
    "coordinate_size": 3,
    "shape_size": 2,
    "rel_pos_bins": 8,
    "max_rel_pos": 8,
    "rel_2d_pos_bins": 8,
    "max_rel_2d_pos": 8,
}


@architecture("LayoutLMv3", "LayoutLMv3ForSequenceClassification", attentions=2, eager_only=True)
def layout_lm_v3(kind):
    config = kind.config_class(**DOCUMENT, input_size=12, patch_size=4, **LABELS)
    return config, {**text(), "bbox": boxes(), "pixel_values": pixels()}


@architecture("UDOP", "UdopForConditionalGeneration", attentions=6)
def udop(kind):
    config = kind.config_class(
        vocab_size=VOCABULARY,
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=2,
        num_heads=2,
        max_2d_position_embeddings=16,
        image_size=12,
        patch_size=4,
        pad_token_id=0,
        decoder_start_token_id=0,
    )
    return config, {
        **text(),
        "bbox": torch.rand(2, 7, 4),
        "pixel_values": pixels(),
        "decoder_input_ids": words(length=4),
    }


@architecture("Pix2Struct", "Pix2StructForConditionalGeneration", attentions=6)
def pix2struct(kind):
    config = kind.config_class(
        text_config={
            "vocab_size": VOCABULARY,
            "hidden_size": 16,
            "d_kv": 8,
            "d_ff": 32,
            "num_layers": 2,
            "num_heads": 2,
        },
        vision_config={
            "hidden_size": 16,
            "patch_embed_hidden_size": 48,
            "d_ff": 32,
            "d_kv": 8,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "seq_len": 16,
        },
    )
    # The first two numbers of a patch are its row and its column, counted from one.
    rows, columns = torch.arange(9) // 3 + 1.0, torch.arange(9) % 3 + 1.0
    places = torch.stack([rows, columns], -1).expand(2, 9, 2)
    return config, {
        "flattened_patches": torch.cat([places, torch.randn(2, 9, 48)], -1),
        "attention_mask": torch.ones(2, 9),
        "decoder_input_ids": words(length=4),
    }


@architecture("ViT-GPT2", "VisionEncoderDecoderModel", attentions=6)
def vit_gpt2(kind):
    config = kind.config_class(
        encoder={**VISION, "model_type": "vit"},
        decoder={
            "model_type": "gpt2",
            "vocab_size": VOCABULARY,
            "n_embd": 16,
            "n_layer": 2,
            "n_head": 2,
            "n_positions": 64,
            "is_decoder": True,
            "add_cross_attention": True,
        },
        decoder_start_token_id=1,
        pad_token_id=0,
    )
    return config, {"pixel_values": pixels(), "decoder_input_ids": words(length=4)}


@architecture("TrOCR", "VisionEncoderDecoderModel", attentions=6, eager_only=True)
def trocr(kind):
    config = kind.config_class(
        encoder={**VISION, "model_type": "deit"},
        decoder={
            "model_type": "trocr",
            "vocab_size": VOCABULARY,
            "d_model": 16,
            "decoder_layers": 2,
            "decoder_attention_heads": 2,
            "decoder_ffn_dim": 32,
            "max_position_embeddings": 64,
            "cross_attention_hidden_size": 16,
        },
        decoder_start_token_id=1,
        pad_token_id=0,
    )
    return config, {"pixel_values": pixels(), "decoder_input_ids": words(length=4)}


@architecture("Kosmos-2", "Kosmos2ForConditionalGeneration", attentions=5)
def kosmos2(kind):
    # Tower 2, resampler 1, language model 2.
    config = kind.config_class(
        text_config={
            "vocab_size": VOCABULARY,
            "max_position_embeddings": 64,
            "embed_dim": 16,
            "layers": 2,
            "ffn_dim": 32,
            "attention_heads": 2,
        },
        vision_config=VISION,
        latent_query_num=4,
    )
    inputs = prompt(4)
    inputs["image_embeds_position_mask"] = (inputs["input_ids"] == IMAGE_ID).long()
    return config, {**inputs, "pixel_values": pixels()}


@architecture("InstructBLIP", "InstructBlipForConditionalGeneration", attentions=8)
def instruct_blip(kind):
    # Tower 2, querying transformer 2 x (self + cross), language model 2.
    config = kind.config_class(
        vision_config=VISION,
        qformer_config={**ENCODER, "encoder_hidden_size": 16, "cross_attention_frequency": 1},
        text_config={**ENCODER, "model_type": "opt", "ffn_dim": 32, "word_embed_proj_dim": 16},
        num_query_tokens=4,
        image_token_index=IMAGE_ID,
    )
    question = text()
    return config, {
        **prompt(4),
        "pixel_values": pixels(),
        "qformer_input_ids": question["input_ids"],
        "qformer_attention_mask": question["attention_mask"],
    }
