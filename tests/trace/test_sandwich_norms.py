"""Language models that norm the attention's output before they add it equal eager GenAtt."""

import pytest
import torch
import transformers

import relmap

TOKENS = 7
COMMON = {
    "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2,
    "num_key_value_heads": 1, "vocab_size": 40, "max_position_embeddings": 32,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def gemma3(layers):
    config = transformers.Gemma3TextConfig(
        **COMMON, num_hidden_layers=layers, head_dim=8, query_pre_attn_scalar=8, sliding_window=4
    )
    return transformers.Gemma3ForCausalLM(config)


def olmo2(layers):
    return transformers.Olmo2ForCausalLM(
        transformers.Olmo2Config(**COMMON, num_hidden_layers=layers)
    )


def glm4(layers):
    config = transformers.Glm4Config(**COMMON, num_hidden_layers=layers, head_dim=8)
    return transformers.Glm4ForCausalLM(config)


def eager_genatt(network, ids, target):
    """The last row of R, from the maps that the network itself hands out."""
    output = network(input_ids=ids, output_attentions=True)
    for maps in output.attentions:
        maps.retain_grad()
    output.logits[:, -1, target].sum().backward()
    relevance = torch.eye(TOKENS, dtype=torch.float64).expand(len(ids), -1, -1)
    for maps in output.attentions:
        relevance = relevance + (maps * maps.grad).clamp_min(0).mean(1) @ relevance
    return relevance[:, -1]


@pytest.mark.parametrize("layers", [2, 6, 18])
@pytest.mark.parametrize("make", [gemma3, olmo2, glm4])
def test_sandwich_norms(make, layers):
    torch.manual_seed(0)
    network = make(layers).double().eval()
    for parameter in network.parameters():
        if parameter.ndim > 1:
            parameter.data *= 6
    network.set_attn_implementation("eager")
    ids = torch.randint(3, 40, (2, TOKENS))
    wanted = eager_genatt(network, ids, target=5)
    scores = relmap.explain(
        network, input_ids=ids, target=5, method="genatt", backward="gradient"
    ).scores["input_ids"]
    assert wanted[:, :-1].sum(1).min() > 0.01, "the identity alone would prove nothing"
    assert (scores - wanted).abs().max() < 1e-6
