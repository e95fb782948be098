"""Speech, sound and time series."""

import torch

from . import targets
from .registration import architecture
from .samples import DECODER, ENCODER, LABELS, VISION, VOCABULARY, text, words

SPEECH = {
    "vocab_size": VOCABULARY,
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "max_target_positions": 16,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}


@architecture("Whisper", "WhisperForConditionalGeneration", attentions=6)
def whisper(kind):
    # The first convolution keeps the length, the second halves it: 24 frames, 12 positions.
    config = kind.config_class(**SPEECH, num_mel_bins=8, max_source_positions=12)
    return config, {"input_features": torch.randn(2, 8, 24), "decoder_input_ids": words(length=4)}


@architecture("Whisper-classifier", "WhisperForAudioClassification", attentions=2)
def whisper_classifier(kind):
    config = kind.config_class(**SPEECH, num_mel_bins=8, max_source_positions=12, **LABELS)
    return config, {"input_features": torch.randn(2, 8, 24)}


@architecture("Speech2Text", "Speech2TextForConditionalGeneration", attentions=6, eager_only=True)
def speech_to_text(kind):
    config = kind.config_class(
        **SPEECH,
        max_source_positions=24,
        num_conv_layers=1,
        conv_kernel_sizes=[3],
        conv_channels=16,
        input_feat_per_channel=8,
    )
    return config, {"input_features": torch.randn(2, 24, 8), "decoder_input_ids": words(length=4)}


@architecture("Moonshine", "MoonshineForConditionalGeneration", attentions=6)
def moonshine(kind):
    config = kind.config_class(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=32,
        encoder_num_hidden_layers=2,
        decoder_num_hidden_layers=2,
        encoder_num_attention_heads=2,
        decoder_num_attention_heads=2,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    return config, {"input_values": torch.randn(2, 3000), "decoder_input_ids": words(length=4)}


WAVE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "conv_dim": [8, 8],
    "conv_stride": [5, 4],
    "conv_kernel": [10, 4],
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "classifier_proj_size": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    **LABELS,
}


# A convolution over the neighbours stands for the positions, before the first attention.
@architecture("Wav2Vec2", "Wav2Vec2ForSequenceClassification", attentions=2, local=True)
@architecture(
    "Wav2Vec2(stable)",
    "Wav2Vec2ForSequenceClassification",
    attentions=2,
    local=True,
    do_stable_layer_norm=True,
    feat_extract_norm="layer",
)
@architecture(
    "Wav2Vec2-CTC",
    "Wav2Vec2ForCTC",
    attentions=2,
    local=True,
    target=targets.token("logits", 3),
)
@architecture("HuBERT", "HubertForSequenceClassification", attentions=2, local=True)
@architecture("WavLM", "WavLMForSequenceClassification", attentions=2, eager_only=True, local=True)
@architecture("UniSpeech", "UniSpeechForSequenceClassification", attentions=2, local=True)
@architecture("UniSpeechSat", "UniSpeechSatForSequenceClassification", attentions=2, local=True)
@architecture(
    "Data2Vec-audio",
    "Data2VecAudioForSequenceClassification",
    attentions=2,
    local=True,
    conv_pos_kernel_size=3,
    num_conv_pos_embeddings=2,
)
@architecture("SEW", "SEWForSequenceClassification", attentions=2, local=True)
@architecture(
    "SEW-D",
    "SEWDForSequenceClassification",
    attentions=2,
    eager_only=True,
    local=True,
    position_buckets=4,
)
@architecture(
    "Wav2Vec2-Conformer",
    "Wav2Vec2ConformerForSequenceClassification",
    attentions=2,
    approximate=True,
    conv_depthwise_kernel_size=3,
)
def wave(kind, **changes):
    return kind.config_class(**{**WAVE, **changes}), {"input_values": torch.randn(2, 200)}


@architecture(
    "Wav2Vec2-BERT",
    "Wav2Vec2BertForSequenceClassification",
    attentions=2,
    approximate=True,
    conv_depthwise_kernel_size=3,
)
def wav2vec2_bert(kind, **changes):
    config = kind.config_class(**WAVE, feature_projection_input_dim=8, **changes)
    return config, {"input_features": torch.randn(2, 10, 8)}


