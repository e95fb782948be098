"""Targets of language models and detectors, on tiny random ones."""

import pytest
import torch
import transformers as hf

from relmap.errors import InputError
from relmap.request.forward_arguments import complete, count_examples
from relmap.targets import detection_query, generated_tokens, resolve, token_log_probability
from relmap.targets.answers import TargetContext

SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
}


def run(model, **inputs):
    model.eval()
    inputs = complete(model, inputs)
    output = model(**inputs)
    return output, TargetContext(
        count_examples(model, inputs), inputs, model.config, model.config.id2label
    )


class Speller:
    """The least a tokenizer does: one token for each letter, a space included."""

    unk_token_id = None

    def encode(self, text, add_special_tokens=True):
        return [ord(letter) - 97 for letter in text if letter != " "]

    def decode(self, ids, skip_special_tokens=False):
        return "".join(chr(97 + int(token)) for token in ids)

    def convert_ids_to_tokens(self, ids):
        return [chr(97 + int(token)) for token in ids]


@pytest.fixture(scope="module")
def gpt():
    torch.manual_seed(0)
    config = hf.GPT2Config(vocab_size=26, n_positions=16, n_embd=16, n_layer=2, n_head=2)
    return hf.GPT2LMHeadModel(config)


@pytest.fixture(scope="module")
def t5():
    torch.manual_seed(0)
    config = hf.T5Config(
        vocab_size=26, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2,
        decoder_start_token_id=0,
    )  # fmt: skip
    return hf.T5ForConditionalGeneration(config)


@pytest.fixture(scope="module")
def detr():
    torch.manual_seed(0)
    backbone = hf.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], out_features=["stage2"]
    )
    config = hf.DetrConfig(
        use_timm_backbone=False, use_pretrained_backbone=False, backbone=None,
        backbone_config=backbone, d_model=16, encoder_layers=1, decoder_layers=1,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16,
        decoder_ffn_dim=16, num_queries=4, num_labels=3,
    )  # fmt: skip
    return hf.DetrForObjectDetection(config)


class TestTokens:
    def test_the_next_token(self, gpt):
        ids = torch.randint(0, 26, (2, 5))
        output, about = run(gpt, input_ids=ids)
        assert torch.equal(resolve(None, output, about).values, output.logits[:, -1].amax(1))
        assert torch.equal(resolve(7, output, about).values, output.logits[:, -1, 7])

    @pytest.mark.parametrize(
        ("mask", "last"),
        [([[1, 1, 1, 0, 0], [1] * 5], [2, 4]), ([[0, 0, 1, 1, 1], [1] * 5], [4, 4])],
    )
    def test_padding_is_on_either_side(self, gpt, mask, last):
        ids, mask = torch.randint(0, 26, (2, 5)), torch.tensor(mask)
        output, about = run(gpt, input_ids=ids, attention_mask=mask)
        rows = output.logits[torch.arange(2), last]
        assert torch.equal(resolve(None, output, about).values, rows.amax(1))
        shifted = {"logits": output.logits[:, -2:]}
        if last == [4, 4]:
            kind = type("TinyCausalLMOutput", (dict,), {})
            assert torch.equal(resolve(None, kind(shifted), about).values, rows.amax(1))

    def test_scores_that_were_not_kept(self, gpt):
        mask = torch.tensor([[1, 1, 1, 0, 0]])
        output, about = run(gpt, input_ids=torch.ones(1, 5, dtype=int), attention_mask=mask)
        output.logits = output.logits[:, -1:]
        with pytest.raises(InputError, match="logits_to_keep"):
            resolve(None, output, about)

    def test_a_token_is_named_as_it_is_written(self, gpt):
        output, about = run(gpt, input_ids=torch.randint(0, 26, (1, 5)))
        about = TargetContext(1, about.inputs, about.config, about.labels, Speller())
        resolved = resolve("h", output, about)
        assert resolved.values == output.logits[0, -1, 7]
        assert resolved.names == ("'h' (7)",)
        with pytest.raises(InputError, match=r"no single token.*'h', 'i'"):
            resolve("hi", output, about)
        with pytest.raises(InputError, match="0 to 25"):
            resolve(26, output, about)

    def test_a_token_somewhere(self, gpt):
        mask = torch.tensor([[1, 1, 1, 0, 0], [1] * 5])
        output, about = run(gpt, input_ids=torch.randint(0, 26, (2, 5)), attention_mask=mask)
        logs = output.logits.log_softmax(-1)
        values = resolve(token_log_probability([3, 4], 1), output, about).values
        assert torch.allclose(values, logs[[0, 1], [1, 1], [3, 4]])
        values = resolve(token_log_probability(3, -1), output, about).values
        assert torch.allclose(values, logs[[0, 1], [2, 4], [3, 3]])
        values = resolve(token_log_probability(), output, about).values
        assert torch.allclose(values, logs[[0, 1], [2, 4]].amax(1))
        for target in (
            token_log_probability(3, 3),
            token_log_probability([1]),
            "token_log_probability:99",
        ):
            with pytest.raises(InputError):
                resolve(target, output, about)

    def test_a_generated_passage(self, gpt):
        ids = torch.randint(0, 26, (2, 6))
        output, about = run(gpt, input_ids=ids)
        logs = output.logits.log_softmax(-1)[:, 2:5].gather(2, ids[:, 3:, None]).squeeze(2)
        for tokens in (3, ids[:, 3:], ids[:, 3:].tolist()):
            values = resolve(generated_tokens(tokens), output, about).values
            assert torch.allclose(values, logs.sum(1))
            values = resolve(generated_tokens(tokens, -1), output, about).values
            assert torch.allclose(values, logs[:, -1])
        without_last, about = run(gpt, input_ids=ids[:, :-1])
        values = resolve(generated_tokens(ids[:, 3:]), without_last, about).values
        assert torch.allclose(values, logs.sum(1), atol=1e-5)

    def test_a_passage_beside_padding(self, gpt):
        ids = torch.tensor([[1, 2, 3, 4, 0, 0]])
        mask = torch.tensor([[1, 1, 1, 1, 0, 0]])
        output, about = run(gpt, input_ids=ids, attention_mask=mask)
        logs = output.logits.log_softmax(-1)
        values = resolve(generated_tokens([3, 4]), output, about).values
        assert torch.allclose(values, logs[0, 1, 3] + logs[0, 2, 4])

    @pytest.mark.parametrize("tokens", [None, 0, 6, [9, 9, 9], [], [[1], [2], [3]]])
    def test_a_passage_that_is_not_there(self, gpt, tokens):
        output, about = run(gpt, input_ids=torch.tensor([[1, 2, 3, 4, 5]] * 2))
        with pytest.raises(InputError):
            resolve(generated_tokens(tokens), output, about)

    def test_an_encoder_decoder_says_its_first_token(self, t5):
        output, about = run(t5, input_ids=torch.randint(2, 26, (2, 5)))
        assert about.inputs["decoder_input_ids"].tolist() == [[0], [0]]
        assert output.logits.shape[:2] == (2, 1)
        assert torch.equal(resolve(None, output, about).values, output.logits[:, -1].amax(1))

    def test_an_encoder_decoder_goes_on(self, t5):
        decoder = torch.tensor([[0, 5, 6], [0, 7, 8]])
        mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
        ids = torch.randint(2, 26, (2, 5))
        output, about = run(
            t5, input_ids=ids, decoder_input_ids=decoder, decoder_attention_mask=mask
        )
        rows = output.logits[[0, 1], [1, 2]]
        assert torch.equal(resolve(None, output, about).values, rows.amax(1))
        output, about = run(t5, input_ids=ids, decoder_input_ids=decoder)
        logs = output.logits.log_softmax(-1)
        expected = logs[:, :2].gather(2, decoder[:, 1:, None]).sum((1, 2))
        assert torch.allclose(resolve(generated_tokens(), output, about).values, expected)

    def test_labels_of_tokens_need_a_function(self):
        config = hf.BertConfig(vocab_size=30, num_labels=30, max_position_embeddings=12, **SMALL)
        for kind in (hf.BertForTokenClassification, hf.BertForMaskedLM):
            output, about = run(kind(config), input_ids=torch.randint(0, 30, (2, 5)))
            with pytest.raises(InputError, match="which token is meant"):
                resolve(None, output, about)
            value = resolve(token_log_probability(3, position=2), output, about).values
            assert torch.allclose(value, output.logits[:, 2].log_softmax(-1)[:, 3])


