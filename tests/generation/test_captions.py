"""Captions: each word as explain explains it, all in one pass, and the words summed up."""

from __future__ import annotations

import functools
import importlib
import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers
from architectures import build
from architectures.weights import enlarge
from reference.clipmappers import clipmapper
from reference.contract import METHOD_NAMES
from tiny import folders as tiny
from torch import nn

import relmap
from relmap.generation.captions import caption_score
from relmap.generation.continuation import continued
from relmap.request.request import read_request
from relmap.scoring import find_score
from relmap.scoring.captions import tokenise
from relmap.scoring.cider import count_documents

IDS = [7, 9, 8]
WRITERS = ["GPT-2", "Llama", "T5", "BART", "ViT-GPT2", "GIT", "LLaVA", "BLIP-2(OPT)"]


@functools.cache
def writer(name: str) -> tuple[nn.Module, dict[str, Any]]:
    """A network that writes, in double precision, with one example."""
    if name.startswith("CLIPmapper"):
        case = clipmapper(name[-1].lower(), captioning=True)
        return case.fast, {"pixel_values": case.inputs["pixel_values"][:1]}
    built = build(name)
    inputs = {key: value[:1] for key, value in built.inputs.items()}
    return built.network.double(), {
        key: value.double() if value.is_floating_point() else value for key, value in inputs.items()
    }


def alone(name: str, index: int, method: str, text: str) -> relmap.Attribution:
    """A word explained by itself: its logit at the position before it."""
    network, inputs = writer(name)
    request = read_request(network, method, inputs)
    inputs = dict(inputs)
    given = inputs.get(text, request.arguments.get(text))
    if given is None:
        given = torch.tensor([[network.generation_config.bos_token_id]])
    inputs[text] = torch.cat([given, torch.tensor([IDS])], dim=1)
    if "attention_mask" in inputs and text == "input_ids":
        inputs["attention_mask"] = torch.ones_like(inputs[text])

    def target(output: Any) -> torch.Tensor:
        return output.logits[:, len(IDS) * -1 - 1 + index, IDS[index]]

    return relmap.explain(network, target=target, method=method, **inputs)


def check(name: str, method: str) -> None:
    network, inputs = writer(name)
    found = relmap.explain_caption(network, caption=IDS, method=method, **inputs)
    text = "decoder_input_ids" if "decoder_input_ids" in found.words.scores else "input_ids"
    assert len(found.words) == len(IDS)
    for index, word in enumerate(found.words):
        single = alone(name, index, method, text)
        assert single.scores.keys() == word.scores.keys()
        assert word.target == (f"token {IDS[index]}",)
        for source, scores in single.scores.items():
            assert torch.equal(scores, word.scores[source]), source


@pytest.mark.parametrize("name", [*WRITERS, "CLIPmapper-A", "CLIPmapper-B"])
def test_each_word_is_what_explain_says_of_it(name):
    check(name, "wra")


@pytest.mark.parametrize(
    "method", [name for name in METHOD_NAMES if name not in ("clip-surgery", "tam")]
)  # these two need an image tower, or image tokens among the words
@pytest.mark.parametrize("name", ["GPT-2", "CLIPmapper-A", "CLIPmapper-B"])
def test_so_it_is_with_every_method(name, method):
    check(name, method)


@pytest.mark.parametrize("name", ["GPT-2", "CLIPmapper-A"])
def test_all_words_cost_one_recorded_pass(name):
    network, inputs = writer(name)
    passes = []
    with_hook = network.register_forward_hook(lambda *_: passes.append(torch.is_grad_enabled()))
    try:
        relmap.explain_caption(network, caption=IDS, **inputs)
    finally:
        with_hook.remove()
    # The other one makes sure that no word is seen before its time.
    assert passes == [True, False]


def test_later_words_have_no_relevance():
    network, inputs = writer("CLIPmapper-B")
    scores = relmap.explain_caption(network, caption=IDS, **inputs).words.scores["input_ids"]
    assert not scores.triu(1).any()
    assert scores.diagonal().all()


# --- the whole --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def blip(tmp_path_factory):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # saving and loading tiny models is not ours to judge
        model = relmap.load(tiny.save(tmp_path_factory.mktemp("blip"), *tiny.blip()))
    torch.manual_seed(1)
    enlarge(model.network)
    for name, parameter in model.network.named_parameters():
        if name.endswith("predictions.bias"):
            # It says words: no special token, no number that its tokenizer has no token for.
            parameter.data[:5] = parameter.data[len(model.tokenizer) :] = -100
    return model


SAID = "a red cat on the sofa"


def explained(model: relmap.Model, **how: Any) -> relmap.CaptionExplanation:
    return relmap.explain_caption(model, **{"image": tiny.make_image(), "caption": SAID} | how)


def test_the_whole_is_the_mean_of_the_words(blip):
    found = explained(blip)
    assert found.caption == SAID
    assert found.words.target == tuple(SAID.split())
    assert found.weights.tolist() == pytest.approx([1 / 6] * 6)
    for source, scores in found.whole.scores.items():
        torch.testing.assert_close(scores[0], found.words.scores[source].mean(0))
    assert found.whole.target == (SAID,)
    assert found.whole.image.scores.shape == (1, 2, 2)


