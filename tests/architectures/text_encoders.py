"""Text encoders: token ids in, class scores out."""

import torch

from . import targets
from .registration import architecture
from .samples import ENCODER, LABELS, boxes, text


@architecture("BERT", "BertForSequenceClassification", attentions=2)
@architecture("RoBERTa", "RobertaForSequenceClassification", attentions=2)
@architecture("RoBERTa-PreLayerNorm", "RobertaPreLayerNormForSequenceClassification", attentions=2)
@architecture("XLM-RoBERTa", "XLMRobertaForSequenceClassification", attentions=2)
@architecture("XLM-RoBERTa-XL", "XLMRobertaXLForSequenceClassification", attentions=2)
@architecture("CamemBERT", "CamembertForSequenceClassification", attentions=2)
@architecture("Data2Vec-text", "Data2VecTextForSequenceClassification", attentions=2)
@architecture("ELECTRA", "ElectraForSequenceClassification", attentions=2, embedding_size=8)
@architecture("ERNIE", "ErnieForSequenceClassification", attentions=2, use_task_id=True)
@architecture("Albert", "AlbertForSequenceClassification", attentions=2, embedding_size=8)
@architecture(
    "MegatronBERT", "MegatronBertForSequenceClassification", attentions=2, eager_only=True
)
@architecture("ModernBERT", "ModernBertForSequenceClassification", attentions=2)
@architecture("DeBERTa", "DebertaForSequenceClassification", attentions=2, eager_only=True)
@architecture(
    "DeBERTa(disentangled)",
    "DebertaForSequenceClassification",
    attentions=2,
    eager_only=True,
    relative_attention=True,
    pos_att_type=["c2p", "p2c"],
)
@architecture("DeBERTa-v2", "DebertaV2ForSequenceClassification", attentions=2, eager_only=True)
@architecture(
    "DeBERTa-v3",
    "DebertaV2ForSequenceClassification",
    attentions=2,
    eager_only=True,
    relative_attention=True,
    pos_att_type=["c2p", "p2c"],
    position_buckets=4,
    share_att_key=True,
    norm_rel_ebd="layer_norm",
    position_biased_input=False,
)
@architecture("MPNet", "MPNetForSequenceClassification", attentions=2, eager_only=True)
@architecture(
    "RoFormer",
    "RoFormerForSequenceClassification",
    attentions=2,
    eager_only=True,
    embedding_size=16,
)
@architecture(
    "SqueezeBERT",
    "SqueezeBertForSequenceClassification",
    attentions=2,
    eager_only=True,
    embedding_size=16,
)
@architecture("I-BERT", "IBertForSequenceClassification", attentions=2, eager_only=True)
@architecture("RemBERT", "RemBertForSequenceClassification", attentions=2, eager_only=True)
@architecture(
    "ESM",
    "EsmForSequenceClassification",
    attentions=2,
    mask_token_id=3,
    position_embedding_type="rotary",
)
@architecture(
    "LUKE", "LukeForSequenceClassification", attentions=2, eager_only=True, entity_vocab_size=10
)
@architecture("Nomic-BERT", "NomicBertForSequenceClassification", attentions=2)
@architecture("EuroBERT", "EuroBertForSequenceClassification", attentions=2)
def encoder(kind, **changes):
    return kind.config_class(**{**ENCODER, **LABELS, **changes}), text()


@architecture(
    "BERT-generation",
    "BertGenerationEncoder",
    attentions=2,
    target=targets.token("last_hidden_state"),
)
@architecture("X-MOD", "XmodForSequenceClassification", attentions=2, default_language="en_XX")
@architecture("DPR", "DPRQuestionEncoder", attentions=2, target=lambda o: o.pooler_output[:, 0])
@architecture(
    "Splinter",
    "SplinterModel",
    attentions=2,
    eager_only=True,
    target=targets.token("last_hidden_state", 1),
)
@architecture("BERT-mlm", "BertForMaskedLM", attentions=2, target=targets.token("logits", 2))
@architecture(
    "BERT-qa", "BertForQuestionAnswering", attentions=2, target=lambda o: o.start_logits[:, 1]
)
@architecture(
    "BERT-tagging",
    "BertForTokenClassification",
    attentions=2,
    target=lambda o: o.logits[:, 1, 0],
)
@architecture(
    "ConvBERT", "ConvBertForSequenceClassification", attentions=2, eager_only=True, approximate=True
)  # its dynamic convolution
@architecture(
    "MobileBERT",
    "MobileBertForSequenceClassification",
    attentions=2,
    classifier_activation=False,  # it would be saturated: MobileBERT has no layer norms
)
def other_head(kind, **changes):
    return kind.config_class(**ENCODER, **changes), text()


@architecture("DistilBERT", "DistilBertForSequenceClassification", attentions=2)
def distilbert(kind):
    config = kind.config_class(
        vocab_size=60, dim=16, n_layers=2, n_heads=2, hidden_dim=32, pad_token_id=0, **LABELS
    )
    return config, text()


