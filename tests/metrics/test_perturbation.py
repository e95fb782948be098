"""Perturbation tests and their kin, against literal loops and models whose truth is known."""

import math
import re

import pytest
import torch
from tiny.trials import (
    PATCH,
    SIZE,
    Processor,
    judged,
    measured,
    pictures,
    text_model,
    texts,
    trial_of,
    vit,
)
from torch import nn

import relmap
from relmap.errors import InputError
from relmap.evaluation import Settings
from relmap.evaluation.judging import judge
from relmap.evaluation.plan import Plan
from relmap.evaluation.specification import read_method, read_metric
from relmap.metrics import METRICS
from relmap.metrics.perturbation import PRESETS, hidden_units
from relmap.metrics.trial import area
from relmap.models import describe


def literal_curve(model, example, scores, steps, fill, measure, descending=True):
    """One example, one step at a time, as the protocols describe it."""
    pixels = scores.numel() == SIZE * SIZE
    network, image = model.network, example.image
    side = SIZE if pixels else SIZE // PATCH
    cells = scores.reshape(side, side)
    order = sorted(range(side * side), key=lambda cell: (
        -cells.flatten()[cell] if descending else cells.flatten()[cell], cell))  # fmt: skip
    clean = network(pixel_values=image[None]).logits[0]
    chosen = int(clean.argmax())
    curve = []
    for step in steps:
        changed = image.clone()
        for cell in order[: int(round(side * side * step, 9))]:
            row, column = divmod(cell, side)
            cut = SIZE // side
            for colour in range(3):
                value = {"black": 0.0, "mean": Processor.image_mean[colour]}[fill]
                value = (value - Processor.image_mean[colour]) / Processor.image_std[colour]
                changed[colour, row * cut : (row + 1) * cut, column * cut : (column + 1) * cut] = (
                    value
                )
        said = network(pixel_values=changed[None]).logits[0]
        curve.append({
            "agreement": float(said.argmax() == chosen),
            "accuracy": float(said.argmax() == example.label),
            "logit": said[chosen].item(),
            "probability": said.softmax(0)[chosen].item(),
        }[measure])  # fmt: skip
    return curve


def literal_area(steps, curve):
    pairs = zip(
        zip(steps, curve, strict=True), list(zip(steps, curve, strict=True))[1:], strict=False
    )
    return sum((b - a) * (y + z) / 2 for (a, y), (b, z) in pairs)


@pytest.mark.parametrize("measure", ["accuracy", "agreement", "logit", "probability"])
@pytest.mark.parametrize(
    ("preset", "fill", "pixels"), [("wra-image", "black", False), ("chefer-vit", "mean", True)]
)
def test_curves_are_those_of_a_literal_loop(preset, fill, pixels, measure):
    model, examples = vit(), pictures(3, label=2)
    steps = PRESETS[preset].steps
    found = measured(
        model, examples, "genatt", f"perturbation:preset={preset},fill={fill},measure={measure}",
        batch_size=2,
    )  # fmt: skip
    for at, example in enumerate(examples):
        view = relmap.explain(
            model.network, pixel_values=example.image[None], method="genatt"
        ).image.scores
        scores = view.float()
        if pixels:
            scores = nn.functional.interpolate(scores[:, None], (SIZE, SIZE), mode="bilinear")[:, 0]
        for name, descending in (("positive", True), ("negative", False)):
            wanted = literal_curve(
                model, example, scores[0].double(), steps, fill, measure, descending
            )
            curve = [found[f"{name}-curve"][step][at] for step in steps]
            assert curve == pytest.approx(wanted, abs=1e-9)
            wanted_area = 100 * literal_area(steps, wanted)
            assert found[name][None][at] == pytest.approx(wanted_area, abs=1e-7)


