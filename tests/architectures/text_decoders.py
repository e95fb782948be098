"""Causal language models: the next token after a text."""

from .registration import architecture
from .samples import DECODER, ENCODER, text

EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
LATENT = {
    "num_key_value_heads": 2,
    "q_lora_rank": 8,
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 8,
}
DEEPSEEK = {
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "n_group": 2,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    **EXPERTS,
}
LAYER_INPUTS = {
    "head_dim": 8,
    "vocab_size_per_layer_input": 60,
    "hidden_size_per_layer_input": 8,
    "laurel_rank": 4,
    "num_kv_shared_layers": 0,
    "layer_types": ["full_attention", "full_attention"],
}


@architecture("Llama", "LlamaForCausalLM", attentions=2)
@architecture("Mistral", "MistralForCausalLM", attentions=2, sliding_window=4)
@architecture("Qwen2", "Qwen2ForCausalLM", attentions=2)
@architecture("Qwen3", "Qwen3ForCausalLM", attentions=2, head_dim=8)
@architecture("Gemma", "GemmaForCausalLM", attentions=2, head_dim=8)
@architecture("Gemma2", "Gemma2ForCausalLM", attentions=2, eager_only=True, head_dim=8)
@architecture("Gemma3", "Gemma3ForCausalLM", attentions=2, head_dim=8, sliding_window=4)
@architecture("Granite", "GraniteForCausalLM", attentions=2)
@architecture("Helium", "HeliumForCausalLM", attentions=2, head_dim=8)
@architecture("GLM", "GlmForCausalLM", attentions=2, head_dim=8)
@architecture("GLM-4", "Glm4ForCausalLM", attentions=2, head_dim=8)
@architecture("OLMo", "OlmoForCausalLM", attentions=2)
@architecture("OLMo2", "Olmo2ForCausalLM", attentions=2)
@architecture("OLMo3", "Olmo3ForCausalLM", attentions=2, sliding_window=4)
@architecture("SmolLM3", "SmolLM3ForCausalLM", attentions=2)
@architecture("Seed-OSS", "SeedOssForCausalLM", attentions=2, head_dim=8)
@architecture("EXAONE-4", "Exaone4ForCausalLM", attentions=2, sliding_window=4)
@architecture("Arcee", "ArceeForCausalLM", attentions=2)
@architecture("Apertus", "ApertusForCausalLM", attentions=2)
@architecture("Nemotron", "NemotronForCausalLM", attentions=2)
@architecture("StableLM", "StableLmForCausalLM", attentions=2)
@architecture("StableLM(parallel)", "StableLmForCausalLM", attentions=2, use_parallel_residual=True)
@architecture("Persimmon", "PersimmonForCausalLM", attentions=2)
@architecture("StarCoder2", "Starcoder2ForCausalLM", attentions=2)
@architecture("Cohere", "CohereForCausalLM", attentions=2)
@architecture("Cohere2", "Cohere2ForCausalLM", attentions=2, sliding_window=4)
@architecture("Phi", "PhiForCausalLM", attentions=2)
@architecture("Phi3", "Phi3ForCausalLM", attentions=2)
@architecture("GPT-NeoX", "GPTNeoXForCausalLM", attentions=2)
@architecture("BioGPT", "BioGptForCausalLM", attentions=2)
@architecture("BitNet", "BitNetForCausalLM", attentions=2)
@architecture("Doge", "DogeForCausalLM", attentions=2)
@architecture("NanoChat", "NanoChatForCausalLM", attentions=2)
@architecture("HunYuan", "HunYuanDenseV1ForCausalLM", attentions=2, head_dim=8)
@architecture("Ernie 4.5", "Ernie4_5ForCausalLM", attentions=2, head_dim=8)
@architecture("ModernBERT-decoder", "ModernBertDecoderForCausalLM", attentions=2)
@architecture("Mixtral", "MixtralForCausalLM", attentions=2, num_local_experts=3)
@architecture("PhiMoE", "PhimoeForCausalLM", attentions=2, num_local_experts=3)
@architecture("OLMoE", "OlmoeForCausalLM", attentions=2, num_experts=3, num_experts_per_tok=2)
@architecture("Granite-MoE", "GraniteMoeForCausalLM", attentions=2, num_local_experts=3)
@architecture("JetMoE", "JetMoeForCausalLM", attentions=2, num_local_experts=3)
@architecture("Qwen2-MoE", "Qwen2MoeForCausalLM", attentions=2, num_experts=3, **EXPERTS)
@architecture(
    "Qwen3-MoE", "Qwen3MoeForCausalLM", attentions=2, num_experts=3, head_dim=8, **EXPERTS
)
@architecture("Ministral", "MinistralForCausalLM", attentions=2, head_dim=8, sliding_window=4)
@architecture(
    "DiffLlama", "DiffLlamaForCausalLM", attentions=4, sdpa_mixers=2, num_key_value_heads=2
)
@architecture(
    "GPT-OSS",
    "GptOssForCausalLM",
    attentions=2,
    eager_only=True,
    num_local_experts=3,
    num_experts_per_tok=2,
    head_dim=8,
    sliding_window=4,
)
@architecture("VaultGemma", "VaultGemmaForCausalLM", attentions=2, eager_only=True, head_dim=8)
@architecture("Youtu", "YoutuForCausalLM", attentions=2, **LATENT)
@architecture("DeepSeek-V2", "DeepseekV2ForCausalLM", attentions=2, **LATENT, **DEEPSEEK)
@architecture("DeepSeek-V3", "DeepseekV3ForCausalLM", attentions=2, **LATENT, **DEEPSEEK)
@architecture(
    "Llama4-text",
    "Llama4ForCausalLM",
    attentions=2,
    head_dim=8,
    intermediate_size_mlp=32,
    num_local_experts=2,
    attention_chunk_size=4,
)
@architecture("Gemma3n-text", "Gemma3nForCausalLM", attentions=2, **LAYER_INPUTS)
@architecture("Gemma4-text", "Gemma4ForCausalLM", attentions=2, **LAYER_INPUTS)
@architecture(
    "Gemma4(shared keys)",
    "Gemma4ForCausalLM",
    attentions=2,
    **{**LAYER_INPUTS, "num_kv_shared_layers": 1},
)
@architecture(
    "LFM2",
    "Lfm2ForCausalLM",
    attentions=1,
    approximate=True,  # a gated causal convolution stands in the first layer
    layer_types=["conv", "full_attention"],
)
def decoder(kind, **changes):
    return kind.config_class(**{**DECODER, **changes}), text()


