"""Token F1 against scikit-learn and literal sets, and the way from tokens to words."""

import math

import numpy as np
import pytest
import torch

from relmap.errors import InputError
from relmap.metrics import METRICS
from relmap.metrics.token_f1 import STEPS, token_f1
from relmap.metrics.word_scores import marked_words, word_scores, word_spans


def bools(text: str) -> torch.Tensor:
    """A mark per letter: "x" for a marked word, "." for another."""
    return torch.tensor([letter == "x" for letter in text])


def literal(scores: list[float], truth: list[bool], count: int) -> dict[str, float]:
    """By sets of word numbers."""
    order = sorted(range(len(scores)), key=lambda at: -scores[at])  # equal ones stay in order
    chosen, marked = set(order[:count]), {at for at, one in enumerate(truth) if one}
    hits = len(chosen & marked)
    precision, recall = hits / len(chosen), hits / len(marked)
    return {
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / (precision + recall) if hits else 0.0,
        "iou": hits / len(chosen | marked),
    }


@pytest.mark.parametrize("k", [None, 3, 100, 0.25])
def test_precision_recall_and_f1_are_those_of_sets(k):
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        scores = (torch.randn(30, generator=generator) * 4).round()
        truth = torch.rand(30, generator=generator) < 0.3
        truth[seed] = True
        count = {None: int(truth.sum()), 3: 3, 100: 30, 0.25: 8}[k]
        found = token_f1(scores, truth, k=k)
        expected = literal(scores.tolist(), truth.tolist(), count)
        assert {name: found[name] for name in expected} == pytest.approx(expected)
        for step in STEPS:
            expected = literal(scores.tolist(), truth.tolist(), min(step, 30))
            assert found[f"f1@{step}"] == pytest.approx(expected["f1"])
        assert (found["hits"], found["chosen"]) == (found["recall"] * truth.sum(), count)


@pytest.mark.parametrize(
    ("k", "words", "count"),
    [(0.25, 30, 8), (0.04, 30, 2), (0.1, 30, 3), (0.07, 100, 7), (0.55, 20, 11), (1e-12, 5, 1)],
)
def test_a_share_of_the_words_is_rounded_up_and_no_further(k, words, count):
    found = token_f1(torch.rand(words), torch.arange(words) == 0, k=k)
    assert found["chosen"] == count


def test_rankings_are_those_of_scikit_learn():
    sklearn = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        scores = (torch.randn(30, generator=generator) * 3).round()
        truth = torch.rand(30, generator=generator) < 0.3
        truth[seed] = True
        found = token_f1(scores, truth)
        precision, recall, _ = sklearn.precision_recall_curve(truth.numpy(), scores.numpy())
        assert found["auprc"] == pytest.approx(sklearn.auc(recall, precision))
        expected = sklearn.average_precision_score(truth.numpy(), scores.numpy())
        assert found["average-precision"] == pytest.approx(expected)
        chosen = np.zeros(30, dtype=bool)
        chosen[np.argsort(-scores.numpy(), kind="stable")[: int(truth.sum())]] = True
        assert found["f1"] == pytest.approx(sklearn.f1_score(truth.numpy(), chosen))


def test_the_best_ranking_is_best_and_its_opposite_worst():
    truth = bools(".xx...x..x..........")
    directions = METRICS.get("token-f1").directions
    best, worst = token_f1(truth.float(), truth), token_f1(-truth.float(), truth)
    for quantity, direction in directions.items():
        assert direction == "higher"
        if quantity in best:
            assert best[quantity] >= worst[quantity]
    for quantity in ("precision", "recall", "f1", "iou", "auprc", "average-precision"):
        assert best[quantity] == 1.0
        assert worst[quantity] < 0.25
    draws = [token_f1(torch.rand(20), truth)["f1"] for _ in range(400)]
    assert np.mean(draws) == pytest.approx(4 / 20, abs=0.03)  # the share of marked words


