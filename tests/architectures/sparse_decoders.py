"""Causal language models with experts, learned masks, sinks and recurrences."""

from .registration import architecture
from .samples import DECODER, LABELS, text
from .text_decoders import LATENT

# What a configuration does not know it ignores.
SIZES = {
    **DECODER,
    "head_dim": 8,
    "sliding_window": 4,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "n_group": 2,
    "topk_group": 1,
    "num_experts_per_tok": 2,
    "moe_num_experts": 3,
    "moe_k": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "first_k_dense_replace": 1,
}
# A small network of its own picks the keys that each query may see.
INDEX = {**LATENT, "index_n_heads": 2, "index_head_dim": 8, "index_topk": 3}


@architecture("AFMoE", "AfmoeForCausalLM", attentions=2)
@architecture("Aria-text", "AriaTextForCausalLM", attentions=2)
@architecture("Beam", "BeamForCausalLM", attentions=2)
@architecture("Cohere2-MoE", "Cohere2MoeForCausalLM", attentions=2)
@architecture("CWM", "CwmForCausalLM", attentions=2)
@architecture("dots1", "Dots1ForCausalLM", attentions=2)
@architecture("Emu3-text", "Emu3ForCausalLM", attentions=2)
@architecture("Ernie 4.5-MoE", "Ernie4_5_MoeForCausalLM", attentions=2)
@architecture("FlexOLMo", "FlexOlmoForCausalLM", attentions=2)
@architecture("GLM-4-MoE", "Glm4MoeForCausalLM", attentions=2)
@architecture("GPT-NeoX-Japanese", "GPTNeoXJapaneseForCausalLM", attentions=2, eager_only=True)
@architecture("Granite-MoE-shared", "GraniteMoeSharedForCausalLM", attentions=2)
@architecture("HunYuan-MoE", "HunYuanMoEV1ForCausalLM", attentions=2)
@architecture("HyperCLOVA-X", "HyperCLOVAXForCausalLM", attentions=2)
@architecture("Jais-2", "Jais2ForCausalLM", attentions=2)
@architecture("Laguna", "LagunaForCausalLM", attentions=2)
@architecture("Mellum", "MellumForCausalLM", attentions=2)
@architecture("MiniMax-M2", "MiniMaxM2ForCausalLM", attentions=2)
@architecture("Ministral-3", "Ministral3ForCausalLM", attentions=2)
@architecture("Solar-Open", "SolarOpenForCausalLM", attentions=2)
@architecture("MiniCPM3", "MiniCPM3ForCausalLM", attentions=2, **LATENT)
@architecture("GLM-4-MoE-lite", "Glm4MoeLiteForCausalLM", attentions=2, **LATENT)
@architecture("Granite-SWA", "GraniteSWAForCausalLM", attentions=2, eager_only=True)
@architecture("Flint", "FlintForCausalLM", attentions=2, eager_only=True)
@architecture("MiMo-V2", "MiMoV2FlashForCausalLM", attentions=2, eager_only=True, v_head_dim=8)
@architecture("DeepSeek-V3.2", "DeepseekV32ForCausalLM", attentions=2, **INDEX)
@architecture("GLM-MoE-DSA", "GlmMoeDsaForCausalLM", attentions=2, **INDEX)
@architecture(
    "HRM-text", "HrmTextForCausalLM", attentions=16, unread=6
)  # early cycles: no gradient
@architecture("Llama-classifier", "LlamaForSequenceClassification", attentions=2, **LABELS)
@architecture("Qwen3-classifier", "Qwen3ForSequenceClassification", attentions=2, **LABELS)
@architecture("GPT-2-classifier", "GPT2ForSequenceClassification", attentions=2, **LABELS)
@architecture("BERT-decoder", "BertLMHeadModel", attentions=2, is_decoder=True)
@architecture("GTE", "GteForSequenceClassification", attentions=2, **LABELS)
@architecture(
    "Jina-embeddings-v3", "JinaEmbeddingsV3ForSequenceClassification", attentions=2, **LABELS
)
@architecture("OLMo-hybrid", "OlmoHybridForCausalLM", attentions=1, mixers=1, num_hidden_layers=2)
@architecture("FalconMamba", "FalconMambaForCausalLM", attentions=0, mixers=2, eager_only=True)
@architecture(
    "Inkling",
    "InklingForCausalLM",
    attentions=2,
    approximate=True,  # keys and values pass a short causal convolution
)
def decoder(kind, **changes):
    return kind.config_class(**{**SIZES, **changes}), text()