@architecture("XLNet", "XLNetForSequenceClassification", attentions=2, eager_only=True)
def xlnet(kind):
    config = kind.config_class(
        vocab_size=60, d_model=16, n_layer=2, n_head=2, d_inner=32, pad_token_id=0, **LABELS
    )
    return config, text(padding=0)


@architecture("XLM", "XLMForSequenceClassification", attentions=2, eager_only=True)
@architecture("FlauBERT", "FlaubertForSequenceClassification", attentions=2, eager_only=True)
def xlm(kind):
    config = kind.config_class(
        vocab_size=60,
        emb_dim=16,
        n_layers=2,
        n_heads=2,
        pad_index=0,
        pad_token_id=0,
        mask_index=3,
        max_position_embeddings=64,
        **LABELS,
    )
    return config, text()


@architecture(
    "Funnel", "FunnelForSequenceClassification", attentions=2, eager_only=True, local=True
)
def funnel(kind):
    config = kind.config_class(
        vocab_size=60,
        block_sizes=[1, 1],
        d_model=16,
        n_head=2,
        d_head=8,
        d_inner=32,
        num_decoder_layers=1,
        pad_token_id=0,
        **LABELS,
    )
    return config, text(length=8)


@architecture("Longformer", "LongformerForSequenceClassification", attentions=6, eager_only=True)
def longformer(kind):
    # In each layer: windows, the global token as key, the global token as query.
    config = kind.config_class(**ENCODER, attention_window=[4, 4], **LABELS)
    return config, text(length=8)


@architecture("BigBird", "BigBirdForSequenceClassification", attentions=16, eager_only=True)
def big_bird(kind):
    # In each layer: two blocks at either end, and band, random, first and last keys in the middle.
    config = kind.config_class(
        **ENCODER, attention_type="block_sparse", block_size=2, num_random_blocks=1, **LABELS
    )
    return config, text(length=32)


@architecture("BigBird-full", "BigBirdForSequenceClassification", attentions=2, eager_only=True)
def big_bird_full(kind):
    return kind.config_class(**ENCODER, attention_type="original_full", **LABELS), text()


@architecture("Perceiver", "PerceiverForSequenceClassification", attentions=4, eager_only=True)
def perceiver(kind):
    config = kind.config_class(
        vocab_size=60,
        d_model=16,
        d_latents=16,
        num_latents=4,
        num_blocks=1,
        num_self_attends_per_block=2,
        num_self_attention_heads=2,
        num_cross_attention_heads=2,
        max_position_embeddings=16,
        **LABELS,
    )
    batch = text()
    return config, {"inputs": batch["input_ids"], "attention_mask": batch["attention_mask"]}


@architecture(
    "CANINE",
    "CanineForSequenceClassification",
    attentions=5,  # two chunks of letters, two layers of molecules, letters again for tagging
    unread=1,
    local=True,
    eager_only=True,
)
def canine(kind):
    config = kind.config_class(
        **{**ENCODER, "bos_token_id": 1},
        downsampling_rate=2,
        local_transformer_stride=4,
        num_hash_functions=2,
        num_hash_buckets=16,
        **LABELS,
    )
    return config, text(length=8)


# Two streams, words and layout, whose scores are added: two attentions in each layer.
LILT = {"channel_shrink_ratio": 2, "hidden_size": 24}


@architecture("LayoutLM", "LayoutLMForSequenceClassification", attentions=2)
@architecture(
    "LiLT",
    "LiltForSequenceClassification",
    attentions=4,
    eager_only=True,
    refused="did not follow",  # the layout stream acts on the words by scores alone
    **LILT,
)
@architecture(
    "BROS",
    "BrosForTokenClassification",
    attentions=2,
    eager_only=True,
    target=lambda o: o.logits[:, 1, 0],
    hidden_size=64,  # the boxes' sines take a quarter of a head, in pairs for eight coordinates
)
def layout(kind, **changes):
    sizes = {**ENCODER, "max_2d_position_embeddings": 16, **LABELS, **changes}
    config = kind.config_class(**sizes)
    return config, {**text(), "bbox": boxes()}


@architecture("MarkupLM", "MarkupLMForSequenceClassification", attentions=2, eager_only=True)
def markup(kind):
    config = kind.config_class(
        **ENCODER, max_depth=4, xpath_unit_hidden_size=4, tag_pad_id=1, subs_pad_id=1, **LABELS
    )
    return config, text()


@architecture("TAPAS", "TapasForSequenceClassification", attentions=2, eager_only=True)
def tapas(kind):
    config = kind.config_class(**ENCODER, type_vocab_sizes=[3, 8, 8, 2, 8, 8, 4], **LABELS)
    kinds = torch.zeros(2, 7, 7, dtype=torch.long)
    kinds[:, 3:, 0] = 1
    kinds[:, 3:, 1] = torch.arange(1, 5)
    kinds[:, 3:, 2] = torch.tensor([1, 1, 2, 2])
    return config, {**text(), "token_type_ids": kinds}
