"""The benchmark of evidence: which tokens carry a question, and how many of them are found."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from relmap.data import Question
from relmap.data.scenes import SceneEvidence
from relmap.train.tokenizer import train_tokenizer

TEXT = "what colour is the small star?"


@pytest.fixture(scope="module")
def script():
    folder = Path(__file__).parents[1] / "benchmarks"
    if not folder.is_dir():
        pytest.skip("the benchmarks folder is not beside the tests")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        spec = importlib.util.spec_from_file_location("evidence", folder / "evidence.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        patch.setitem(sys.modules, "evidence", module)  # dataclasses look their module up there
        spec.loader.exec_module(module)
        yield module
    sys.modules.pop("localisation", None)


def asked(text, *words):
    """A question whose words carry it."""
    spans = tuple((text.index(word), text.index(word) + len(word)) for word in words)
    question = Question("1", Path("1.png"), text, {}, (), "colour", "other", 1)
    return SceneEvidence(question, (), spans, "objects")


def marked(script, tokenizer, one, length):
    ids = tokenizer(one.question.text)["input_ids"]
    found = script.evidence_tokens(one, tokenizer, length)
    assert found.shape == (length,)
    assert not found[len(ids) :].any(), "padding carries nothing"
    return [tokenizer.decode([ids[at]]).strip() for at in found.nonzero().flatten().tolist()]


class TestTokens:
    def test_words_are_the_tokens_that_they_are_written_in(self, script):
        tokenizer = train_tokenizer([TEXT] * 9, 400)
        one = asked(TEXT, "colour", "star")
        assert marked(script, tokenizer, one, 12) == ["colour", "star"]

    def test_a_word_of_several_tokens_has_all_of_them(self, script):
        tokenizer = train_tokenizer(["what is the"] * 9, 290)  # "star" letter by letter
        one = asked(TEXT, "star")
        assert marked(script, tokenizer, one, 40) == ["s", "t", "a", "r"]

    def test_special_tokens_and_neighbours_carry_nothing(self, script):
        tokenizer = train_tokenizer([TEXT] * 9, 400)
        found = script.evidence_tokens(asked(TEXT, "what"), tokenizer, 9)
        assert found.tolist() == [False, True] + [False] * 7
        assert not script.evidence_tokens(asked(TEXT), tokenizer, 9).any()

    def test_a_tokenizer_that_was_saved_says_the_same(self, script, tmp_path):
        tokenizer = train_tokenizer([TEXT] * 9, 400)
        tokenizer.save_pretrained(tmp_path)
        one = asked(TEXT, "small", "star")
        again = AutoTokenizer.from_pretrained(tmp_path)
        first = script.evidence_tokens(one, tokenizer, 9)
        assert torch.equal(script.evidence_tokens(one, again, 9), first)


class TestRecall:
    SCORES = torch.tensor([[9.0, 0.1, 0.5, 0.3, 0.2, 8.0]])
    HIDDEN = torch.tensor([[True, False, False, False, False, True]])

    def recall(self, script, *places):
        wanted = torch.zeros(1, 6, dtype=torch.bool)
        wanted[0, list(places)] = True
        (found,) = script.word_recall(self.SCORES, self.HIDDEN, wanted)
        return found

    def test_by_hand(self, script):
        assert self.recall(script, 2) == 1.0
        assert self.recall(script, 3) == 0.0
        assert self.recall(script, 2, 3) == 1.0
        assert self.recall(script, 2, 4) == 0.5
        assert self.recall(script, 1, 2, 4) == pytest.approx(2 / 3)
        assert self.recall(script, 1, 2, 3, 4) == 1.0

    def test_hidden_tokens_neither_count_nor_win(self, script):
        assert self.recall(script, 0, 2) == 1.0
        assert self.recall(script, 0, 5, 3) == 0.0

    def test_questions_do_not_mix(self, script):
        scores = torch.tensor([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]])
        hidden = torch.zeros(2, 3, dtype=torch.bool)
        wanted = torch.tensor([[True, False, False], [True, True, False]])
        assert script.word_recall(scores, hidden, wanted) == [0.0, 1.0]

    def test_a_random_ranking_recalls_the_share(self, script):
        hits = script.Hits()
        wanted = torch.tensor([[True, True, False, True, False, False]])
        script.add_random_words(hits, self.HIDDEN, wanted)
        assert hits.words == [0.5]
        torch.manual_seed(3)
        many = torch.rand(4000, 6), self.HIDDEN.expand(4000, 6), wanted.expand(4000, 6)
        mean = sum(script.word_recall(*many)) / 4000
        assert mean == pytest.approx(0.5, abs=0.02)