@architecture("GPT-2", "GPT2LMHeadModel", attentions=2)
@architecture("OpenAI-GPT", "OpenAIGPTLMHeadModel", attentions=2, eager_only=True)
@architecture("GPT-J", "GPTJForCausalLM", attentions=2, eager_only=True, rotary_dim=4)
@architecture(
    "CodeGen", "CodeGenForCausalLM", attentions=2, eager_only=True, rotary_dim=4, n_head=4
)
@architecture("CTRL", "CTRLLMHeadModel", attentions=2, dff=32)
@architecture("GPT-BigCode", "GPTBigCodeForCausalLM", attentions=2)
@architecture("ImageGPT", "ImageGPTForCausalImageModeling", attentions=2, eager_only=True)
def gpt(kind, **changes):
    sizes = {"vocab_size": 60, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}
    return kind.config_class(**{**sizes, **changes}, bos_token_id=1, eos_token_id=2), text()


@architecture("GPT-Neo", "GPTNeoForCausalLM", attentions=2, eager_only=True)
def gpt_neo(kind):
    config = kind.config_class(
        vocab_size=60,
        hidden_size=16,
        num_layers=2,
        num_heads=2,
        intermediate_size=32,
        attention_types=[[["global", "local"], 1]],
        window_size=4,
        max_position_embeddings=64,
        bos_token_id=1,
        eos_token_id=2,
    )
    return config, text()


@architecture("Falcon", "FalconForCausalLM", attentions=2)
@architecture("Falcon-alibi", "FalconForCausalLM", attentions=2, alibi=True, multi_query=False)
@architecture("Bloom", "BloomForCausalLM", attentions=2, eager_only=True)
def n_layer(kind, **changes):
    sizes = {**ENCODER, "n_layer": 2, "n_head": 2, "ffn_hidden_size": 32}
    return kind.config_class(**sizes, **changes), text()


@architecture("MPT", "MptForCausalLM", attentions=2, eager_only=True)
def mpt(kind):
    config = kind.config_class(
        vocab_size=60, d_model=16, n_layers=2, n_heads=2, expansion_ratio=2, max_seq_len=32
    )
    return config, text()


@architecture("OPT", "OPTForCausalLM", attentions=2)
@architecture("XGLM", "XGLMForCausalLM", attentions=2, eager_only=True)
def opt(kind):
    config = kind.config_class(
        **ENCODER,
        ffn_dim=32,
        word_embed_proj_dim=16,
        d_model=16,
        num_layers=2,
        attention_heads=2,
    )
    return config, text()