def test_the_published_steps_and_counts():
    assert PRESETS["wra-image"].steps == (0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.5, 0.75, 1)
    assert PRESETS["chefer-vit"].steps == pytest.approx([0.1 * step for step in range(10)])
    assert PRESETS["lxmert-text"].steps == (0, 0.25, 0.5, 0.75, 0.8, 0.85, 0.9, 0.95, 1)
    shares = torch.tensor(PRESETS["lxmert-image"].steps, dtype=torch.float64)
    kept = 36 - hidden_units(torch.tensor([[36]]), shares, "kept")
    assert kept.tolist() == [[36, 27, 18, 9, 7, 5, 3, 1, 0]]  # int((1 - s) 36), worked by hand
    pixels = hidden_units(
        torch.tensor([[50176]]), torch.tensor([0.1, 0.7], dtype=torch.float64), "hidden"
    )
    assert pixels.tolist() == [[5017, 35123]]
    assert (
        hidden_units(torch.tensor([[100]]), torch.tensor([0.29], dtype=torch.float64), "hidden")
        == 29
    )


def test_the_published_choices():
    chefer = tuple(round(0.1 * step, 1) for step in range(10))
    written = {
        "wra-image": ("image", "patch", "black", "hidden", "accuracy", 100),
        "wra-text": ("text", "token", "remove", "hidden", "accuracy", 100),
        "chefer-vit": ("image", "pixel", "black", "hidden", "accuracy", 100),
        "bth": ("image", "pixel", "black", "hidden", "accuracy", 100),
        "lxmert-image": ("features", "token", "remove", "kept", "accuracy", 100),
        "lxmert-text": ("text", "token", "remove", "kept", "accuracy", 100),
        "visualbert-image": ("features", "token", "remove", "kept", "accuracy", 100),
        "visualbert-text": ("text", "token", "remove", "kept", "accuracy", 100),
        "srg": ("image", "patch", "mean", "hidden", "logit", 1),
        "mif": ("image", "patch", "mean", "hidden", "agreement", 100),
        "grad-eclip": ("image", "pixel", "noise", "hidden", "accuracy", 100),
    }
    assert {
        name: (one.source, one.unit, one.fill, one.count, one.measure, one.scale)
        for name, one in PRESETS.items()
    } == written
    steps = {
        "bth": chefer,
        "mif": chefer,
        "lxmert-image": (0, 0.25, 0.5, 0.75, 0.8, 0.85, 0.9, 0.95, 1),
        "visualbert-image": (0, 0.5, 0.75, 0.95, 0.96, 0.97, 0.98, 0.99, 1),
        "visualbert-text": (0, 0.25, 0.5, 0.75, 0.8, 0.85, 0.9, 0.95, 1),
        "srg": tuple(round(0.01 * step, 2) for step in range(101)),
        "grad-eclip": (0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5),
    }
    assert {name: PRESETS[name].steps for name in steps} == steps
    assert [name for name, one in PRESETS.items() if one.tail] == ["bth"]
    assert {name: one.insertion for name, one in PRESETS.items() if one.insertion} == {
        "grad-eclip": "black"
    }


@pytest.mark.parametrize("measure", ["accuracy", "agreement", "probability"])
def test_insertion_begins_with_all_hidden_and_deletion_with_all_shown(measure):
    model, examples = vit(), pictures(3, label=1)
    found = measured(model, examples, "genatt", f"perturbation:preset=grad-eclip,measure={measure}")
    assert set(found) == {"deletion", "deletion-curve", "insertion", "insertion-curve"}
    trial = trial_of(model, examples)
    units, steps = trial.units("image", "pixel"), PRESETS["grad-eclip"].steps
    nothing = torch.zeros(3, SIZE * SIZE, dtype=torch.bool)
    fills = {
        name: trial.subject.perturbed(units.source, units.layout, nothing, fill, range(3))
        for name, fill in (("deletion", "noise"), ("insertion", "black"))
    }
    for at, example in enumerate(examples):
        chosen = int(model.network(example.image[None]).logits[0].argmax())
        order = sorted(range(SIZE * SIZE), key=lambda one: (-float(units.scores[at, one]), one))
        for name, filled in fills.items():
            wanted = []
            for step in steps:
                first = order[: math.floor(SIZE * SIZE * step + 1e-9)]
                fill, whole = filled["pixel_values"][at].flatten(1), example.image.flatten(1)
                under, over = (whole, fill) if name == "deletion" else (fill, whole)
                changed = under.clone()
                changed[:, first] = over[:, first]
                said = model.network(changed.view(1, 3, SIZE, SIZE)).logits[0]
                wanted.append({
                    "accuracy": float(said.argmax() == 1),
                    "agreement": float(said.argmax() == chosen),
                    "probability": said.softmax(0)[chosen].item(),
                }[measure])  # fmt: skip
            curve = [found[f"{name}-curve"][step][at] for step in steps]
            assert curve == pytest.approx(wanted, abs=1e-9)
            assert found[name][None][at] == pytest.approx(100 * literal_area(steps, wanted))


