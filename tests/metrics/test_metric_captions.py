"""The whole-caption test, on a captioner that comes with relmap, against a literal loop."""

import json
import math
from copy import copy
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from tiny.trials import pictures, trial_of, vit

import relmap
from clipmapper.demo import demo_scenes
from relmap.errors import InputError
from relmap.evaluation.questions import Asker, _scorer
from relmap.metrics.ref_clip_score import STEPS, kept_patches, ref_clip_score

LONGEST = 8  # tokens: enough to differ, and quick
REFERENCES = ("a small red circle", "a picture with some shapes")


@pytest.fixture(scope="module")
def model():
    return relmap.load("demo:b-captions")


@pytest.fixture(scope="module")
def examples(model):
    """Two pictures, with what the model itself writes of them among the references."""
    pictures = [one.picture for one in demo_scenes(2)]
    return [
        relmap.Example(str(at), image=picture, captions=(written(model, picture), *REFERENCES))
        for at, picture in enumerate(pictures)
    ]


def written(model, picture=None, pixels=None):
    if pixels is None:
        pixels = model.prepare(image=[picture])["pixel_values"]
    found = model.network.generate(pixel_values=pixels, do_sample=False, max_new_tokens=LONGEST)
    return model.tokenizer.decode(found[0], skip_special_tokens=True).strip()


def literal_curve(model, example, scores, descending):
    """One picture, one step at a time."""
    scorer = _scorer("demo:clip", "cpu")
    pixels = model.prepare(image=[example.image])["pixel_values"]
    side = int(math.sqrt(len(scores)))
    cut = pixels.shape[-1] // side
    order = sorted(range(len(scores)), key=lambda c: (-scores[c] if descending else scores[c], c))
    normal = getattr(model.processor, "image_processor", model.processor)
    black = -torch.tensor(normal.image_mean) / torch.tensor(normal.image_std)
    curve = []
    for step in STEPS:
        changed = pixels.clone()
        for cell in order[: int(round(len(scores) * step, 9))]:
            row, column = divmod(cell, side)
            rows, columns = (
                slice(row * cut, (row + 1) * cut),
                slice(column * cut, (column + 1) * cut),
            )
            changed[0, :, rows, columns] = black[:, None, None]
        text = written(model, pixels=changed)
        value = scorer.score([example.image], [text], [example.captions])
        curve.append(value.item())
    return curve


def test_curves_are_those_of_a_literal_loop(model, examples):
    trial = trial_of(model, examples, "rollout")
    found = ref_clip_score(trial, longest=LONGEST)
    example = examples[1]
    whole = relmap.explain_caption(
        model, image=example.image, method="rollout", max_new_tokens=LONGEST
    ).whole
    scores = whole.image.scores.flatten().tolist()
    for name, descending in (("positive", True), ("negative", False)):
        wanted = literal_curve(model, example, scores, descending)
        values = found[f"{name}-curve"].values[1]
        assert values.tolist() == pytest.approx(wanted, abs=1e-4)
        pairs = list(zip(STEPS, wanted, strict=True))
        area = sum((t - s) * (y + z) / 2 for (s, y), (t, z) in pairwise(pairs))
        assert found[name][1].item() == pytest.approx(area, abs=1e-4)
    # alone or in a batch, an example has the same numbers
    alone = ref_clip_score(trial_of(model, examples[1:], "rollout"), longest=LONGEST)
    assert alone["positive"].item() == pytest.approx(found["positive"][1].item(), abs=1e-6)
    assert torch.equal(found["positive-curve"].values[:, 0], found["score"])
    assert torch.equal(found["negative-curve"].values[:, -1], found["positive-curve"].values[:, -1])


def test_weightings_are_those_of_explain_caption(model, examples, tmp_path):
    trial = trial_of(model, examples[:1], "rollout")
    one = examples[0]
    equal = trial.again.caption(0, "equal", "", LONGEST)
    rouge = trial.again.caption(0, "rouge-l", "", LONGEST)
    wanted = relmap.explain_caption(
        model,
        image=one.image,
        method="rollout",
        weighting="rouge-l",
        references=one.captions,
        max_new_tokens=LONGEST,
    )
    assert torch.allclose(rouge.image.scores, wanted.whole.image.scores)
    assert not torch.allclose(rouge.image.scores, equal.image.scores)
    corpus = tmp_path / "captions.json"
    texts = [*one.captions, "a large blue star", "nothing"]
    entries = [{"image_id": at, "caption": text} for at, text in enumerate(texts)]
    corpus.write_text(json.dumps({"annotations": entries}))
    cider = trial.again.caption(0, "cider", str(corpus), LONGEST)
    assert cider.image.scores.shape == equal.image.scores.shape
    with pytest.raises(InputError, match="corpus"):
        trial.again.caption(0, "cider", "", LONGEST)


def test_a_caption_is_explained_with_the_options_of_the_method(model, examples):
    again = trial_of(model, examples[:1], "rollout:start_layer=1").again
    found = again.caption(0, "equal", "", 3).image.scores
    given = {"image": examples[0].image, "method": "rollout", "max_new_tokens": 3}
    first, second = (
        relmap.explain_caption(model, start_layer=layer, **given).whole.image.scores
        for layer in (0, 1)
    )
    assert torch.allclose(found, second)
    assert not torch.allclose(found, first)


