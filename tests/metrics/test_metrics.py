"""Localisation metrics against literal loops, known maps and controls."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from reference.localisation import (
    energy_by_pixel,
    pointing_game_by_patch,
    pointing_game_by_pixel,
    upsampled,
)
from tiny import trials as tiny_trials
from transformers import ViTImageProcessor

import relmap
from relmap.errors import InputError
from relmap.metrics import METRICS
from relmap.metrics.controls import centre_blob, random_map
from relmap.metrics.energy import energy
from relmap.metrics.pointing_game import pointing_game

SIZES = [((3, 4), (12, 16)), ((5, 5), (23, 31)), ((7, 6), (7, 6)), ((6, 6), (4, 5))]


def random_masks(batch: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    masks = torch.zeros(batch, height, width, dtype=torch.bool)
    generator = torch.Generator().manual_seed(seed)
    for mask in masks:
        top, left = (
            int(torch.randint(0, side - 1, (), generator=generator)) for side in mask.shape
        )
        mask[top : top + height // 2 + 1, left : left + width // 2 + 1] = True
    return masks


@pytest.mark.parametrize(("grid", "size"), SIZES)
def test_metrics_equal_literal_loops(grid, size):
    generator = torch.Generator().manual_seed(3)
    scores = torch.randn(12, *grid, generator=generator, dtype=torch.float64)
    masks = random_masks(12, *size)
    expected = [energy_by_pixel(s, m) for s, m in zip(scores.tolist(), masks.tolist(), strict=True)]
    torch.testing.assert_close(energy(scores, masks), torch.tensor(expected, dtype=torch.float64))
    large = [upsampled(grid, *size) for grid in scores.tolist()]
    for tolerance in (0.0, 1.0, 2.5, 15.0):
        pairs = zip(large, masks.tolist(), strict=True)
        hits = [pointing_game_by_pixel(image, inside, tolerance) for image, inside in pairs]
        found = pointing_game(scores, masks, tolerance=tolerance, peak="pixel")
        assert found.tolist() == hits
    assert pointing_game(scores, masks, tolerance=1000).tolist() == [1.0] * 12


def test_the_peak_of_the_interpolation_is_the_centre_of_the_highest_patch():
    scores, masks = torch.randn(40, 5, 7), random_masks(40, 35, 21)  # odd factors, 7 and 3
    assert torch.equal(
        pointing_game(scores, masks), pointing_game(scores, masks, peak="pixel")
    )  # every patch centre is then the centre of a pixel, and both readings agree
    for height, width in ((40, 56), (33, 50), (3, 4)):
        masks = random_masks(40, height, width)
        for grid, mask in zip(scores, masks, strict=True):
            best = max(range(35), key=lambda cell: grid[cell // 7, cell % 7].item())
            y, x = (best // 7 + 0.5) * height / 5, (best % 7 + 0.5) * width / 7
            hit = pointing_game(grid[None], mask[None]).item()
            assert hit == mask[math.floor(y), math.floor(x)].item()


def test_a_map_equal_to_the_mask_scores_best():
    masks = random_masks(8, 14, 14)
    assert pointing_game(masks.float(), masks).tolist() == [1.0] * 8
    torch.testing.assert_close(energy(masks.float(), masks), torch.ones(8))


def test_a_map_of_patches_that_cover_the_object_loses_only_its_blurred_border():
    mask = torch.zeros(1, 224, 224, dtype=torch.bool)
    mask[:, 64:160, 32:96] = True
    scores = torch.nn.functional.avg_pool2d(mask.float(), 16)
    assert pointing_game(scores, mask).item() == 1.0
    assert 0.85 < energy(scores, mask).item() < 1.0


def test_random_relevance_scores_the_area_of_the_mask():
    draws = 3000
    mask = torch.zeros(1, 64, 64, dtype=torch.bool)
    mask[:, 16:40, 8:56] = True  # whole patches of 8 x 8
    area = mask.float().mean().item()
    maps, masks = random_map(draws, 8, 8, seed=5), mask.expand(draws, -1, -1)
    for values in (energy(maps, masks), pointing_game(maps, masks)):
        standard_error = values.std().item() / math.sqrt(draws)
        assert abs(values.mean().item() - area) < 4 * standard_error


@pytest.mark.parametrize("name", METRICS.names())
def test_every_metric_declares_itself(name):
    entry = METRICS.get(name)
    assert entry.reference
    assert entry.about


@pytest.mark.parametrize("name", [e.name for e in METRICS.entries() if e.needs == ("mask",)])
def test_the_direction_means_what_it_says(name):
    entry = METRICS.get(name)
    masks = random_masks(40, 14, 14)
    noise = random_map(40, 14, 14, seed=2)
    right, wrong = masks * noise, ~masks * noise
    best, worst = (entry.function(maps, masks) for maps in (right, wrong))
    if isinstance(best, torch.Tensor):
        best, worst = {name: best}, {name: worst}
    directions = entry.directions
    judged = [quantity for quantity in directions if quantity in best]
    assert judged
    for quantity in judged:
        gap = (best[quantity] - worst[quantity]).mean().item()
        assert gap > 0.5 if directions[quantity] == "higher" else gap < -0.5


def test_negative_relevance_counts_for_nothing():
    mask = torch.tensor([[[True, True], [False, False]]])
    scores = torch.tensor([[[3.0, -9.0], [1.0, -5.0]]])
    torch.testing.assert_close(energy(scores, mask), torch.tensor([0.75]))


def test_maps_without_a_statement_score_nothing():
    mask = torch.ones(3, 32, 32, dtype=torch.bool)
    scores = torch.stack([torch.zeros(4, 4), torch.full((4, 4), -2.0), torch.full((4, 4), 0.3)])
    assert energy(scores, mask).tolist() == pytest.approx([0.0, 0.0, 1.0])
    assert pointing_game(scores, mask).tolist() == [0.0, 0.0, 0.0]
    assert pointing_game(scores, mask, tolerance=100).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("factor", [1e-30, 1e-3, 1e37])
def test_metrics_do_not_depend_on_the_scale_of_a_map(factor):
    scores, masks = random_map(4, 5, 5), random_masks(4, 40, 40)
    torch.testing.assert_close(energy(scores * factor, masks), energy(scores, masks))
    assert torch.equal(pointing_game(scores * factor, masks), pointing_game(scores, masks))


def test_a_batch_equals_its_singles():
    scores, masks = torch.randn(6, 7, 7), random_masks(6, 50, 30)
    for metric in (energy, pointing_game):
        singles = [metric(scores[i : i + 1], masks[i : i + 1]) for i in range(6)]
        torch.testing.assert_close(metric(scores, masks), torch.cat(singles))


def test_half_precision_maps_are_scored_in_float32():
    scores, masks = random_map(3, 5, 5).bfloat16(), random_masks(3, 33, 33)
    assert energy(scores, masks).dtype == torch.float32
    assert torch.equal(energy(scores, masks), energy(scores.float(), masks))
    assert torch.equal(pointing_game(scores, masks), pointing_game(scores.float(), masks))


@pytest.mark.parametrize("metric", [energy, pointing_game])
def test_maps_and_masks_that_cannot_be_judged_are_refused(metric):
    scores, mask = torch.rand(2, 3, 3), torch.ones(2, 6, 6, dtype=torch.bool)
    with pytest.raises(InputError, match="one map and one mask"):
        metric(scores, mask[:1])
    with pytest.raises(InputError, match="empty"):
        metric(scores, mask & torch.tensor([True, False])[:, None, None])
    with pytest.raises(InputError, match="'patch' or 'pixel'"):
        pointing_game(scores, mask, peak="top")
    for value in (math.nan, math.inf, -math.inf):
        with pytest.raises(InputError, match="NaN or infinite"):
            metric(torch.where(torch.eye(3) > 0, value, scores), mask)


@pytest.mark.parametrize("tolerance", [-1.0, math.nan, math.inf])
def test_a_tolerance_is_a_distance(tolerance):
    with pytest.raises(InputError, match="tolerance"):
        pointing_game(torch.rand(1, 3, 3), torch.ones(1, 6, 6).bool(), tolerance=tolerance)


def test_controls_are_what_they_say():
    assert torch.equal(random_map(2, 3, 4, seed=7), random_map(2, 3, 4, seed=7))
    assert not torch.equal(random_map(2, 3, 4, seed=7), random_map(2, 3, 4, seed=8))
    blob = centre_blob(2, 9, 15)
    assert blob.shape == (2, 9, 15)
    assert blob[1].argmax().item() == 4 * 15 + 7
    torch.testing.assert_close(blob, blob.flip(1, 2))
    for y, x in ((0, 0), (2, 11)):
        down, across = (y - 4) / 9, (x - 7) / 15
        expected = math.exp(-(down**2 + across**2) / (2 * 0.25**2))
        assert blob[0, y, x].item() == pytest.approx(expected)
    with pytest.raises(InputError):
        centre_blob(1, 0, 3)
    with pytest.raises(InputError):
        centre_blob(1, 3, 3, spread=0.0)


class Cropping(ViTImageProcessor):
    """Shows the model the upper left part of a picture."""

    def preprocess(self, images, **options):
        box = (0, 0, tiny_trials.SIZE, tiny_trials.SIZE)
        return super().preprocess([image.crop(box) for image in images], **options)


@pytest.fixture
def cropping():
    """A model that sees the upper left part, and pictures whose red object may lie beside it."""
    processor = Cropping(size={"height": tiny_trials.SIZE, "width": tiny_trials.SIZE})

    def prepare(image):
        return {"pixel_values": processor(image, return_tensors="pt")["pixel_values"].double()}

    model = replace(tiny_trials.vit(), prepare=prepare, processor=processor)
    masks = torch.zeros(4, 24, 30, dtype=torch.bool)
    for mask, (top, left) in zip(masks, [(0, 0), (3, 5), (14, 2), (7, 8)], strict=True):
        mask[top : top + 6, left : left + 4] = True
    pixels = [mask[:, :, None].numpy() * np.array([255, 0, 0], np.uint8) for mask in masks]
    examples = [
        relmap.Example(str(at), image=Image.fromarray(one), mask=lambda at=at: masks[at])
        for at, one in enumerate(pixels)
    ]
    return model, examples, masks[:, : tiny_trials.SIZE, : tiny_trials.SIZE].tolist()


@pytest.mark.parametrize(
    ("metric", "literal"), [("energy", energy_by_pixel), ("pointing-game", pointing_game_by_patch)]
)
@pytest.mark.parametrize("method", ["genatt", "rollout", "centre-blob"])
def test_an_evaluation_judges_what_is_in_view(cropping, method, metric, literal):
    model, examples, masks = cropping
    found = tiny_trials.measured(model, examples, method, metric)[metric][None]
    assert found[2] is None, "its object is out of view"
    if method == "centre-blob":  # three patches a side, and a spread of a quarter
        blob = [[math.exp(-8 / 9 * (y * y + x * x)) for x in (-1, 0, 1)] for y in (-1, 0, 1)]
        maps = [blob] * 4
    else:
        pictures = [example.image for example in examples]
        maps = relmap.explain(model, image=pictures, method=method).image.scores.tolist()
    for at in (0, 1, 3):
        assert found[at] == pytest.approx(literal(maps[at], masks[at]), rel=1e-5)


def test_classes_that_are_out_of_view_are_not_in_the_picture(cropping):
    model, examples, _ = cropping
    seen, hidden = examples[1].mask(), examples[2].mask()
    example = replace(examples[1], regions=lambda: {7: seen, 9: hidden})
    again = tiny_trials.trial_of(model, [examples[0], example]).again
    regions = again.regions(1, "pixel_values")
    side = tiny_trials.SIZE
    assert list(regions) == [7]
    assert torch.equal(regions[7], seen[:side, :side])
    assert again.regions(0, "pixel_values") == {}