def test_words_weigh_what_the_caption_loses_without_them(blip):
    worth = {"a": 1.0, "red": 4.0, "cat": 0.0, "on": -2.0, "the": 0.0, "sofa": 5.0}
    asked = []

    def score(candidate: str, references: Any) -> float:
        asked.append((candidate, tuple(references)))
        return sum(worth[word] for word in candidate.split())

    found = explained(blip, weighting=score, references="a sofa")
    assert found.drops.tolist() == [1, 4, 0, -2, 0, 5]
    assert found.weights.tolist() == pytest.approx([0.1, 0.4, 0, 0, 0, 0.5])
    assert asked[:2] == [(SAID, ("a sofa",)), ("red cat on the sofa", ("a sofa",))]
    for source, scores in found.words.scores.items():
        wanted = 0.1 * scores[0] + 0.4 * scores[1] + 0.5 * scores[5]
        torch.testing.assert_close(found.whole.scores[source][0], wanted)
        raw = scores[0] + 4 * scores[1] - 2 * scores[3] + 5 * scores[5]
        torch.testing.assert_close(found.combined(found.drops).scores[source][0], raw)
    with pytest.raises(relmap.InputError, match="2 weights for 6 words"):
        found.combined([0.5, 0.5])


def test_words_weigh_the_same_where_nothing_is_lost(blip):
    found = explained(blip, weighting=lambda candidate, references: 1.0, references=["a"])
    assert found.weights.tolist() == pytest.approx([1 / 6] * 6)
    assert not found.drops.any()


def test_a_score_that_is_no_number_is_refused(blip):
    with pytest.raises(relmap.InputError, match="is no number for some words"):
        explained(blip, weighting=lambda candidate, _: float("nan"), references=["a"])


@pytest.mark.parametrize("name", ["bleu-4", "rouge-l", "cider", "meteor"])
def test_scores_are_named_or_made(blip, name):
    try:
        find_score(name)
    except (relmap.InputError, relmap.MissingExtraError) as error:
        pytest.skip(str(error))  # METEOR is a Java program
    references = ["a red cat on a sofa", "there is a cat"]
    made = caption_score(name)
    if name == "cider":
        corpus = [tokenise(references), tokenise(["a blue dog"])]
        made = caption_score(name, documents=count_documents(corpus))
        with pytest.raises(relmap.InputError, match="documents"):
            explained(blip, weighting="cider", references=references)
    found = explained(blip, weighting=made, references=references)
    words = SAID.split()
    without = [" ".join(words[:at] + words[at + 1 :]) for at in range(6)]
    drops = [made(SAID, references) - made(text, references) for text in without]
    assert found.drops.tolist() == pytest.approx(drops)
    assert found.weights.sum() == pytest.approx(1)
    if name != "cider":
        named = explained(blip, weighting=name, references=references)
        assert torch.equal(named.drops, found.drops)


# --- which words ------------------------------------------------------------------------------


def test_some_of_the_words(blip):
    everything = explained(blip)
    some = explained(blip, words=["Sofa", 1])
    assert some.words.target == ("red", "sofa")
    assert some.weights.tolist() == [0.5, 0.5]
    assert some.caption == SAID
    for source, scores in everything.words.scores.items():
        assert torch.equal(some.words.scores[source], scores[[1, 5]])
    for words in (["dog"], [6]):
        with pytest.raises(relmap.InputError, match="there is no word"):
            explained(blip, words=words)
    with pytest.raises(relmap.InputError, match="give a list"):
        explained(blip, words="red")


def test_a_word_of_several_tokens():
    from relmap.generation.captions import _chosen
    from relmap.generation.continuation import Continuation

    labels = ("a", "tri", "angle", "a")
    written = Continuation({}, "input_ids", (1, 2, 3, 4), labels, (True, True, False, True))
    assert _chosen(written, ["triangle"]) == [1, 2]
    assert _chosen(written, ["angle", -1]) == [2, 3]
    assert _chosen(written, ["a"]) == [0, 3]


# --- what is written --------------------------------------------------------------------------


def test_a_network_writes_for_itself(blip):
    found = relmap.explain_caption(blip, image=tiny.make_image(), max_new_tokens=4)
    assert len(found.words) == 4
    again = explained(blip, caption=found.caption)
    assert torch.equal(again.words.scores["pixel_values"], found.words.scores["pixel_values"])
    # Greedily: it would have said each word itself.
    assert again.words.prediction == again.words.target


def test_it_writes_no_more_than_it_has_room_for(blip):
    found = relmap.explain_caption(blip, image=tiny.make_image(), max_new_tokens=99)
    tokens = found.words.layout["input_ids"].tokens[0]
    with pytest.raises(relmap.InputError, match=f"at most {len(tokens)}"):
        explained(blip, caption=" ".join([SAID] * 9))