def test_the_area_between_both_orders_is_the_least_first_less_the_most_first():
    found = measured(vit(), pictures(2), "genatt", "perturbation:preset=mif")
    for at in range(2):
        between = found["lif"][None][at] - found["mif"][None][at]
        assert found["srg"][None][at] == pytest.approx(between, abs=1e-9)


def test_areas_by_hand():
    # y = 1, 1, 0 over 0, .5, 1: half of it whole, half of it a triangle
    assert area((0.0, 0.5, 1.0), torch.tensor([[1.0, 1.0, 0.0]])).item() == 0.75
    # a constant over Chefer's steps is worth 0.9 of it, over WRA's all of it
    flat = torch.ones(1, 10, dtype=torch.float64)
    assert area(PRESETS["chefer-vit"].steps, flat).item() == pytest.approx(0.9)
    assert area(PRESETS["wra-text"].steps, flat[:, :9]).item() == pytest.approx(1.0)


def test_the_variant_with_a_tail_is_larger_by_a_twentieth_of_the_last_point():
    model, examples = vit(), pictures(2, label=1)
    plain = measured(model, examples, "rollout", "perturbation:preset=chefer-vit")
    tail = measured(model, examples, "rollout", "perturbation:preset=bth")
    for at in range(2):
        last = plain["positive-curve"][0.9][at]
        difference = tail["positive"][None][at] - plain["positive"][None][at]
        assert difference == pytest.approx(0.05 * last * 100, abs=1e-9)


@pytest.mark.parametrize(
    "metric",
    [
        "perturbation:measure=probability,fill=black",
        "perturbation:preset=srg",
        "perturbation:preset=grad-eclip,measure=probability",
        "comprehensiveness:source=image,fill=black",
        "sufficiency:source=image,fill=black",
        "saco:groups=9,fill=black",
    ],
)
def test_the_exact_map_scores_best_in_the_declared_direction(metric):
    torch.manual_seed(3)
    exact, others = torch.rand(6, 9, dtype=torch.float64), torch.rand(6, 9, dtype=torch.float64)
    worth = exact[0].tolist()
    maps = {"exact": exact[:1].expand(6, 9), "reverse": -exact[:1].expand(6, 9), "random": others}
    found = {which: judged(worth, scores, metric) for which, scores in maps.items()}
    name = metric.partition(":")[0]
    directions = METRICS.get(name).directions
    checked = 0
    for quantity, direction in directions.items():
        if quantity not in found["exact"]:
            continue
        best, worst, middle = (
            found[which][quantity].mean().item() for which in ("exact", "reverse", "random")
        )
        sign = 1 if direction == "higher" else -1
        assert sign * best > sign * middle > sign * worst
        checked += 1
    assert checked


@pytest.mark.parametrize("fill", ["remove", "mask-token", "pad-token"])
def test_text_curves_are_those_of_a_literal_loop(fill):
    model, examples = text_model(), texts([7, 3, 5])
    metric = f"perturbation:preset=wra-text,measure=probability,fill={fill}"
    found = measured(model, examples, "genatt", metric)
    for at, example in enumerate(examples):
        tokens = list(map(int, example.text.split()))
        ids = torch.tensor([tokens])
        explained = relmap.explain(model.network, input_ids=ids, method="genatt").scores[
            "input_ids"
        ][0]
        content = list(range(1, len(tokens) - 1))
        order = sorted(content, key=lambda token: (-float(explained[token]), token))
        clean = model.network(input_ids=ids).logits[0].softmax(0)
        for step, value in found["positive-curve"].items():
            gone = order[: math.floor(len(content) * step + 1e-9)]
            if fill == "remove":
                kept = [t for at, t in enumerate(tokens) if at not in gone]
            else:
                stands = {"mask-token": 3, "pad-token": 0}[fill]
                kept = [stands if at in gone else t for at, t in enumerate(tokens)]
            said = model.network(input_ids=torch.tensor([kept])).logits[0].softmax(0)
            assert value[at] == pytest.approx(said[clean.argmax()].item(), abs=1e-9)


