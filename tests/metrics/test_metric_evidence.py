"""The evidence test against literal loops, by its meaning, and token by token."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from reference.localisation import energy_by_pixel, pointing_game_by_patch, recalled, touched
from tiny.trials import trial_of
from transformers import AutoTokenizer

import relmap
from clipmapper.demo import demo_scenes
from clipmapper.training.tokenizer import train_tokenizer
from relmap.errors import InputError
from relmap.metrics.evidence import evidence, evidence_tokens, word_recall

COUNT = 4


@pytest.fixture(scope="module")
def model():
    return relmap.load("demo")


@pytest.fixture(scope="module")
def scenes():
    """Pictures larger than the model sees them, as photographs are."""
    return list(demo_scenes(COUNT))


def words_of(text):
    """Spans of the last two words, in the place of those that carry the question."""
    spans, start = [], 0
    for word in text.split():
        spans.append((start, start + len(word)))
        start += len(word) + 1
    return tuple(spans[-2:])


def examples_of(scenes, answers):
    return [
        relmap.Example(
            str(at), image=scene.picture, text=scene.question.text, answers=answers[at],
            mask=lambda scene=scene: scene.evidence, words=words_of(scene.question.text),
        )
        for at, scene in enumerate(scenes)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def said(model, scenes):
    """What the model answers."""
    inputs = model.prepare(
        image=[one.picture for one in scenes], text=[one.question.text for one in scenes]
    )
    with torch.no_grad():
        chosen = model.network(**inputs).logits.argmax(-1)
    return [model.labels[int(one)] for one in chosen]


def test_it_is_what_literal_loops_find(model, scenes, said):
    answers = [{one: 1.0} for one in said]
    answers[1] = {"something else": 1.0}
    examples = examples_of(scenes, answers)
    trial = trial_of(model, examples)
    found = evidence(trial)
    assert all(values[1].isnan() for values in found.values()), "a wrong answer is left out"
    maps, text = trial.attribution.image.scores.float(), trial.attribution.text
    layout = trial.attribution.layout[text.name]
    texts = [example.text for example in examples]
    assert len({len(model.tokenizer(one)["input_ids"]) for one in texts}) > 1, "none is padded"
    size = model.prepare(image=[scenes[0].picture], text=texts[:1])["pixel_values"].shape[-2:]
    for at in (0, 2, 3):
        mask = Image.fromarray(scenes[at].evidence.numpy())
        inside = np.asarray(mask.resize(tuple(size), Image.Resampling.NEAREST)).tolist()
        grid = maps[at].tolist()
        assert found["pointing"][at] == pointing_game_by_patch(grid, inside)
        assert found["energy"][at].item() == pytest.approx(energy_by_pixel(grid, inside), rel=1e-5)
        spans = model.tokenizer(texts[at], return_offsets_mapping=True)["offset_mapping"]
        content = (~(layout.special | layout.padding))[at].tolist()
        wanted = touched(spans, examples[at].words) + [False] * (len(content) - len(spans))
        assert found["words"][at] == recalled(text.scores[at].tolist(), content, wanted)


def with_scores(trial, image, text):
    """The same trial with other relevance: a number for each patch, and one for each token."""
    attribution, scores = trial.attribution, {}
    for name, layout in attribution.layout.items():
        old = attribution.scores[name].double()
        if layout.modality == "text":
            scores[name] = text.to(old)
        else:
            scores[name] = torch.zeros_like(old)
            scores[name][:, layout.patches] = image.to(old)
    return replace(trial, attribution=replace(attribution, scores=scores))


def test_maps_on_the_evidence_score_highest(model, scenes, said):
    examples = examples_of(scenes, [{one: 1.0} for one in said])
    trial = trial_of(model, examples)
    grid = trial.attribution.image.grid
    inside = torch.stack([one.evidence for one in scenes]).float()[:, None]
    cells = torch.nn.functional.adaptive_avg_pool2d(inside, grid)[:, 0].flatten(1)
    text = trial.attribution.text
    marks = torch.zeros(text.scores.shape)
    for at, example in enumerate(examples):
        tokens = evidence_tokens(example, model.tokenizer)
        marks[at, : len(tokens)] = tokens.float()
    right, wrong = (
        evidence(with_scores(trial, cells, marks)),
        evidence(with_scores(trial, 1 - cells, -marks)),
    )
    random = evidence(with_scores(trial, torch.rand(cells.shape), torch.rand(marks.shape)))
    assert (right["pointing"] == 1).all()
    assert (right["words"] == 1).all()
    assert not wrong["pointing"].any()
    assert right["energy"].mean() > random["energy"].mean() > wrong["energy"].mean()
    assert right["words"].mean() > random["words"].mean() > wrong["words"].mean()


def test_what_is_not_known_is_left_out(model, scenes, said):
    bare = examples_of(scenes, [{one: 1.0} for one in said])
    examples = [
        replace(bare[0], mask=lambda: None),
        replace(bare[1], mask=None, words=None),
        replace(bare[2], words=()),
        bare[3],
    ]
    found = evidence(trial_of(model, examples))
    assert found["pointing"].isnan().tolist() == [True, True, False, False]
    assert found["energy"].isnan().tolist() == [True, True, False, False]
    assert found["words"].isnan().tolist() == [False, True, True, False]
    with pytest.raises(InputError, match="example '0' has neither answers nor a label"):
        evidence(trial_of(model, [replace(bare[0], answers={})]))
    labelled = [replace(bare[0], answers={}, label=said[0])]
    assert not evidence(trial_of(model, labelled))["energy"].isnan().any()
    number = next(index for index, name in model.labels.items() if name == said[0])
    for label, right in ((number, True), (number + 1, False)):
        other = [replace(bare[0], answers={}, label=label)]
        assert evidence(trial_of(model, other))["energy"].isnan().any() == (not right)


def test_pointing_may_miss_by_the_tolerance(model, scenes, said):
    examples = examples_of(scenes, [{one: 1.0} for one in said])
    trial = trial_of(model, examples)
    cells = torch.zeros(COUNT, math.prod(trial.attribution.image.grid))
    cells[:, 0] = 1.0  # the corner, where nothing lies
    cornered = with_scores(trial, cells, torch.zeros(trial.attribution.text.scores.shape))
    assert not evidence(cornered)["pointing"].any()
    assert (evidence(cornered, tolerance=1000)["pointing"] == 1).all()


def test_right_is_what_the_model_chooses_whatever_is_explained(model, scenes, said):
    trial = trial_of(model, examples_of(scenes, [{one: 1.0} for one in said]))
    explained = (trial.subject.explained + 1) % len(model.labels)
    other = replace(trial, subject=replace(trial.subject, explained=explained))
    assert not evidence(other)["energy"].isnan().any()


class TestTokens:
    TEXT = "what colour is the small star?"

    def asked(self, *words):
        """A question whose words carry it."""
        spans = [(self.TEXT.index(word), self.TEXT.index(word) + len(word)) for word in words]
        return relmap.Example("1", text=self.TEXT, words=tuple(spans))

    def marked(self, tokenizer, *words):
        ids = tokenizer(self.TEXT)["input_ids"]
        found = evidence_tokens(self.asked(*words), tokenizer)
        assert found.shape == (len(ids),)
        return [tokenizer.decode([ids[at]]).strip() for at in found.nonzero().flatten().tolist()]

    @pytest.fixture
    def tokenizer(self):
        return train_tokenizer([self.TEXT] * 9, 400)

    def test_words_are_the_tokens_that_they_are_written_in(self, tokenizer):
        assert self.marked(tokenizer, "colour", "star") == ["colour", "star"]

    def test_a_word_of_several_tokens_has_all_of_them(self):
        letters = train_tokenizer(["what is the"] * 9, 290)
        assert self.marked(letters, "star") == ["s", "t", "a", "r"]

    def test_special_tokens_and_neighbours_carry_nothing(self, tokenizer):
        found = evidence_tokens(self.asked("what"), tokenizer).tolist()
        assert found == [False, True] + [False] * (len(found) - 2)
        assert not evidence_tokens(self.asked(), tokenizer).any()

    def test_a_tokenizer_that_was_saved_says_the_same(self, tokenizer, tmp_path):
        tokenizer.save_pretrained(tmp_path)
        again = AutoTokenizer.from_pretrained(tmp_path)
        one = self.asked("small", "star")
        assert torch.equal(evidence_tokens(one, again), evidence_tokens(one, tokenizer))


class TestRecall:
    SCORES = torch.tensor([9.0, 0.1, 0.5, 0.3, 0.2, 8.0])
    CONTENT = torch.tensor([False, True, True, True, True, False])

    def recall(self, *places):
        wanted = torch.zeros(6, dtype=torch.bool)
        wanted[list(places)] = True
        return word_recall(self.SCORES, self.CONTENT, wanted)

    def test_by_hand(self):
        assert self.recall(2) == 1.0
        assert self.recall(3) == 0.0
        assert self.recall(2, 3) == 1.0
        assert self.recall(2, 4) == 0.5
        assert self.recall(1, 2, 4) == pytest.approx(2 / 3)
        assert self.recall(1, 2, 3, 4) == 1.0

    def test_tokens_that_are_no_content_neither_count_nor_win(self):
        assert self.recall(0, 2) == 1.0
        assert self.recall(0, 5, 3) == 0.0
        assert math.isnan(self.recall())
        assert math.isnan(self.recall(0, 5))

    def test_equal_scores_are_taken_in_reading_order(self):
        scores = torch.tensor([9.0, 0.4, 0.3, 0.2, 0.3, 8.0])
        wanted = torch.tensor([True, False, True, False, True, False])
        # two content tokens carry evidence; the best two are the first and the next of 0.3
        assert word_recall(scores, self.CONTENT, wanted) == 0.5
        assert word_recall(-scores, self.CONTENT, wanted) == 0.5
        assert word_recall(wanted.float(), self.CONTENT, wanted) == 1

    def test_a_random_ranking_recalls_the_share(self):
        wanted = torch.tensor([True, True, False, True, False, False])
        values = [word_recall(one, self.CONTENT, wanted) for one in torch.rand(4000, 6)]
        assert sum(values) / 4000 == pytest.approx(0.5, abs=0.02)