def test_a_prompt_is_gone_on_with(blip):
    # BLIP's own generate leaves out the last token of a prompt.
    found = relmap.explain_caption(blip, image=tiny.make_image(), text="a red", max_new_tokens=2)
    tokens = found.words.layout["input_ids"].tokens[0]
    assert tokens[:3] == ("[CLS]", "a", "red")
    assert tokens[3:] == found.words.target


@pytest.mark.parametrize("name", ["GPT-2", "T5", "ViT-GPT2", "CLIPmapper-B"])
def test_generate_and_step_by_step_agree(name, monkeypatch):
    network, inputs = writer(name)
    asked = read_request(network, "wra", inputs)
    own = continued(asked, None, 4)
    monkeypatch.setattr(type(network), "can_generate", lambda *_: False)
    assert torch.equal(continued(asked, None, 4).ids, own.ids)


def test_what_generate_returns_is_a_caption(blip):
    found = explained(blip, caption=torch.tensor([2, 6, 13, 3, 3]))
    assert found.caption == "cat this"
    assert found.words.layout["input_ids"].tokens[0] == ("[CLS]", "cat", "this")


# --- what is refused --------------------------------------------------------------------------


def test_what_cannot_be_is_refused(blip):
    with pytest.raises(relmap.InputError, match="one caption is explained at a time"):
        explained(blip, image=[tiny.make_image()] * 2)
    with pytest.raises(relmap.InputError, match="there is no word to explain"):
        explained(blip, caption="")
    with pytest.raises(relmap.InputError, match="give them as references"):
        explained(blip, weighting="bleu-4")
    with pytest.raises(relmap.InputError, match="no caption score 'blue'"):
        explained(blip, weighting="blue", references=["a"])
    with pytest.raises(relmap.InputError, match="takes at most"):
        explained(blip, caption=" ".join([SAID] * 3))
    network, inputs = writer("GPT-2")
    with pytest.raises(relmap.InputError, match="Without a tokenizer"):
        relmap.explain_caption(network, caption=SAID, **inputs)
    with pytest.raises(relmap.InputError, match="takes a tokenizer"):
        relmap.explain_caption(network, caption=IDS, weighting="bleu-4", references=["a"], **inputs)


def test_a_network_that_sees_later_words_is_refused():
    config = transformers.BertConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    torch.manual_seed(0)
    network = transformers.BertForMaskedLM(config).eval()
    enlarge(network)
    with pytest.raises(relmap.TraceError, match="depends on words after it"):
        relmap.explain_caption(network, input_ids=torch.tensor([[2, 5]]), caption=IDS)


def test_the_network_is_left_as_it_was():
    network, inputs = writer("CLIPmapper-A")
    network.train()
    try:
        training = [module.training for module in network.modules()]
        relmap.explain_caption(network, max_new_tokens=2, **inputs)
        assert [module.training for module in network.modules()] == training
        assert all(parameter.grad is None for parameter in network.parameters())
    finally:
        network.eval()


# --- saved and drawn --------------------------------------------------------------------------


def test_it_is_saved_and_read(blip, tmp_path):
    found = explained(blip, weighting=lambda text, _: float(len(text)), references=["a"])
    found.save(tmp_path / "caption.safetensors")
    again = relmap.CaptionExplanation.load(tmp_path / "caption.safetensors")
    assert again.caption == found.caption
    assert torch.equal(again.weights, found.weights)
    assert torch.equal(again.drops, found.drops)
    assert again.words.target == found.words.target
    assert again.words.meta == found.words.meta
    assert torch.equal(again.words.scores["pixel_values"], found.words.scores["pixel_values"])
    found.words.save(tmp_path / "words.safetensors")
    with pytest.raises(relmap.InputError, match="of no caption"):
        relmap.CaptionExplanation.load(tmp_path / "words.safetensors")


def test_it_is_drawn(blip, tmp_path):
    pytest.importorskip("matplotlib")
    word_maps = importlib.import_module("relmap.drawing.word_maps")
    found = explained(blip, method="attgrad")  # signed
    found.save(tmp_path / "caption.png")
    assert (tmp_path / "caption.png").stat().st_size > 10_000
    figure = word_maps.word_maps([(found.words, found.whole)])
    shown = [one.get_text() for one in figure.texts]
    assert shown[0] == SAID
    assert {"picture", "all words", *SAID.split()} <= set(shown)
    network, inputs = writer("T5")
    text = relmap.explain_caption(network, caption=IDS, **inputs)
    text.save(tmp_path / "text.png")
    assert (tmp_path / "text.png").stat().st_size > 10_000


def test_a_word_of_little_relevance_does_not_fill_its_scale(blip):
    word_maps = importlib.import_module("relmap.drawing.word_maps")
    found = explained(blip).words
    scores = torch.zeros_like(found.scores["pixel_values"])
    scores[0, 1], scores[1, 2] = 1.0, 0.01
    changed = replace(found, scores=found.scores | {"pixel_values": scores})
    maps = [importlib.import_module("relmap.drawing.heat_map").maps_of(word, "pixel_values")[0]
            for word in changed]  # fmt: skip
    strong, weak, *_ = word_maps._scales(maps)
    assert (strong.low, strong.high) == (0, 1)
    assert (weak.low, weak.high) == (0, 0.25)
