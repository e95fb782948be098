"""What stands where an input is hidden, value by value, and which questions are the same one."""

import pytest
import torch
from tiny.towers import clip
from tiny.trials import PATCH, SIZE, Processor, pictures, trial_of, vit
from torch import nn

import relmap
from relmap.metrics.hiding import Subject, blurred
from relmap.models import describe
from relmap.result.layout import Layout
from relmap.targets.answers import TargetContext

HIDDEN = 4  # the cell in the middle of three by three
INSIDE = slice(PATCH, 2 * PATCH)


def seen_with(fill, examples, rows):
    """The pixels that a model gets where the middle cell is hidden, before normalisation."""
    trial = trial_of(vit(), examples)
    units = trial.units("image")
    keep = torch.ones(len(rows), 9, dtype=torch.bool)
    keep[:, HIDDEN] = False
    changed = trial.subject.perturbed(units.source, units.layout, keep, fill, rows)["pixel_values"]
    mean, deviation = (
        torch.tensor(one, dtype=torch.float64)[:, None, None]
        for one in (Processor.image_mean, Processor.image_std)
    )
    around = torch.ones(SIZE, SIZE, dtype=torch.bool)
    around[INSIDE, INSIDE] = False
    whole = trial.subject.arguments["pixel_values"][rows]
    assert torch.equal(changed[:, :, around], whole[:, :, around]), "what is kept stays as it was"
    return (changed * deviation + mean)[:, :, INSIDE, INSIDE]


@pytest.mark.parametrize(
    ("fill", "colour"),
    [("black", [0.0] * 3), ("white", [1.0] * 3), ("mean", Processor.image_mean)],
)
def test_colours_are_those_before_normalisation(fill, colour):
    found = seen_with(fill, pictures(2), [0, 1])
    wanted = torch.tensor(colour, dtype=torch.float64)[None, :, None, None].expand_as(found)
    torch.testing.assert_close(found, wanted)


def test_noise_is_uniform_before_normalisation_and_belongs_to_an_example():
    examples = pictures(3)
    found = seen_with("noise", examples, [0, 1, 2, 0])
    assert found.min() >= 0
    assert found.max() <= 1
    for colour in found.movedim(1, 0):  # 64 draws each: far from both ends in 1 of 10^5
        assert colour.min() < 0.2
        assert colour.max() > 0.8
    assert torch.equal(found[0], found[3])
    assert not torch.equal(found[0], found[1])
    assert torch.equal(seen_with("noise", examples[::-1], [0])[0], found[2])


def test_the_mean_of_the_image_is_of_each_colour_of_each_picture():
    examples = pictures(2)
    trial = trial_of(vit(), examples)
    units = trial.units("image")
    nothing = torch.zeros(2, 9, dtype=torch.bool)
    changed = trial.subject.perturbed(units.source, units.layout, nothing, "image-mean", [1, 0])
    for found, example in zip(changed["pixel_values"], examples[::-1], strict=True):
        for colour, known in zip(found, example.image, strict=True):
            assert colour.flatten().tolist() == pytest.approx([known.mean().item()] * SIZE**2)


def test_blur_is_scipys_gaussian_of_a_sixteenth_of_each_side():
    ndimage = pytest.importorskip("scipy.ndimage")
    picture = torch.rand(2, 3, 24, 40, dtype=torch.float64)
    wanted = ndimage.gaussian_filter(
        picture.numpy(), sigma=(0, 0, 24 / 16, 40 / 16), mode="nearest", truncate=3
    )
    torch.testing.assert_close(blurred(picture), torch.from_numpy(wanted))


def test_every_fill_is_a_question_of_its_own():
    trial = trial_of(vit(), pictures(2))
    units = trial.units("image")
    keep = torch.ones(2, 2, 9, dtype=torch.bool)
    keep[:, 1, HIDDEN] = False
    for fill in ("black", "white", "mean", "noise", "image-mean", "blur"):
        said = trial.respond(units, keep, fill)
        row = trial.subject.perturbed(units.source, units.layout, keep[:, 1], fill, [0, 1])
        alone = trial.subject.network(**row).logits
        wanted = alone.gather(1, trial.subject.explained[:, None])[:, 0]
        torch.testing.assert_close(said.logit[:, 1], wanted)


class Count(nn.Module):
    """Scores the sum of the words against the sum of the boxes."""

    def forward(self, input_ids, visual_feats):
        scores = [input_ids.double().sum(dim=1), visual_feats.sum(dim=(1, 2))]
        return {"logits": torch.stack(scores, dim=1)}


def test_every_source_is_a_question_of_its_own():
    ids = torch.tensor([[1, 20, 300]])
    boxes = torch.tensor([[[4.0], [50.0], [600.0]]], dtype=torch.float64)
    subject = Subject(
        Count(), {"input_ids": ids, "visual_feats": boxes}, 1, torch.tensor([0]), "class", ("1",),
        lambda rows, arguments: TargetContext(rows, arguments),
    )  # fmt: skip
    none = torch.zeros(1, 3, dtype=torch.bool)
    keep = torch.tensor([[[True, False, True]]])
    words, objects = (
        Layout((name,), modality, none, none)
        for name, modality in (("input_ids", "text"), ("visual_feats", "features"))
    )
    assert subject.respond("input_ids", words, keep, "remove").logit.tolist() == [[301.0]]
    assert subject.respond("visual_feats", objects, keep, "remove").logit.tolist() == [[321.0]]


def test_choices_that_do_not_exclude_each_other_have_a_sigmoid_each():
    model = vit()
    model.network.config.problem_type = "multi_label_classification"
    trial = trial_of(describe(model.network), pictures(2))
    units = trial.units("image")
    keep = torch.zeros(2, 1, 9, dtype=torch.bool)
    said = trial.respond(units, keep, "image-mean")
    torch.testing.assert_close(said.probability, said.logit.sigmoid())


def test_a_text_is_scored_beside_its_own_perturbed_picture():
    network, inputs = clip()
    rows = [{name: value[at] for name, value in inputs.items()} for at in range(3)]
    examples = [relmap.Example(str(at), arguments=row) for at, row in enumerate(rows)]
    trial = trial_of(describe(network), examples)
    units = trial.units("image")
    keep = torch.ones(3, 2, units.scores.shape[1], dtype=torch.bool)
    keep[:, 1, 0] = False
    found = trial.respond(units, keep, "image-mean")
    assert found.probability.isnan().all(), "an image-text score is no probability"
    for step in (0, 1):
        fill = "image-mean"
        changed = trial.subject.perturbed(units.source, units.layout, keep[:, step], fill, range(3))
        for at in range(3):
            alone = network(**{name: value[at : at + 1] for name, value in changed.items()})
            wanted = alone.logits_per_image.item()
            assert found.logit[at, step].item() == pytest.approx(wanted, rel=1e-9)
