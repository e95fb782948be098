"""The evidence test against the benchmark that it follows, and by its meaning."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import relmap
from relmap.data import Question
from relmap.data.geometry import masks_as_seen
from relmap.data.scenes import SceneEvidence
from relmap.demo import demo_scenes
from relmap.errors import InputError
from relmap.evaluation import Settings, judging
from relmap.evaluation.plan import Plan
from relmap.evaluation.specification import read_method
from relmap.metrics.evidence import evidence, evidence_tokens, word_recall

COUNT = 4


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
        patch.setitem(sys.modules, "evidence", module)
        spec.loader.exec_module(module)
        yield module
    sys.modules.pop("localisation", None)


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


def trial_of(model, examples, method="genatt"):
    plan = Plan((read_method(method),), (), Settings())
    (batch,) = judging._ready(model, list(enumerate(examples)), [])
    explained = judging._explained(model, batch, plan.methods[0], plan)
    return judging._trial(model, batch, plan.methods[0], plan, explained)


@pytest.fixture(scope="module")
def said(model, scenes):
    """What the model answers."""
    inputs = model.prepare(
        image=[one.picture for one in scenes], text=[one.question.text for one in scenes]
    )
    with torch.no_grad():
        chosen = model.network(**inputs).logits.argmax(-1)
    return [model.labels[int(one)] for one in chosen]


def test_it_is_what_the_benchmark_measures(script, model, scenes, said):
    answers = [{one: 1.0} for one in said]
    answers[1] = {"something else": 1.0}
    examples = examples_of(scenes, answers)
    trial = trial_of(model, examples)
    found = evidence(trial)
    kept = [0, 2, 3]
    maps = torch.cat([trial.attribution[at].image.scores.float() for at in kept])
    masks = masks_as_seen([scenes[at].evidence for at in kept], model.processor)
    assert found["pointing"][kept].tolist() == script.pointing(maps, masks)
    assert found["energy"][kept].tolist() == pytest.approx(script.energy(maps, masks), rel=1e-6)
    text = trial.attribution.text
    layout = trial.attribution.layout[text.name]
    hidden = (layout.special | layout.padding)[kept]
    wanted = []
    for at in kept:
        asked = Question("1", Path("1.png"), examples[at].text, {}, (), "", "", 1)
        one = SceneEvidence(asked, (), examples[at].words, "objects")
        wanted.append(script.evidence_tokens(one, model.tokenizer, text.scores.shape[1]))
    recalled = script.word_recall(text.scores[kept], hidden, torch.stack(wanted))
    assert found["words"][kept].tolist() == recalled
    assert all(values[1].isnan() for values in found.values()), "a wrong answer is left out"


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


def test_recall_by_hand():
    scores = torch.tensor([9.0, 0.4, 0.3, 0.2, 0.3, 8.0])
    content = torch.tensor([False, True, True, True, True, False])
    wanted = torch.tensor([True, False, True, False, True, False])
    # two content tokens carry evidence; the best two are the first and, in reading order, the next
    assert word_recall(scores, content, wanted) == 0.5
    assert word_recall(-scores, content, wanted) == 0.5
    assert word_recall(wanted.float(), content, wanted) == 1
    nothing = torch.zeros(6, dtype=torch.bool)
    assert word_recall(scores, content, nothing) != word_recall(scores, content, nothing)