def test_every_weighting_is_served_by_one_explanation(model, examples):
    wanted = {
        weighting: trial_of(model, examples, "rollout").again.caption(1, weighting, "", LONGEST)
        for weighting in ("equal", "rouge-l", "bleu-4")
    }
    trial = trial_of(model, examples, "rollout")
    passes = []
    handle = model.network.register_forward_pre_hook(lambda module, inputs: passes.append(1))
    try:
        first = trial.again.caption(1, "equal", "", LONGEST)
        explained = len(passes)
        more = [trial.again.caption(1, name, "", LONGEST) for name in ("rouge-l", "bleu-4")]
        assert len(passes) == explained > 0
        trial.again.caption(1, "equal", "", LONGEST - 1)
        trial.again.caption(0, "equal", "", LONGEST)
    finally:
        handle.remove()
    assert len(passes) > 2 * explained, "another length or picture is another caption"
    for found, known in zip([first, *more], wanted.values(), strict=True):
        assert torch.equal(found.image.scores, known.image.scores)


def test_hiding_what_is_shown_hurts_most(model, examples):
    """The direction by meaning: a map of the objects against the same turned round."""
    trial = trial_of(model, examples, "rollout")
    background = [picture_background(example.image) for example in examples]

    class Known(Asker):
        """A caption's relevance that is known: how much of a patch is no background."""

        def caption(self, at, weighting, documents, most):
            like = super().caption(at, weighting, documents, most)
            name = like.image.name
            scores = torch.zeros_like(like.scores[name])
            scores[:, like.layout[name].patches] = self.sign * background[at].to(scores)
            return replace(like, scores=like.scores | {name: scores})

    right, wrong = (
        ref_clip_score(
            replace(trial, again=standing_in(trial.again, Known, sign=sign)), longest=LONGEST
        )
        for sign in (1.0, -1.0)
    )
    assert right["positive"].mean() < wrong["positive"].mean()
    assert right["negative"].mean() > wrong["negative"].mean()


def standing_in(asker, kind, **more):
    """The same asker as another kind that answers some questions itself."""
    twin = copy(asker)
    twin.__class__ = kind
    vars(twin).update(more)
    return twin


def picture_background(picture, cells=7):
    """The share of each cell's pixels that differ from the commonest colour."""
    import numpy as np

    pixels = torch.from_numpy(np.asarray(picture).astype("int64"))
    code = (pixels[..., 0] // 16 * 256 + pixels[..., 1] // 16 * 16 + pixels[..., 2] // 16).float()
    differs = (code != code.flatten().mode().values).float()[None]
    return torch.nn.functional.adaptive_avg_pool2d(differs, cells).flatten()


def test_shares_of_patches_by_hand():
    keep = kept_patches(torch.arange(49)[None], STEPS)
    assert (~keep).sum(-1).tolist() == [[0, 2, 4, 7, 9, 12, 24, 36, 49]]
    assert not keep[0, 1, :2].any()
    assert keep[0, 1, 2:].all()


def test_what_is_missing_is_said(model, examples):
    trial = trial_of(model, [replace(examples[0], captions=())], "rollout")
    with pytest.raises(InputError, match="example '0' has no captions"):
        ref_clip_score(trial, longest=2)
    with pytest.raises(InputError, match="longest=0"):
        ref_clip_score(trial, longest=0)


class Told(Asker):
    """Answers of no meaning, and a note of what was asked."""

    def arguments(self, at):
        return {"pixel_values": self.trial.examples[at].image[None]}

    def caption(self, at, *given):
        self.asked.append(("caption", at, *given))
        return self.trial.attribution[at]

    def write(self, changed, at, most):
        self.asked.append(("write", at, most, changed["pixel_values"]))
        return [str(number) for number in range(len(changed["pixel_values"]))]

    def fit(self, at, captions, clip):
        self.asked.append(("fit", at, clip))
        return torch.arange(len(captions)).double()


@pytest.mark.parametrize("fill", ["white", "noise"])
def test_every_option_arrives_and_every_picture_has_its_own_fill(fill):
    trial = trial_of(vit(), pictures(2))
    again = standing_in(trial.again, Told, trial=trial, asked=[])
    told = {"weighting": "cider", "documents": "captions.json", "clip": "mine", "longest": 7}
    ref_clip_score(replace(trial, again=again), fill=fill, **told)
    units = trial.units("image")
    nothing = torch.zeros(2, 9, dtype=torch.bool)
    hidden = trial.subject.perturbed(units.source, units.layout, nothing, fill, [0, 1])
    for at in (0, 1):
        caption, write, fit = again.asked[3 * at : 3 * at + 3]
        assert caption == ("caption", at, "cider", "captions.json", 7)
        assert (write[:3], fit) == (("write", at, 7), ("fit", at, "mine"))
        assert any(torch.equal(one, hidden["pixel_values"][at]) for one in write[3])
        assert any(torch.equal(one, trial.examples[at].image) for one in write[3])
