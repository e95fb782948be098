"""Tables from rows that are written by hand: intervals, pairs, summaries, and their print.

An interval is held to scipy's bootstrap of the numbers themselves, with the seed asked for.
"""

import json

import numpy as np
import pytest

from relmap.evaluation import Plan, Settings, read_method, read_metric
from relmap.evaluation.rows import Row, parts, read_part, write_part
from relmap.evaluation.tables import collect, summarise, to_csv, to_latex, to_markdown

stats = pytest.importorskip("scipy.stats")


def rows_of(method, metric, quantities, **more):
    """Rows of one method by a metric: a list of numbers for each quantity, None for no number."""
    name, _, settings = method.partition(":")
    measure, _, options = metric.partition(":")
    for quantity, numbers in quantities.items():
        for at, value in enumerate(numbers):
            head = (at, str(at), name, settings, measure, options)
            yield Row(*head, quantity, None, value, **more)


def table(folder, rows, methods, metric, **settings):
    """The cells by method and quantity."""
    write_part(folder, 0, list(rows))
    plan = Plan(tuple(map(read_method, methods)), (read_metric(metric),), Settings(**settings))
    return {(cell.method, cell.quantity): cell for cell in summarise(collect(folder), plan)}


def interval(values, seed=0, resamples=2000):
    found = stats.bootstrap(
        (np.array(values),), np.mean, n_resamples=resamples, method="percentile",
        rng=np.random.default_rng(seed), batch=64,
    ).confidence_interval  # fmt: skip
    return pytest.approx((found.low, found.high))


def rows_by_hand():
    """Two methods on four examples by a metric; one of them failed on the last."""
    values = {"genatt": [1.0, 2.0, 3.0, 6.0], "rollout": [0.0, 2.0, 1.0, None]}
    for method, numbers in values.items():
        for at, value in enumerate(numbers):
            head = (at, str(at), method, "", "energy", "")
            if value is None:
                yield Row(*head, "", None, None, "InputError: no")
            else:
                yield Row(*head, "energy", None, value)


def test_tables_say_what_the_rows_say(tmp_path):
    write_part(tmp_path, 0, list(rows_by_hand()))
    plan = Plan((read_method("genatt"), read_method("rollout")), (read_metric("energy"),))
    first, second = summarise(collect(tmp_path), plan)
    assert (first.value, first.examples, first.errors) == (3.0, 4, 0)
    assert (second.value, second.examples, second.errors) == (1.0, 3, 1)
    # paired on the three examples of both: (0 - 1, 2 - 2, 1 - 3)
    assert second.difference == pytest.approx(-1.0)
    assert first.difference is None
    wanted = stats.bootstrap(
        (np.array([1.0, 2.0, 3.0, 6.0]),), np.mean, n_resamples=2000, method="percentile",
        rng=np.random.default_rng(0), batch=64,
    ).confidence_interval  # fmt: skip
    assert (first.low, first.high) == pytest.approx(tuple(wanted))
    assert "| genatt | **3.000**" in to_markdown([first, second])
    assert "3 (1 failed)" in to_markdown([first, second])
    assert r"\textbf{3.000}" in to_latex([first, second])
    assert to_csv([first]).splitlines()[1].startswith("genatt,energy,energy,higher,4,0,3.0,")


def test_an_interval_covers_the_truth_as_often_as_it_says(tmp_path):
    generator, covered = np.random.default_rng(0), 0
    plan = Plan((read_method("genatt"),), (read_metric("energy"),), Settings(resamples=500))
    for trial in range(60):
        folder = tmp_path / str(trial)
        folder.mkdir()
        drawn = generator.normal(size=40)
        head = ("genatt", "", "energy", "", "energy", None)
        write_part(folder, 0, [Row(at, str(at), *head, value) for at, value in enumerate(drawn)])
        (cell,) = summarise(collect(folder), plan)
        covered += cell.low <= 0 <= cell.high
    assert 50 <= covered <= 60


FIRST, SECOND = [None, 2.0, 3.0, 6.0, 9.0], [0.0, 2.0, None, 4.0, 1.0]


def two_methods():
    yield from rows_of("genatt", "energy", {"energy": FIRST})
    yield from rows_of("rollout", "energy", {"energy": SECOND})


def test_a_difference_is_of_the_examples_that_both_have(tmp_path):
    found = table(tmp_path, two_methods(), ["genatt", "rollout"], "energy")
    cell = found["rollout", "energy"]
    assert (cell.examples, cell.errors, cell.value) == (4, 0, 7 / 4)
    assert found["genatt", "energy"].examples == 4
    each = [2 - 2, 4 - 6, 1 - 9]  # of the second, fourth and fifth example
    assert cell.difference == pytest.approx(-10 / 3)
    assert (cell.difference_low, cell.difference_high) == interval(each)
    assert found["genatt", "energy"].difference is None


def test_the_reference_is_the_method_that_was_named(tmp_path):
    methods = ["genatt", "rollout"]
    found = table(tmp_path, two_methods(), methods, "energy", reference="rollout")
    assert found["genatt", "energy"].difference == pytest.approx(10 / 3)
    assert found["rollout", "energy"].difference is None


