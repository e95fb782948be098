"""What is explained: every target on tiny random models, and outputs that no target reads."""

from collections import namedtuple

import numpy as np
import pytest
import torch
import transformers as hf
from torch import nn

from relmap.errors import InputError
from relmap.request.forward_arguments import complete, count_examples
from relmap.targets import (
    TARGETS,
    contrast,
    logit,
    probability,
    resolve,
    similarity,
)
from relmap.targets.answers import TargetContext

LABELS = {0: "tench, Tinca tinca", 1: "crane, bird", 2: "crane, machine", 3: "goldfish", 4: "7"}
SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
}


def context(batch=2, inputs=None, **more):
    return TargetContext(batch=batch, inputs=inputs or {}, **more)


def scores(batch=2, classes=5):
    return torch.randn(batch, classes, requires_grad=True)


def run(model, **inputs):
    model.eval()
    inputs = complete(model, inputs)
    output = model(**inputs)
    return output, TargetContext(
        count_examples(model, inputs), inputs, model.config, model.config.id2label
    )


class Speller:
    """The least a tokenizer does: one token for each letter."""

    def decode(self, ids, skip_special_tokens=False):
        return "".join(chr(97 + int(token)) for token in ids)


@pytest.fixture(scope="module")
def clip():
    torch.manual_seed(0)
    text = hf.CLIPTextConfig(vocab_size=40, max_position_embeddings=12, eos_token_id=39, **SMALL)
    vision = hf.CLIPVisionConfig(image_size=16, patch_size=8, **SMALL)
    config = hf.CLIPConfig(
        text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=8
    )
    return hf.CLIPModel(config)


class TestClasses:
    def test_the_predicted_class_is_the_default(self):
        output = scores()
        resolved = resolve(None, {"logits": output}, context(labels=LABELS))
        assert torch.equal(resolved.values, output.max(dim=1).values)
        best = int(output[0].argmax())
        assert resolved.names[0] == f"{LABELS[best].split(',')[0]} ({best})"
        assert resolved.prediction[0] == f"{resolved.names[0]}, logit {output[0, best].item():.3g}"

    @pytest.mark.parametrize(
        ("target", "columns"),
        [
            (3, [3, 3]),
            (np.int64(3), [3, 3]),
            ("goldfish", [3, 3]),
            ("Tinca TINCA", [0, 0]),
            ("crane, bird", [1, 1]),
            ("7", [4, 4]),
            ("2", [2, 2]),
            ([0, "goldfish"], [0, 3]),
            (torch.tensor([2, 1]), [2, 1]),
            ("logit:goldfish", [3, 3]),
        ],
    )
    def test_a_class_is_a_number_or_a_label(self, target, columns):
        output = scores()
        resolved = resolve(target, output, context(labels=LABELS))
        assert torch.equal(resolved.values, output[torch.arange(2), columns])

    @pytest.mark.parametrize(
        ("target", "words"),
        [
            (5, "0 to 4"),
            (-1, "0 to 4"),
            ("9", "0 to 4"),
            (True, "bool"),
            (1.5, "float"),
            ("crane", r"Several.*\(1\).*\(2\)"),
            ("goldfsh", "Did you mean 'goldfish'"),
            ("zebra", "such as"),
            ([1], "1 entries for 2"),
            ([1, 2, 3], "3 entries for 2"),
            ([], "0 entries"),
            ("contrast:1", "other"),
            ("no-such-target:1", "no class"),
        ],
    )
    def test_a_class_that_is_not_there_is_refused(self, target, words):
        with pytest.raises(InputError, match=words):
            resolve(target, scores(), context(labels=LABELS))

    def test_labels_are_needed_for_names(self):
        with pytest.raises(InputError, match="give the number"):
            resolve("cat", scores(), context())

    def test_registered_targets(self):
        output = scores()
        best = output.max(dim=1).values
        about = context(labels=LABELS)
        assert torch.equal(resolve(logit(), output, about).values, best)
        share = resolve(probability("goldfish"), output, about)
        assert torch.allclose(share.values, output.softmax(1)[:, 3])
        assert share.names == ("probability of goldfish (3)",) * 2
        difference = resolve(contrast("goldfish", [0, 1]), output, about)
        assert torch.allclose(difference.values, output[:, 3] - output[[0, 1], [0, 1]])
        assert difference.names[0] == "goldfish (3) rather than tench (0)"
        assert torch.equal(
            resolve("contrast:3,0", output, about).values, output[:, 3] - output[:, 0]
        )
        each = resolve([logit(1), probability(2)], output, about)
        expected = torch.stack([output[0, 1], output.softmax(1)[1, 2]])
        assert torch.allclose(each.values, expected)

    def test_classes_that_do_not_exclude_each_other(self):
        config = hf.BertConfig(problem_type="multi_label_classification")
        output = scores()
        values = resolve(probability(1), output, context(config=config)).values
        assert torch.allclose(values, output[:, 1].sigmoid())

    def test_scores_are_found_under_other_names(self):
        output = scores()
        for found in (
            (output, torch.rand(2, 3, 4)),
            [output],
            {"question_answering_score": output, "hidden": torch.rand(2, 3, 4)},
            namedtuple("Output", ["score", "pooled_output"])(output, torch.rand(2, 6)),
        ):
            assert torch.equal(resolve(1, found, context()).values, output[:, 1])

    def test_no_example_reads_another(self):
        output = scores(3)
        resolved = resolve(None, output, context(3))
        (gradient,) = torch.autograd.grad(resolved.values[1], output)
        assert gradient[[0, 2]].abs().max() == 0

    @pytest.mark.parametrize(
        "output",
        [
            torch.rand(2),
            torch.rand(2, 3, 4),
            {"pooler_output": torch.rand(2, 4)},
            {"one": torch.rand(2, 4), "two": torch.rand(2, 4)},
            {"logits": torch.rand(2, 3, 4)},
            {"logits": torch.rand(3, 4)},
            "nothing",
        ],
    )
    def test_any_other_output_needs_a_function(self, output):
        with pytest.raises(InputError, match="a function from the output"):
            resolve(None, output, context())

    def test_outputs_that_are_not_finite_are_refused(self):
        for bad in (torch.nan, torch.inf):
            output = torch.tensor([[1.0, 2.0], [bad, 0.0]])
            with pytest.raises(InputError, match="not finite"):
                resolve(0, output, context())
            with pytest.raises(InputError, match="not finite"):
                resolve(lambda output: output[:, 0], output, context())