@architecture("AST", "ASTForAudioClassification", attentions=2)
def spectrogram(kind):
    config = kind.config_class(
        **VISION, frequency_stride=2, time_stride=2, max_length=10, num_mel_bins=8, **LABELS
    )
    return config, {"input_values": torch.randn(2, 10, 8)}


@architecture(
    "CLAP",
    "ClapModel",
    attentions=4,
    eager_only=True,
    target=lambda output: output.logits_per_audio.diagonal(),
)
def clap(kind):
    config = kind.config_class(
        text_config={**ENCODER, "projection_dim": 16},
        audio_config={
            "window_size": 2,
            "num_mel_bins": 8,
            "spec_size": 32,
            "patch_size": 4,
            "patch_stride": [4, 4],
            "hidden_size": 16,
            "projection_dim": 16,
            "depths": [1, 1],
            "num_attention_heads": [2, 2],
            "num_hidden_layers": 2,
            "patch_embeds_hidden_size": 8,
        },
        projection_dim=16,
    )
    return config, {**text(), "input_features": torch.randn(2, 1, 128, 8)}


@architecture("Qwen2-Audio", "Qwen2AudioForConditionalGeneration", attentions=4)
def qwen2_audio(kind):
    config = kind.config_class(
        audio_config={**SPEECH, "num_mel_bins": 8, "max_source_positions": 12},
        text_config={**DECODER, "model_type": "qwen2"},
        audio_token_index=4,
    )
    # 24 frames, halved by a convolution and again by an average: 6 tokens.
    ids = words(length=12)
    ids[:, 1:7] = 4
    return config, {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "input_features": torch.randn(2, 8, 24),
        "feature_attention_mask": torch.ones(2, 24, dtype=torch.long),
    }


SERIES = {
    "prediction_length": 3,
    "context_length": 6,
    "lags_sequence": [1, 2],
    "num_time_features": 1,
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "input_size": 1,
}


def history():
    """Past and future values of a series, with one feature of time."""
    return {
        "past_values": torch.randn(2, 8),
        "past_time_features": torch.randn(2, 8, 1),
        "past_observed_mask": torch.ones(2, 8),
        "future_values": torch.randn(2, 3),
        "future_time_features": torch.randn(2, 3, 1),
    }


@architecture(
    "TimeSeriesT",
    "TimeSeriesTransformerModel",
    attentions=6,
    eager_only=True,
    target=targets.mean("last_hidden_state"),
)
def series(kind):
    return kind.config_class(**SERIES), history()


@architecture(
    "PatchTST",
    "PatchTSTForClassification",
    attentions=2,
    target=lambda output: output.prediction_logits[:, 0],
)
def patch_tst(kind):
    config = kind.config_class(
        num_input_channels=3,
        context_length=12,
        patch_length=3,
        patch_stride=3,
        num_hidden_layers=2,
        d_model=16,
        num_attention_heads=2,
        ffn_dim=32,
        num_targets=3,
        use_cls_token=True,
    )
    return config, {"past_values": torch.randn(2, 12, 3)}


@architecture(
    "DecisionT",
    "DecisionTransformerModel",
    attentions=2,
    target=targets.token("action_preds", -1),
)
def decision(kind):
    config = kind.config_class(
        state_dim=5, act_dim=3, hidden_size=16, n_layer=2, n_head=2, max_ep_len=16, n_positions=64
    )
    return config, {
        "states": torch.randn(2, 4, 5),
        "actions": torch.randn(2, 4, 3),
        "rewards": torch.randn(2, 4, 1),
        "returns_to_go": torch.randn(2, 4, 1),
        "timesteps": torch.arange(4).repeat(2, 1),
        "attention_mask": torch.ones(2, 4, dtype=torch.long),
    }


@architecture(
    "TimesFM",
    "TimesFmModelForPrediction",
    attentions=2,
    refused="list of tensors",
    sources=False,
    target=lambda output: output.mean_predictions.mean(-1),
)
def times_fm(kind):
    config = kind.config_class(
        patch_length=4,
        context_length=16,
        horizon_length=4,
        hidden_size=16,
        intermediate_size=32,
        head_dim=8,
        num_hidden_layers=2,
        num_attention_heads=2,
    )
    return config, {"past_values": [torch.randn(16), torch.randn(16)], "freq": [0, 0]}