def test_an_interval_has_its_seed_and_its_number_of_resamples(tmp_path):
    rows = rows_of("genatt", "energy", {"energy": [1.0, 2.0, 4.0, 8.0, 16.0]})
    found = table(tmp_path, rows, ["genatt"], "energy", seed=3, resamples=99)
    cell = found["genatt", "energy"]
    assert (cell.low, cell.high) == interval([1, 2, 4, 8, 16], seed=3, resamples=99)
    assert (cell.low, cell.high) != interval([1, 2, 4, 8, 16], seed=0, resamples=99)
    assert (cell.low, cell.high) != interval([1, 2, 4, 8, 16], seed=3, resamples=2000)


def test_one_example_has_no_interval_and_equal_ones_have_no_width(tmp_path):
    rows = [
        *rows_of("genatt", "energy", {"energy": [0.3]}),
        *rows_of("rollout", "energy", {"energy": [0.5] * 4}),
    ]
    found = table(tmp_path, rows, ["genatt", "rollout"], "energy")
    assert (found["genatt", "energy"].low, found["genatt", "energy"].high) == (None, None)
    assert (found["rollout", "energy"].low, found["rollout", "energy"].high) == (0.5, 0.5)


def counts(hits, chosen, marked):
    """What micro-f1 is summed up from."""
    quantities = {"hits": hits, "chosen": chosen, "marked": marked}
    quantities |= dict.fromkeys(("iou-precision", "iou-recall"), [0.5] * len(hits))
    return {
        name: [None if hits[at] is None else float(one) for at, one in enumerate(numbers)]
        for name, numbers in quantities.items()
    }


def test_a_sum_over_the_data_set_is_paired_as_means_are(tmp_path):
    # of the fourth example the first method has no number, of the first the second has none
    one = counts([1, 2, 0, None], [2, 2, 2, None], [2, 3, 1, None])
    other = counts([None, 0, 1, 1], [None, 2, 2, 2], [None, 3, 1, 4])
    rows = [*rows_of("genatt", "token-f1", one), *rows_of("rollout", "token-f1", other)]
    found = table(tmp_path, rows, ["genatt", "rollout"], "token-f1", resamples=500)
    first, second = found["genatt", "micro-f1"], found["rollout", "micro-f1"]
    assert (first.value, first.examples) == (pytest.approx(2 * 3 / (6 + 6)), 3)
    assert (second.value, second.examples) == (pytest.approx(2 * 2 / (6 + 8)), 3)
    # on the two examples of both: 2 * 1 / (4 + 4) less 2 * 2 / (4 + 4)
    assert second.difference == pytest.approx(-1 / 4)
    # alone the second is 0 - 4 / 5, the third 2 / 3 - 0: resamples hold one of them or both
    assert second.difference_low == pytest.approx(-4 / 5)
    assert second.difference_high == pytest.approx(2 / 3)


def regions(correct):
    """What is written of a picture with a labelled pixel, or of one without."""
    return {"classes": 1} if correct is None else {"hits": [correct], "unions": [1]}


def test_resamples_that_hold_nothing_are_left_out_of_an_interval_of_95_per_cent(tmp_path):
    # of 16 pictures 2 are wrong, 3 right, 11 without labels: 1 of 400 resamples says nothing, and
    # ((13/16)^16 - (11/16)^16) / (1 - (11/16)^16) = 3.4 % say that all is wrong
    said = [0, 0, 1, 1, 1, *[None] * 11]
    head = ("genatt", "", "open-vocabulary-segmentation", "")
    rows = [
        Row(at, str(at), *head, "detail", None, None, None, json.dumps(regions(one)))
        for at, one in enumerate(said)
    ]
    for name in ("correct", "labelled"):
        head = ("genatt", "", "open-vocabulary-segmentation", "", name, None)
        rows += [Row(at, str(at), *head, float(one)) for at, one in enumerate(said[:5])]
    found = table(tmp_path, rows, ["genatt"], "open-vocabulary-segmentation")
    cell = found["genatt", "mIoU"]
    assert (cell.value, cell.examples) == (pytest.approx(3 / 5), 16)
    assert (cell.low, cell.high) == (0.0, 1.0)


def test_a_data_set_that_no_number_is_known_of_has_a_table(tmp_path):
    head = ("genatt", "", "open-vocabulary-segmentation", "")
    rows = []
    for at in range(2):
        detail = json.dumps(regions(None))
        rows.append(Row(at, str(at), *head, "detail", None, None, None, detail))
        rows += [Row(at, str(at), *head, name, None, None) for name in ("correct", "labelled")]
    found = table(tmp_path, rows, ["genatt"], "open-vocabulary-segmentation")
    assert {quantity: cell.value for (_, quantity), cell in found.items()} == dict.fromkeys(
        ("mIoU", "pixel-accuracy", "mIoU-present", "mSC")
    )