class TestFunctions:
    def test_a_function_reads_any_output(self):
        output = {"field": torch.rand(2, 3, requires_grad=True)}
        resolved = resolve(lambda output: output["field"].sum(1), output, context())
        assert resolved.names == ("a function of the output",) * 2
        assert resolved.values.requires_grad

        def surprise(output):
            return output["field"][:, 0]

        assert resolve(surprise, output, context()).names[0] == "surprise"

    @pytest.mark.parametrize(
        ("function", "words"),
        [
            (lambda y: y.sum(), "batch axis"),
            (lambda y: y, "batch axis"),
            (lambda y: 3.0, "float"),
            (lambda y: y.argmax(1), "int64"),
            (lambda y: y.detach()[:, 0], "without gradient"),
        ],
    )
    def test_what_a_function_returns_is_checked(self, function, words):
        with pytest.raises(InputError, match=words):
            resolve(function, scores(), context())

    def test_without_gradient_nothing_is_asked(self):
        with torch.no_grad():
            assert resolve(lambda y: y[:, 0], scores(), context()).values.shape == (2,)


class TestPairs:
    def test_the_text_of_each_image(self, clip):
        ids = torch.randint(1, 38, (3, 6))
        ids[:, -1] = 39
        output, about = run(clip, input_ids=ids, pixel_values=torch.randn(3, 3, 16, 16))
        for target in (None, similarity(), "similarity", [0, 1, 2]):
            values = resolve(target, output, about).values
            assert torch.equal(values, output.logits_per_image.diagonal())

    def test_one_image_with_many_texts(self, clip):
        ids = torch.randint(1, 38, (3, 6))
        output, about = run(clip, input_ids=ids, pixel_values=torch.randn(1, 3, 16, 16))
        assert resolve(None, output, about).values.shape == (3,)

    def test_another_text_is_refused(self, clip):
        ids = torch.randint(1, 38, (2, 6))
        output, about = run(clip, input_ids=ids, pixel_values=torch.randn(2, 3, 16, 16))
        for target, words in ((1, "i-th text"), ("cat", "no class"), (2, "0 to 1")):
            with pytest.raises(InputError, match=words):
                resolve(target, output, about)
        with pytest.raises(InputError, match="probability"):
            resolve(probability(), output, about)

    def test_a_table_of_another_shape_is_refused(self):
        with pytest.raises(InputError, match="as many texts as images"):
            resolve(None, {"logits_per_image": torch.rand(2, 3)}, context())

    @pytest.mark.parametrize("wrap", [tuple, dict])
    def test_a_pair_of_embeddings(self, wrap):
        image, text = torch.randn(2, 6, requires_grad=True), torch.randn(2, 6)
        parts = {"image_features": image, "text_features": text, "logit_scale": torch.tensor(10.0)}
        output = parts if wrap is dict else tuple(parts.values())
        resolved = resolve(None, output, context())
        cosine = nn.functional.cosine_similarity(image, text)
        assert torch.allclose(resolved.values, 10 * cosine, atol=1e-5)
        assert resolved.names == ("text 0", "text 1")
        words = context(inputs={"text": torch.tensor([[0, 1], [2, 3]])}, tokenizer=Speller())
        assert resolve(None, output, words).names == ("ab", "cd")

    def test_classes_are_no_pairs(self):
        with pytest.raises(InputError, match="compares no image"):
            resolve(similarity(), scores(), context())


def test_lxmert_and_vit():
    torch.manual_seed(0)
    config = hf.LxmertConfig(
        vocab_size=30, hidden_size=16, num_attention_heads=2, intermediate_size=16, l_layers=1,
        x_layers=1, r_layers=1, visual_feat_dim=6, num_qa_labels=4, max_position_embeddings=10,
    )  # fmt: skip
    output, about = run(
        hf.LxmertForQuestionAnswering(config), input_ids=torch.randint(0, 30, (2, 4)),
        visual_feats=torch.rand(2, 3, 6), visual_pos=torch.rand(2, 3, 4),
    )  # fmt: skip
    values = resolve(None, output, about).values
    assert torch.equal(values, output.question_answering_score.amax(1))
    vit = hf.ViTForImageClassification(hf.ViTConfig(image_size=16, patch_size=8, **SMALL))
    output, about = run(vit, pixel_values=torch.rand(2, 3, 16, 16))
    assert resolve("LABEL_1", output, about).names == ("LABEL_1 (1)",) * 2


def test_every_target_is_registered():
    assert TARGETS.names() == [
        "contrast", "detection-query", "generated-tokens", "logit", "probability", "similarity",
        "token-log-probability",
    ]  # fmt: skip
    assert all(entry.about for entry in TARGETS.entries())
