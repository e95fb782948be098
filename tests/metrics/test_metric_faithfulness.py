"""Metrics that ask the model once or twice, worked by hand on a model of known worth."""

import math
from dataclasses import replace

import pytest
import torch
from tiny.trials import judged, known_trial, text_model, texts, trial_of, with_scores

import relmap
from relmap.metrics import METRICS
from relmap.metrics.hiding import Response
from relmap.metrics.saco import coefficient
from relmap.targets import choose_one
from relmap.targets.answers import Answer, TargetContext

WORTH = [0.9, -0.4, 0.3, 0.8, -0.2, 0.1, 0.6, 0.5, -0.7]
SCORES = [0.4, 0.9, 0.1, 0.7, 0.3, 0.8, 0.2, 0.6, 0.5]
ORDER = [1, 5, 3, 7, 8, 0, 4, 6, 2]  # by falling score


def sure(cells):
    """The probability of class 0 where the other cells are the mean colour, which is 0."""
    return 1 / (1 + math.exp(-sum(WORTH[cell] for cell in cells)))


def row(scores):
    return torch.tensor([scores], dtype=torch.float64)


@pytest.mark.parametrize("fill", ["", ",fill=mean"])
def test_comprehensiveness_and_sufficiency_by_hand(fill):
    # of nine cells 1, 5 and 10 % are the first one, 20 % two, 50 % five: rounded up
    numbers = [1, 1, 1, 2, 5]
    without = [sure(range(9)) - sure(ORDER[number:]) for number in numbers]
    alone = [sure(range(9)) - sure(ORDER[:number]) for number in numbers]
    for name, wanted in (("comprehensiveness", without), ("sufficiency", alone)):
        found = judged(WORTH, row(SCORES), f"{name}:source=image{fill}")
        assert found[name].item() == pytest.approx(sum(wanted) / 5, abs=1e-12)


def test_saco_by_hand():
    salience = torch.tensor([[5.0, 3.0, 1.0]], dtype=torch.float64)
    # pairs: (5,3) agree +2, (5,1) disagree -4, (3,1) disagree -2
    effects = torch.tensor([[0.3, 0.2, 0.4]], dtype=torch.float64)
    assert coefficient(salience, effects).item() == pytest.approx((2 - 4 - 2) / 8)
    assert coefficient(salience, torch.tensor([[0.4, 0.3, 0.2]]).double()).item() == 1
    assert coefficient(torch.ones(1, 3), effects.float()).item() == 0


def test_a_violation_is_a_sign_that_removal_contradicts():
    worth = [1.0, -2.0, *[0.0] * 7]
    metric = "faithfulness-violation:source=image,fill=black"
    # class 1 is predicted (the sum is below 0): cell 0 speaks against it, cell 1 for it
    for scores, violated in (([-1, 0.5], 0), ([1, 0.5], 1), ([0.1, 2], 0), ([0.1, -2], 1)):
        found = judged(worth, row([*map(float, scores), *[0.0] * 7]), metric)
        assert found["faithfulness-violation"].item() == violated
    # what changes nothing agrees with no sign
    found = judged(worth, row([0.0, 0.0, 0.9, *[0.1] * 6]), metric)
    assert found["faithfulness-violation"].item() == 1


@pytest.fixture(scope="module")
def sentences():
    """Texts of different lengths, one without content, and a model of them."""
    model, examples = text_model(), texts([7, 0, 5])
    return model, examples, trial_of(model, examples)


def said(model, tokens, column):
    return model.network(input_ids=torch.tensor([tokens])).logits[0].softmax(0)[column].item()


def test_the_strongest_word_is_no_special_token(sentences):
    model, examples, trial = sentences
    layout = trial.units("text").layout
    torch.manual_seed(5)
    scores = [torch.randn(int(number)).double() for number in layout.content.sum(dim=1)]
    found = METRICS.get("faithfulness-violation").function(with_scores(trial, scores, other=99.0))
    values = found["faithfulness-violation"].tolist()
    assert math.isnan(values[1]), "a text of no content has nothing to remove"
    for at in (0, 2):
        tokens = list(map(int, examples[at].text.split()))
        strongest = int(scores[at].abs().argmax())
        column = int(trial.subject.explained[at])
        rest = tokens[: strongest + 1] + tokens[strongest + 2 :]
        change = said(model, tokens, column) - said(model, rest, column)
        assert values[at] == float(change * scores[at][strongest] <= 0)