def test_settings_of_a_method_or_metric_are_rows_of_their_own(tmp_path):
    plan = Plan(
        (read_method("genatt"), read_method("genatt:start_layer=1")),
        (read_metric("pointing-game"), read_metric("pointing-game:tolerance=15")),
    )
    rows, number = [], 0.0
    for method in plan.methods:
        for metric in plan.metrics:
            rows += rows_of(str(method), str(metric), {"pointing-game": [number, number]})
            number += 1
    write_part(tmp_path, 0, rows)
    found = {(cell.method, cell.metric): cell.value for cell in summarise(collect(tmp_path), plan)}
    assert found == {
        ("genatt", "pointing-game"): 0,
        ("genatt", "pointing-game:tolerance=15"): 1,
        ("genatt:start_layer=1", "pointing-game"): 2,
        ("genatt:start_layer=1", "pointing-game:tolerance=15"): 3,
    }


def test_errors_are_counted_where_they_happened(tmp_path):
    good = Row(0, "0", "genatt", "", "energy", "", "energy", None, 0.5)
    rows = [
        good,
        Row(1, "1", "genatt", "", "-", "", "", None, None, "InputError: no map"),
        Row(2, "2", "genatt", "", "energy", "", "", None, None, "InputError: no mask"),
        Row(3, "3", "genatt", "", "pointing-game", "", "", None, None, "InputError: no peak"),
        Row(4, "4", "-", "", "-", "", "", None, None, "InputError: no picture"),
    ]
    cell = table(tmp_path, rows, ["genatt"], "energy")["genatt", "energy"]
    assert (cell.examples, cell.errors, cell.value) == (1, 2, 0.5)
    assert collect(tmp_path).lost == {"4": "InputError: no picture"}


def test_mean_curves_by_hand(tmp_path):
    head = ("genatt", "", "perturbation", "", "positive-curve")
    curves = [{0.0: 1.0, 0.5: 0.5, 1.0: 0.0}, {0.0: 0.5, 0.5: 0.25, 1.0: 0.25}, {0.0: 0.0}]
    rows = [
        Row(at, str(at), *head, step, value)
        for at, curve in enumerate(curves)
        for step, value in curve.items()
    ]
    rows.append(Row(3, "3", *head, 0.5, None))  # not known, which is not 0
    write_part(tmp_path, 0, rows)
    ((key, methods),) = collect(tmp_path).curves().items()
    assert key == ("perturbation", "positive-curve")
    assert methods["genatt"].steps == (0.0, 0.5, 1.0)
    assert methods["genatt"].values.tolist() == [pytest.approx([0.5, 0.375, 0.125])]


def test_the_best_is_bold_in_the_direction_of_its_quantity(tmp_path):
    rows = [
        *rows_of("genatt", "perturbation", {"positive": [20.0] * 3, "negative": [0.25] * 3}),
        *rows_of("rollout", "perturbation", {"positive": [9.5] * 3, "negative": [0.125] * 3}),
        *rows_of("genatt", "token-f1", {"f1": [0.5], "f1@5": [0.75]} | counts([1], [2], [2])),
    ]
    cells = list(table(tmp_path, rows, ["genatt", "rollout"], "perturbation").values())
    lines = to_markdown(cells).splitlines()
    assert lines[2] == "| method | positive ↓ | negative ↑ | n |"
    # a column with a number of ten or more is of percentages, and has one digit
    assert lines[4] == "| genatt | 20.0 [20.0, 20.0] | **0.250** [0.250, 0.250] | 3 |"
    assert lines[5] == "| rollout | **9.5** [9.5, 9.5] | 0.125 [0.125, 0.125] | 3 |"
    assert r"rollout & \textbf{9.5} [9.5, 9.5] & 0.125 [0.125, 0.125] \\" in to_latex(cells)
    cells = list(table(tmp_path, rows, ["genatt"], "token-f1").values())
    assert "f1@5" in to_csv(cells)
    assert "f1 ↑" in to_markdown(cells)
    assert "@" not in to_markdown(cells) + to_latex(cells)


def test_parts_are_read_in_the_order_of_their_numbers(tmp_path):
    numbers = [3, 100, 20, 0, 11]
    for number in numbers:
        rows = list(rows_of("genatt", "energy", {"energy": [float(number)]}))
        write_part(tmp_path, number, rows)
    values = [row.value for path in parts(tmp_path) for row in read_part(path)]
    assert values == sorted(numbers)


def test_quantities_that_nobody_has_are_left_out_though_a_method_failed(tmp_path):
    metric = "perturbation:preset=wra-image"
    rows = list(rows_of("genatt", metric, {"positive": [1.0, 2.0], "negative": [3.0, 4.0]}))
    failed = [Row(at, str(at), "tam", "", "-", "", "", None, None, "refused") for at in (0, 1)]
    found = table(tmp_path, [*rows, *failed], ["genatt", "tam"], metric)
    assert {quantity for _, quantity in found} == {"positive", "negative"}
    assert found["tam", "positive"].errors == 2
    (tmp_path / "none").mkdir()
    nothing = table(tmp_path / "none", failed, ["tam"], metric)
    assert all(cell.value is None and cell.errors == 2 for cell in nothing.values())
    assert nothing