def test_spans_by_hand():
    truth = bools("xxx...xx....x")
    scores = bools("xx....xxx....").float() + bools("..........x..").float()
    found = token_f1(scores, truth, k=6)
    # chosen 0-1, 6-8, 10: 2/3 and 2/3 of the union match, the third nothing
    assert found["iou-precision"] == pytest.approx(2 / 3)
    assert found["iou-recall"] == pytest.approx(2 / 3)
    half = token_f1(bools("x...").float(), bools("xx.."), k=1)
    assert (half["iou-precision"], half["iou-recall"]) == (1.0, 1.0)  # exactly half is enough
    less = token_f1(bools("x...").float(), bools("xxx."), k=1)
    assert (less["iou-precision"], less["iou-recall"]) == (0.0, 0.0)


def literal_spans(chosen: set[int], marked: set[int]) -> tuple[float, float]:
    """ERASER's matching: each span's best overlap, and the share of spans from one half on."""

    def spans(words: set[int]) -> list[set[int]]:
        found: list[set[int]] = []
        for word in sorted(words):
            if found and word - 1 in found[-1]:
                found[-1].add(word)
            else:
                found.append({word})
        return found

    ours, theirs = spans(chosen), spans(marked)
    best = [max(len(one & other) / len(one | other) for other in theirs) for one in ours]
    matches = sum(overlap >= 0.5 for overlap in best)
    return matches / len(ours), matches / len(theirs)


def test_spans_equal_a_literal_loop_over_sets():
    for seed in range(50):
        generator = torch.Generator().manual_seed(seed)
        scores = torch.rand(25, generator=generator)
        truth = torch.rand(25, generator=generator) < 0.5
        truth[0] = True
        chosen = set(scores.topk(int(truth.sum())).indices.tolist())
        expected = literal_spans(chosen, set(truth.nonzero().flatten().tolist()))
        found = token_f1(scores, truth)
        assert (found["iou-precision"], found["iou-recall"]) == pytest.approx(expected)


def test_numbers_of_a_data_set():
    summary = METRICS.get("token-f1").summary
    texts = [("x...", "x..."), ("xx..", ".xxx"), ("...x", "x..."), ("x...", "....")]
    rows = [token_f1(bools(ours).float(), bools(truth), k=2) for ours, truth in texts]
    assert all(math.isnan(value) for value in rows[-1].values())
    assert rows[-1].keys() == rows[0].keys()
    values = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    hits, chosen, marked = 1 + 1 + 1, 2 + 2 + 2, 1 + 3 + 1
    assert summary["micro-f1"](values) == pytest.approx(2 * hits / (chosen + marked))
    # spans: one of one (half of the union); none of one (a quarter); one of two, and all marked
    precision, recall = (1 + 0 + 1 / 2) / 3, (1 + 0 + 1) / 3
    assert summary["iou-f1"](values) == pytest.approx(2 * precision * recall / (precision + recall))
    nothing = {name: np.full(2, np.nan) for name in values}
    assert all(math.isnan(one(nothing)) for one in summary.values())
    missed = {name: np.zeros(2) for name in values}
    assert summary["iou-f1"](missed) == 0.0


def test_negative_words_rank_last_unless_they_are_clamped():
    truth = bools("..xx")
    scores = torch.tensor([-2.0, -1.0, -0.5, 1.0])
    assert token_f1(scores, truth)["f1"] == 1.0
    assert token_f1(scores, truth, clamp=True)["f1"] == 0.5  # the first of three equal zeros


def test_where_all_words_are_marked_average_precision_says_nothing():
    found = token_f1(torch.rand(4), bools("xxxx"))
    assert math.isnan(found["average-precision"])
    assert (found["f1"], found["auprc"]) == (1.0, 1.0)