def test_saco_of_groups_of_words_by_hand(sentences):
    model, examples, trial = sentences
    torch.manual_seed(6)
    scores = [
        torch.randn(int(number)).double()
        for number in trial.units("text").layout.content.sum(dim=1)
    ]
    metric = METRICS.get("saco").function
    found = metric(with_scores(trial, scores, other=99.0), source="text", groups=3)["saco"]
    for at, sizes in ((0, (3, 2, 2)), (2, (2, 2, 1))):
        tokens = list(map(int, examples[at].text.split()))
        column = int(trial.subject.explained[at])
        order = scores[at].argsort(descending=True).tolist()
        salience, effects = [], []
        for size in sizes:
            group, order = order[:size], order[size:]
            rest = [token for place, token in enumerate(tokens) if place - 1 not in group]
            salience.append(sum(scores[at][one].item() for one in group))
            effects.append(said(model, tokens, column) - said(model, rest, column))
        above = below = 0.0
        for one, other in ((0, 1), (0, 2), (1, 2)):
            weight = salience[one] - salience[other]
            above += weight if effects[one] >= effects[other] else -weight
            below += abs(weight)
        assert found[at].item() == pytest.approx(above / below, abs=1e-9)


def test_equal_effects_agree_with_every_order():
    salience = torch.tensor([[5.0, 3.0]], dtype=torch.float64)
    assert coefficient(salience, torch.tensor([[0.2, 0.2]], dtype=torch.float64)).item() == 1


def test_equal_scores_are_taken_in_reading_order_from_both_ends():
    units = known_trial(WORTH, row([0.5, 0.1, 0.5, 0.1, 0.9, 0.5, 0.1, 0.9, 0.0])).units("image")
    assert units.ranks().tolist() == [[2, 5, 3, 6, 0, 4, 7, 1, 8]]
    assert units.ranks(descending=False).tolist() == [[4, 1, 5, 2, 7, 6, 3, 8, 0]]


def test_pixels_are_the_methods_own_where_it_gives_them():
    trial = known_trial(WORTH, row(SCORES))
    (name,) = trial.attribution.scores
    own = torch.rand(1, 12, 12, dtype=torch.float64)
    other = replace(trial, attribution=replace(trial.attribution, pixels={name: own}))
    assert torch.equal(other.units("image", "pixel").scores, own.flatten(1))
    large = torch.nn.functional.interpolate(row(SCORES).view(1, 1, 3, 3), (12, 12), mode="bilinear")
    torch.testing.assert_close(
        trial.units("image", "pixel").scores, large.flatten(1), rtol=0, atol=1e-6
    )


def test_what_is_right_may_be_said_by_number_by_name_or_by_worth():
    trial = known_trial(WORTH, row(SCORES).expand(4, 9))
    labels = {0: "cat, house cat", 1: "dog"}
    answer = Answer("class", torch.zeros(1, 2), torch.tensor([0]), lambda _, choice: labels[choice])
    trial = replace(
        trial,
        label=lambda choice: (choice, ("cat", "dog")[choice]),
        right=lambda wanted: choose_one(wanted, answer, TargetContext(1, {}, labels=labels)),
    )
    truths = [{"label": 1}, {"label": "Cat"}, {"answers": {"cat": 0.3, "dog": 1.0}}, {"label": "1"}]
    examples = tuple(relmap.Example(str(at), **truth) for at, truth in enumerate(truths))
    choice = torch.tensor([[0, 1]] * 4)
    numbers = torch.zeros(4, 2, dtype=torch.float64)
    response = Response(numbers, numbers, choice)
    found = replace(trial, examples=examples).credit(response, "accuracy")
    assert found.tolist() == [[0.0, 1.0], [1.0, 0.0], [0.3, 1.0], [0.0, 1.0]]
