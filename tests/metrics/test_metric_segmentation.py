"""Segmentation and its rankings, against scikit-learn, literal loops and maps made to be judged."""

import numpy as np
import pytest
import torch

from relmap.errors import InputError
from relmap.metrics import METRICS, to_mask_size
from relmap.metrics.controls import random_map
from relmap.metrics.precision_recall import average_precision, precision_recall_area
from relmap.metrics.segmentation import segmentation

QUANTITIES = (
    "correct",
    "labelled",
    "intersection-object",
    "union-object",
    "intersection-background",
    "union-background",
)


def maps_and_masks(batch: int = 6, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(batch, 5, 7, generator=generator)
    masks = torch.rand(batch, 20, 21, generator=generator) < 0.3
    masks[:, 0, 0] = True
    return scores, masks


def literal_segmentation(grid: torch.Tensor, mask: torch.Tensor) -> dict[str, float]:
    """Pixel by pixel, for a map of the mask's size."""
    values = [value for line in grid.tolist() for value in line]
    truths = [value for line in mask.tolist() for value in line]
    low, high = min(values), max(values)
    values = [(value - low) / (high - low) if high > low else 0.0 for value in values]
    threshold = sum(values) / len(values)
    found = dict.fromkeys(QUANTITIES, 0.0)
    for value, true in zip(values, truths, strict=True):
        said = value > threshold
        found["labelled"] += 1
        found["correct"] += said == true
        found["intersection-object"] += said and true
        found["union-object"] += said or true
        found["intersection-background"] += not said and not true
        found["union-background"] += not said or not true
    return found


@pytest.mark.parametrize("levels", [0, 2, 5])
def test_average_precision_is_that_of_scikit_learn(levels):
    sklearn = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        scores = torch.rand(3, 40, generator=generator)
        if levels:  # few distinct scores: many ties
            scores = (scores * levels).floor()
        truth = torch.rand(3, 40, generator=generator) < 0.3
        truth[:, 3] = True
        rows = list(zip(truth.numpy(), scores.numpy(), strict=True))
        expected = [sklearn.average_precision_score(true, said) for true, said in rows]
        assert average_precision(scores, truth).tolist() == pytest.approx(expected, abs=1e-12)
        curves = [sklearn.precision_recall_curve(true, said) for true, said in rows]
        expected = [sklearn.auc(recall, precision) for precision, recall, _ in curves]
        assert precision_recall_area(scores, truth).tolist() == pytest.approx(expected, abs=1e-12)


def test_rankings_of_nothing_true_are_not_a_number():
    scores, nothing = torch.rand(2, 5), torch.zeros(2, 5, dtype=torch.bool)
    assert average_precision(scores, nothing).isnan().all()
    assert precision_recall_area(scores, nothing).isnan().all()
    assert average_precision(scores, ~nothing).tolist() == [1.0, 1.0]


def test_average_precision_by_hand():
    scores = torch.tensor([[0.9, 0.8, 0.8, 0.1]])
    truth = torch.tensor([[False, True, False, True]])
    # thresholds 0.9: P 0, R 0; 0.8: P 1/3, R 1/2; 0.1: P 2/4, R 1
    assert average_precision(scores, truth).item() == pytest.approx(1 / 2 / 3 + 1 / 2 / 2)
    area = (1 / 2) * (0 + 1 / 3) / 2 + (1 / 2) * (1 / 3 + 1 / 2) / 2
    assert precision_recall_area(scores, truth).item() == pytest.approx(area)


def test_segmentation_equals_a_literal_loop():
    scores, masks = maps_and_masks()
    found = segmentation(scores, masks)
    large = to_mask_size(scores, masks)
    for at in range(len(scores)):
        expected = literal_segmentation(large[at], masks[at])
        assert {name: found[name][at].item() for name in QUANTITIES} == expected
        iou = expected["intersection-object"] / expected["union-object"]
        assert found["iou"][at].item() == pytest.approx(iou)


def test_precision_is_pooled_as_chefer_does_and_beside_it_the_usual_one():
    sklearn = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    scores, masks = maps_and_masks(seed=1)
    found = segmentation(scores, masks)
    for at, large in enumerate(to_mask_size(scores, masks)):
        drawn = ((large - large.min()) / (large.max() - large.min())).flatten().numpy()
        inside = masks[at].flatten().numpy()
        pair, truth = np.stack([1 - drawn, drawn]), np.stack([~inside, inside])
        expected = sklearn.average_precision_score(truth.ravel(), pair.ravel())
        assert found["average-precision"][at].item() == pytest.approx(expected, abs=1e-6)
        expected = sklearn.average_precision_score(inside, drawn)
        assert found["average-precision-object"][at].item() == pytest.approx(expected, abs=1e-6)


def test_iou_is_that_of_scikit_learn():
    sklearn = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    scores, masks = maps_and_masks(seed=2)
    large = to_mask_size(scores, masks)
    said = large > large.mean(dim=(1, 2), keepdim=True)
    pairs = zip(masks.flatten(1).numpy(), said.flatten(1).numpy(), strict=True)
    expected = [sklearn.jaccard_score(truth, one) for truth, one in pairs]
    assert segmentation(scores, masks)["iou"].tolist() == pytest.approx(expected)


def test_the_number_of_a_data_set_is_made_of_sums():
    entry = METRICS.get("segmentation")
    found = segmentation(*maps_and_masks(seed=3))
    values = {name: value.double().numpy() for name, value in found.items()}
    values = {name: np.append(value, np.nan) for name, value in values.items()}  # one not judged
    sums = {name: np.nansum(value) for name, value in values.items()}
    summary = {name: function(values) for name, function in entry.summary.items()}
    assert summary["pixel-accuracy"] == pytest.approx(sums["correct"] / sums["labelled"])
    object_iou = sums["intersection-object"] / sums["union-object"]
    background_iou = sums["intersection-background"] / sums["union-background"]
    assert summary["mIoU"] == pytest.approx((object_iou + background_iou) / 2)
    assert summary["mAP"] == pytest.approx(np.nanmean(values["average-precision"]))
    nothing = {name: np.full(2, np.nan) for name in values}
    assert all(np.isnan(one(nothing)) for one in entry.summary.values())


def test_a_map_of_the_object_is_best_and_its_opposite_worst():
    entry = METRICS.get("segmentation")
    masks = torch.zeros(4, 28, 28, dtype=torch.bool)
    for at in range(4):
        masks[at, 4 : 12 + at, 6 : 15 + 2 * at] = True
    maps = {
        "right": masks.float(),
        "random": random_map(4, 28, 28, seed=1),
        "wrong": -masks.float(),
    }
    numbers = {}
    for name, scores in maps.items():
        found = segmentation(scores, masks)
        values = {quantity: value.double().numpy() for quantity, value in found.items()}
        means = {quantity: value.mean() for quantity, value in values.items()}
        summary = entry.summary
        numbers[name] = means | {quantity: one(values) for quantity, one in summary.items()}
    for quantity, direction in entry.directions.items():
        assert direction == "higher"
        assert numbers["right"][quantity] == pytest.approx(1.0)
        assert numbers["right"][quantity] > numbers["random"][quantity]
        assert numbers["random"][quantity] > numbers["wrong"][quantity]
    share = masks.double().mean().item()
    assert numbers["random"]["average-precision-object"] == pytest.approx(share, abs=0.05)


@pytest.mark.parametrize("value", [0.0, -3.0, 0.1])
def test_a_constant_map_says_that_there_is_no_object(value):
    masks = torch.zeros(1, 9, 11, dtype=torch.bool)
    masks[0, :3, :4] = True
    found = segmentation(torch.full((1, 4, 5), value), masks)
    background = 1 - 12 / 99
    assert found["correct"].item() == 99 - 12
    assert found["intersection-object"].item() == found["iou"].item() == 0
    expected = background**2 + (1 - background) / 2
    assert found["average-precision"].item() == pytest.approx(expected)
    assert found["average-precision-object"].item() == pytest.approx(12 / 99)


def test_what_is_exactly_the_mean_is_background():
    scores = torch.tensor([[[0.0, 0.5, 0.5, 1.0]]])
    found = segmentation(scores, torch.tensor([[[False, True, False, True]]]))
    assert (found["intersection-object"].item(), found["union-object"].item()) == (1, 2)
    assert (found["correct"].item(), found["iou"].item()) == (3, 0.5)


def test_the_scale_of_a_map_changes_nothing():
    scores, masks = maps_and_masks(seed=4)
    found = segmentation(scores, masks)
    larger = segmentation(scores * 2**20, masks)  # a power of two, which rounds nothing
    assert all(torch.equal(larger[name], value) for name, value in found.items())


def test_what_cannot_be_judged_is_refused():
    with pytest.raises(InputError, match="a mask is empty"):
        segmentation(torch.rand(1, 3, 3), torch.zeros(1, 6, 6, dtype=torch.bool))
    with pytest.raises(InputError, match="NaN or infinite"):
        segmentation(torch.full((1, 3, 3), torch.nan), torch.ones(1, 6, 6, dtype=torch.bool))