def test_steps_are_an_option():
    assert STEPS == (5, 10, 15, 20, 25, 30, 35, 40, 45, 50, 55, 60, 65, 70, 75, 80)
    found = token_f1(torch.rand(10), bools("x........x"), steps=(1, 7))
    assert [name for name in found if "@" in name] == ["f1@1", "f1@7"]


@pytest.mark.parametrize(
    ("scores", "truth", "options", "words"),
    [
        (torch.rand(3), bools("xx"), {}, "one score and one mark"),
        (torch.tensor([0.0, math.nan]), bools("xx"), {}, "NaN or infinite"),
        (torch.rand(2), bools("x."), {"k": 0}, "k is a number of words"),
        (torch.rand(2), bools("x."), {"k": 1.5}, "k is a number of words"),
        (torch.rand(2), bools("x."), {"k": True}, "k is a number of words"),
        (torch.rand(2), bools("x."), {"steps": (5, 0)}, "steps are numbers of words"),
    ],
)
def test_what_cannot_be_judged_is_refused(scores, truth, options, words):
    with pytest.raises(InputError, match=words):
        token_f1.__wrapped__(scores, truth, **options)


def literal_word_scores(offsets, scores, words, reduce):
    found = []
    for begin, end in words:
        inside = [
            score
            for (start, stop), score in zip(offsets, scores, strict=True)
            if set(range(start, stop)) & set(range(begin, end))
        ]
        total = {"max": max, "sum": sum, "mean": lambda of: sum(of) / len(of)}[reduce]
        found.append(total(inside) if inside else 0.0)
    return found


@pytest.mark.parametrize("reduce", ["max", "sum", "mean"])
def test_word_scores_equal_a_literal_loop(reduce):
    text = "an  unbelievable,\tlong text that is cut"
    #           [CLS]  an      un      ##believ  ##able   ,         " long te"  xt      [SEP]
    offsets = [(0, 0), (0, 2), (4, 6), (6, 12), (12, 16), (16, 17), (17, 25), (25, 27), (0, 0)]
    scores = torch.tensor([9.0, -1.0, 0.5, -2.0, 3.0, 0.25, -4.0, -6.0, 9.0], dtype=torch.float64)
    words = word_spans(text)
    assert [text[begin:end] for begin, end in words] == text.split()
    found = word_scores(offsets, scores, words, reduce)
    assert found.tolist() == literal_word_scores(offsets, scores.tolist(), words, reduce)
    assert found[0] == -1  # a negative word stays negative
    assert found[-3:].tolist() == [0, 0, 0]  # what the model never saw


def test_sums_of_words_keep_the_relevance_of_the_text():
    offsets = [(0, 0), (0, 3), (3, 5), (6, 9), (0, 0)]
    scores = torch.tensor([0.0, 1.5, -0.5, 2.0, 0.0])
    assert word_scores(offsets, scores, word_spans("abcde fgh"), "sum").tolist() == [1.0, 2.0]


def test_words_without_tokens_and_texts_without_words():
    nothing = torch.zeros(0)
    for reduce in ("max", "sum", "mean"):
        assert word_scores([], nothing, [(0, 2)], reduce).tolist() == [0.0]
        assert word_scores([(0, 0)], torch.ones(1), [], reduce).tolist() == []
    assert marked_words([(0, 2), (3, 5)], []).tolist() == [False, False]
    with pytest.raises(InputError, match="2 offsets and 3 scores"):
        word_scores([(0, 1), (1, 2)], torch.ones(3), [(0, 2)])
    with pytest.raises(InputError, match="reduce is"):
        word_scores([(0, 1)], torch.ones(1), [(0, 2)], "median")


def test_marked_words_share_a_character_with_a_span():
    words = word_spans("a cat sat")
    assert marked_words(words, [(2, 5)]).tolist() == [False, True, False]
    assert marked_words(words, [(1, 2)]).tolist() == [False, False, False]
    assert marked_words(words, [(4, 7), (0, 1)]).tolist() == [True, True, True]