class TestDetections:
    def test_the_surest_query(self, detr):
        output, about = run(detr, pixel_values=torch.randn(2, 3, 32, 32))
        confidence = output.logits.softmax(-1)[..., :-1]
        resolved = resolve(None, output, about)
        for example in range(2):
            query, label = divmod(int(confidence[example].argmax()), 3)
            assert resolved.values[example] == output.logits[example, query, label]
            assert resolved.names[example] == f"LABEL_{label} ({label}) in query {query}"

    def test_a_class_is_looked_for_in_every_query(self, detr):
        output, about = run(detr, pixel_values=torch.randn(2, 3, 32, 32))
        query = output.logits.softmax(-1)[..., 1].argmax(1)
        values = resolve("LABEL_1", output, about).values
        assert torch.equal(values, output.logits[torch.arange(2), query, 1])
        with pytest.raises(InputError, match="0 to 2"):
            resolve(3, output, about)

    def test_one_query(self, detr):
        output, about = run(detr, pixel_values=torch.randn(2, 3, 32, 32))
        values = resolve(detection_query([1, 3], [0, 2]), output, about).values
        assert torch.equal(values, output.logits[[0, 1], [1, 3], [0, 2]])
        values = resolve("detection_query:2", output, about).values
        assert torch.equal(values, output.logits[:, 2, :-1].amax(1))
        for target in (detection_query(4), detection_query([1]), detection_query(0, 3)):
            with pytest.raises(InputError):
                resolve(target, output, about)

    def test_without_an_empty_class(self):
        output = {"logits": torch.randn(2, 4, 3), "pred_boxes": torch.rand(2, 4, 4)}
        config = hf.BertConfig(num_labels=3)
        values = resolve(None, output, TargetContext(2, {}, config=config)).values
        assert torch.equal(values, output["logits"].amax((1, 2)))
        ids = {"input_ids": torch.ones(6, 1)}  # three words for each picture
        open_words = TargetContext(2, ids, config=hf.BertConfig(num_labels=2))
        assert torch.equal(resolve(None, output, open_words).values, values)
