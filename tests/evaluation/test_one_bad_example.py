"""What is wrong with one example costs its own numbers alone, and a bug leaves its traceback."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from tiny.trials import SIZE, pictures, vit

from relmap.errors import InputError
from relmap.evaluation import Plan, Settings, evaluate, read_method, read_metric
from relmap.evaluation.bugs import read_bug
from relmap.evaluation.judging import judge
from relmap.metrics import METRICS

LABELS = {0: "tench, Tinca tinca", 1: "cock", 2: "goldfish", 3: "crane"}
ACCURACY = "perturbation:measure=accuracy"


def rows_of(model, examples, metric, method="genatt", **settings):
    plan = Plan((read_method(method),), (read_metric(metric),), Settings(**settings))
    return judge(model, list(enumerate(examples)), plan)


def values(rows):
    """(example, quantity, step) -> number."""
    return {
        (row.sample, row.quantity, row.step): row.value for row in rows if row.error is None
    }  # fmt: skip


def errors(rows):
    return {row.sample: row.error for row in rows if row.error is not None}


def square(size=SIZE, dtype=torch.bool):
    mask = torch.zeros(size, size, dtype=dtype)
    mask[: size // 2] = 1
    return mask


def masked(count):
    return [replace(one, mask=square) for one in pictures(count)]


def without_processor():
    return replace(vit(), processor=None)


def unreadable():
    raise InputError("mask 1.png cannot be read: it is broken")


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (unreadable, "cannot be read"),
        (partial(square, 14), "has 14 x 14 pixels, its picture 12 x 12"),
        (partial(square, SIZE, torch.uint8), "boolean tensor"),
        (lambda: {}["pixels"], "KeyError: 'pixels'"),
    ],
)
@pytest.mark.parametrize("metric", ["energy", "pointing-game"])
def test_a_mask_that_cannot_be_used_costs_its_own_example(metric, mask, said):
    examples = masked(4)
    whole = values(rows_of(without_processor(), examples, metric))
    examples[1] = replace(examples[1], mask=mask)
    rows = rows_of(without_processor(), examples, metric)
    wrong = errors(rows)
    assert list(wrong) == ["1"]
    assert said in wrong["1"]
    assert values(rows) == {key: value for key, value in whole.items() if key[0] != "1"}


@pytest.mark.parametrize(("label", "said"), [(None, "has no label"), (9, "outside the model's 4"),
    ("unicorn", "no class 'unicorn'"), (True, "cannot be a bool")])  # fmt: skip
def test_a_label_that_means_nothing_costs_its_own_example(label, said):
    model = replace(vit(), labels=LABELS)
    examples = pictures(4, label=2)
    whole = values(rows_of(model, examples, ACCURACY))
    examples[1] = replace(examples[1], label=label)
    rows = rows_of(model, examples, ACCURACY)
    wrong = errors(rows)
    assert list(wrong) == ["1"]
    assert said in wrong["1"]
    found = values(rows)
    assert found == pytest.approx({key: whole[key] for key in whole if key[0] != "1"})
    assert len({key[0] for key in found}) == 3


@pytest.mark.parametrize("label", ["tench", "Tinca Tinca", " TENCH ", "tench, tinca tinca", "0", 0])
def test_a_label_is_compared_as_a_target_is_read(label):
    model = replace(vit(), labels=LABELS)
    (example,) = pictures(1, label=label)
    said = int(model.network(example.image[None]).logits.argmax())
    model = replace(model, labels={(at + said) % 4: name for at, name in LABELS.items()})
    number = said if label in ("0", 0) else label
    (example,) = pictures(1, label=str(number) if label == "0" else number)
    found = values(rows_of(model, [example], ACCURACY))
    assert found["0", "positive-curve", 0.0] == 1.0
    other = values(rows_of(model, [replace(example, label="cock")], ACCURACY))
    assert other["0", "positive-curve", 0.0] == 0.0


def test_an_example_without_a_label_is_not_explained_for_something_else():
    model = vit()
    examples = pictures(3, label=2)
    whole = values(rows_of(model, examples, "perturbation:measure=logit", target="label"))
    examples[1] = replace(examples[1], label=None)
    rows = rows_of(model, examples, "perturbation:measure=logit", target="label")
    assert [(row.sample, row.method) for row in rows if row.error] == [("1", "-")]
    assert "no label" in errors(rows)["1"]
    assert values(rows) == pytest.approx({key: whole[key] for key in whole if key[0] != "1"})


@pytest.fixture
def buggy():
    """A metric with a mistake that pictures of a large mean run into."""
    known = dict(METRICS._entries), dict(METRICS._names)

    @METRICS.register("buggy-mean", direction="higher", category="faithfulness", needs=("model",))
    def buggy_mean(trial):
        """The mean, or a mistake."""
        means = [float(example.image.mean()) for example in trial.examples]
        if max(means) > 5:
            raise ArithmeticError("a mistake of mine")
        return {"buggy-mean": torch.tensor(means)}

    yield
    METRICS._entries, METRICS._names = known


@pytest.mark.usefixtures("buggy")
def test_a_bug_costs_its_examples_and_keeps_its_first_traceback():
    examples = pictures(4)
    for at in (1, 3):
        examples[at] = replace(examples[at], image=examples[at].image + 9)
    rows = rows_of(vit(), examples, "buggy-mean")
    assert errors(rows) == dict.fromkeys("13", "ArithmeticError: a mistake of mine")
    assert {key[0] for key in values(rows)} == {"0", "2"}
    (bug,) = [read_bug(row.detail) for row in rows if row.detail]
    assert bug.kind.startswith("ArithmeticError-test_one_bad_example-")
    assert 'raise ArithmeticError("a mistake of mine")' in bug.traceback


def test_what_is_refused_needs_no_traceback():
    rows = rows_of(vit(), pictures(2), "perturbation:measure=accuracy")
    assert len(errors(rows)) == 2
    assert not any(row.detail for row in rows)


@pytest.mark.usefixtures("buggy")
def test_the_summary_names_the_file_of_each_traceback(tmp_path):
    examples = pictures(5)
    examples[4] = replace(examples[4], image=examples[4].image + 9)
    settings = Settings(batch_size=2)
    run = partial(evaluate, vit(), examples, ["genatt"], ["buggy-mean"], settings=settings)
    found = run(output=tmp_path)
    (file,) = (tmp_path / "tracebacks").iterdir()
    assert "ArithmeticError: a mistake of mine" in file.read_text()
    assert str(file) in str(found)
    assert found.cells[0].errors == 1
    again = run(output=tmp_path)  # from the rows alone
    assert str(again) == str(found)
    assert file.stem in str(run())
