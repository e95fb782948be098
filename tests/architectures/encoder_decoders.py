"""Encoder-decoders over text: encoder, decoder and cross-attention."""

from .registration import architecture
from .samples import DECODER, ENCODER, VOCABULARY, text, words

T5 = {
    "vocab_size": VOCABULARY,
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 32,
    "num_layers": 2,
    "num_heads": 2,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
}
BART = {
    "vocab_size": VOCABULARY,
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
    "decoder_start_token_id": 2,
}


def _pair(**kind_of_text):
    return {**text(**kind_of_text), "decoder_input_ids": words(length=4)}


@architecture("T5", "T5ForConditionalGeneration", attentions=6)
@architecture(
    "T5-gated", "T5ForConditionalGeneration", attentions=6, feed_forward_proj="gated-gelu"
)
@architecture("mT5", "MT5ForConditionalGeneration", attentions=6)
@architecture("UMT5", "UMT5ForConditionalGeneration", attentions=6)
@architecture(
    "SwitchT",
    "SwitchTransformersForConditionalGeneration",
    attentions=6,
    eager_only=True,
    num_decoder_layers=2,
    num_sparse_encoder_layers=1,
    num_sparse_decoder_layers=1,
    num_experts=2,
    expert_capacity=32,
)
def t5(kind, **changes):
    return kind.config_class(**{**T5, **changes}), _pair()


@architecture("LongT5", "LongT5ForConditionalGeneration", attentions=6, eager_only=True)
@architecture(
    "LongT5(global)",
    "LongT5ForConditionalGeneration",
    attentions=4,
    mixers=2,  # means over blocks, by a matrix of zeros and ones, are keys beside the words
    eager_only=True,
    encoder_attention_type="transient-global",
    global_block_size=4,
)
def long_t5(kind, **changes):
    return kind.config_class(**T5, local_radius=3, **changes), _pair(length=12)


@architecture("BART", "BartForConditionalGeneration", attentions=6)
@architecture("mBART", "MBartForConditionalGeneration", attentions=6)
@architecture("Marian", "MarianMTModel", attentions=6)
@architecture("M2M100", "M2M100ForConditionalGeneration", attentions=6)
@architecture("Pegasus", "PegasusForConditionalGeneration", attentions=6)
@architecture("Blenderbot", "BlenderbotForConditionalGeneration", attentions=6)
@architecture("Blenderbot-small", "BlenderbotSmallForConditionalGeneration", attentions=6)
@architecture("PLBart", "PLBartForConditionalGeneration", attentions=6)
@architecture("MVP", "MvpForConditionalGeneration", attentions=6, eager_only=True)
@architecture("BART-mnli", "BartForSequenceClassification", attentions=6, num_labels=3)
@architecture(
    "NLLB-MoE",
    "NllbMoeForConditionalGeneration",
    attentions=6,
    eager_only=True,
    num_experts=2,
    encoder_sparse_step=2,
    decoder_sparse_step=2,
    expert_capacity=32,
)
@architecture(
    "BigBirdPegasus-full",
    "BigBirdPegasusForConditionalGeneration",
    attentions=6,
    eager_only=True,
    attention_type="original_full",
)
def bart(kind, **changes):
    inputs = _pair(end=2)
    if kind.__name__.endswith("SequenceClassification"):
        del inputs["decoder_input_ids"]
    return kind.config_class(**BART, **changes), inputs


@architecture(
    "BigBirdPegasus", "BigBirdPegasusForConditionalGeneration", attentions=20, eager_only=True
)
def big_bird_pegasus(kind):
    # Encoder 2 x 8 (see BigBird), decoder 4.
    config = kind.config_class(
        **BART, attention_type="block_sparse", block_size=2, num_random_blocks=1
    )
    return config, _pair(length=32)


@architecture("FSMT", "FSMTForConditionalGeneration", attentions=6, eager_only=True)
def fsmt(kind):
    sizes = {**BART, "src_vocab_size": VOCABULARY, "tgt_vocab_size": VOCABULARY}
    del sizes["vocab_size"]
    return kind.config_class(**sizes, langs=["en", "de"]), _pair()


@architecture("ProphetNet", "ProphetNetForConditionalGeneration", attentions=8, eager_only=True)
def prophet_net(kind):
    # Encoder 2, and in each decoder layer the main stream, the predicting stream and the cross one.
    config = kind.config_class(
        vocab_size=VOCABULARY,
        hidden_size=16,
        max_position_embeddings=64,
        pad_token_id=0,
        num_encoder_layers=2,
        num_decoder_layers=2,
        num_encoder_attention_heads=2,
        num_decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        decoder_start_token_id=1,
    )
    return config, _pair(padding=0)


@architecture("LED", "LEDForConditionalGeneration", attentions=6, eager_only=True)
def led(kind):
    sizes = {**BART}
    del sizes["max_position_embeddings"]
    config = kind.config_class(
        **sizes,
        max_encoder_position_embeddings=64,
        max_decoder_position_embeddings=64,
        attention_window=[4, 4],
    )
    return config, _pair(length=8)


@architecture(
    "PEGASUS-X", "PegasusXForConditionalGeneration", attentions=10, unread=1, eager_only=True
)
def pegasus_x(kind):
    # The encoder attends thrice in each layer: blocks to global tokens, to themselves, and global
    # tokens to all (in vain at last).
    config = kind.config_class(**BART, num_global_tokens=2, block_size=4)
    return config, _pair(length=8)


@architecture("T5Gemma", "T5GemmaForConditionalGeneration", attentions=6, eager_only=True)
def t5_gemma(kind):
    module = {**DECODER, "head_dim": 8, "layer_types": ["full_attention", "sliding_attention"]}
    module["sliding_window"] = 4
    return kind.config_class(encoder=module, decoder=module, vocab_size=VOCABULARY), _pair()


@architecture("BERT2BERT", "EncoderDecoderModel", attentions=6)
def bert2bert(kind):
    bert = {**ENCODER, "model_type": "bert"}
    config = kind.config_class(
        encoder=bert,
        decoder={**bert, "is_decoder": True, "add_cross_attention": True},
        decoder_start_token_id=1,
        pad_token_id=0,
    )
    return config, _pair()