def two_streams():
    """A tiny LXMERT with its examples, and what it says of single arguments."""
    from architectures import build

    built = build("LXMERT")
    network = built.network.double()
    inputs = {
        name: value.double() if value.is_floating_point() else value
        for name, value in built.inputs.items()
    }
    batch = len(inputs["input_ids"])
    examples = [
        relmap.Example(str(at), arguments={name: value[at] for name, value in inputs.items()})
        for at in range(batch)
    ]
    return network, examples


@pytest.mark.parametrize("source", ["image", "text"])
def test_boxes_and_words_are_taken_out_as_lxmerts_authors_do(source):
    network, examples = two_streams()
    model = describe(network)
    preset = f"perturbation:preset=lxmert-{source},measure=probability"
    found = measured(model, examples, "genatt", preset)
    for at, example in enumerate(examples):
        alone = {name: value[None] for name, value in example.arguments.items()}
        explained = relmap.explain(network, **alone, method="genatt")
        name = "visual_feats" if source == "image" else "input_ids"
        scores = explained.scores[name][0].double()
        content = explained.layout[name].content[0].nonzero().flatten().tolist()
        order = sorted(content, key=lambda token: (-float(scores[token]), token))
        clean = network(**alone).question_answering_score[0].softmax(0)
        for step, value in found["positive-curve"].items():
            kept = int(round((1 - step) * len(content), 9))
            gone = set(order[: len(content) - kept])
            left = [token for token in content if token not in gone]
            stay = torch.tensor(left or [0])
            names = [
                one for one in alone
                if one.startswith("visual_") == (source == "image") and alone[one].ndim > 1
            ]  # fmt: skip
            cut = {one: value[:, stay] if one in names else value for one, value in alone.items()}
            for one in names if not left else ():  # nothing left: one token of zeros
                if one == name or cut[one].is_floating_point():
                    cut[one] = torch.zeros_like(cut[one])
            said = network(**cut).question_answering_score[0].softmax(0)
            assert value[at] == pytest.approx(said[clean.argmax()].item(), abs=1e-8)


def test_the_same_question_is_asked_once():
    model, examples = vit(), pictures(2, label=0)
    calls = []
    model.network.register_forward_hook(
        lambda module, args, kwargs, output: calls.append(len(output.logits)), with_kwargs=True
    )
    plan = Plan(
        (read_method("genatt"), read_method("rollout")),
        (read_metric("perturbation"), read_metric("perturbation:measure=logit")),
        Settings(batch_size=64),
    )
    judge(model, list(enumerate(examples)), plan)
    asked = sum(calls)
    # 9 cells: steps 0..1 hide 0,0,0,1,1,2,4,6,9: 0 is known from explaining, 9 is shared
    explained, each = 2 * 2, 2 * 2 * 2 * 4
    assert explained < asked <= explained + each + 2


def test_what_a_measure_needs_is_said():
    model = vit()
    plan = Plan((read_method("genatt"),), (read_metric("perturbation"),), Settings())
    rows = judge(model, list(enumerate(pictures(1))), plan)
    assert "has no label" in rows[0].error


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("fill=remove", "does not fit image"),
        ("preset=nothing", "no preset"),
        ("preset=chefer", "Did you mean 'chefer-vit'"),
        ("measure=luck", "measure='luck' is not one of"),
        ("unit=row", "unit='row' is not one of"),
        ("source=text,fill=black", "does not fit text"),
    ],
)
def test_what_names_nothing_is_said_before_anything_runs(options, said):
    with pytest.raises(InputError, match=re.escape(said)):
        read_metric(f"perturbation:{options}")


def test_a_described_network_without_preprocessing_refuses_colours():
    network = vit().network
    plan = Plan((read_method("genatt"),), (read_metric("perturbation"),), Settings())
    rows = judge(describe(network), list(enumerate(pictures(1, label=0))), plan)
    assert "image-mean" in rows[0].error
