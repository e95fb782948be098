"""Localisation metrics against literal loops, known maps and controls; and their benchmark."""

import importlib.util
import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from relmap.errors import InputError, TraceError
from relmap.metrics import METRICS
from relmap.metrics.controls import centre_blob, random_map
from relmap.metrics.energy import energy
from relmap.metrics.pointing_game import pointing_game

SIZES = [((3, 4), (12, 16)), ((5, 5), (23, 31)), ((7, 6), (7, 6)), ((6, 6), (4, 5))]


def literal_upsampling(grid: list[list[float]], height: int, width: int) -> list[list[float]]:
    """Bilinear interpolation between patch centres, pixel by pixel."""
    rows, columns = len(grid), len(grid[0])

    def at(pixel: int, pixels: int, patches: int) -> tuple[int, int, float]:
        place = (pixel + 0.5) * patches / pixels - 0.5
        place = min(max(place, 0.0), patches - 1.0)
        low = min(int(place), patches - 1)
        return low, min(low + 1, patches - 1), place - low

    image = []
    for y in range(height):
        top, bottom, down = at(y, height, rows)
        line = []
        for x in range(width):
            left, right, across = at(x, width, columns)
            upper = grid[top][left] * (1 - across) + grid[top][right] * across
            lower = grid[bottom][left] * (1 - across) + grid[bottom][right] * across
            line.append(upper * (1 - down) + lower * down)
        image.append(line)
    return image


def literal_pointing_game(image, mask, tolerance: float) -> float:
    """For a map that has already the size of the mask."""
    best, peak = -math.inf, (0, 0)
    for y, line in enumerate(image):
        for x, value in enumerate(line):
            if value > best:
                best, peak = value, (y, x)
    for y, line in enumerate(mask):
        for x, inside in enumerate(line):
            if inside and math.dist((y, x), peak) <= tolerance:
                return 1.0
    return 0.0


def literal_energy(grid, mask) -> float:
    clamped = [[max(value, 0.0) for value in line] for line in grid]
    image = literal_upsampling(clamped, len(mask), len(mask[0]))
    inside = total = 0.0
    for line, truth in zip(image, mask, strict=True):
        for value, is_inside in zip(line, truth, strict=True):
            total += value
            inside += value if is_inside else 0.0
    return inside / total if total > 0 else 0.0


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
    expected = [literal_energy(s, m) for s, m in zip(scores.tolist(), masks.tolist(), strict=True)]
    torch.testing.assert_close(energy(scores, masks), torch.tensor(expected, dtype=torch.float64))
    large = [literal_upsampling(grid, *size) for grid in scores.tolist()]
    for tolerance in (0.0, 1.0, 2.5, 15.0):
        pairs = zip(large, masks.tolist(), strict=True)
        hits = [literal_pointing_game(image, inside, tolerance) for image, inside in pairs]
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
    direction = entry.metadata["direction"]
    ways = {direction} if isinstance(direction, str) else set(direction.values())
    assert ways
    assert ways <= {"higher", "lower"}
    assert entry.needs[:1] in [("mask",), ("words",), ("model",)]
    assert entry.metadata["category"] in (
        "faithfulness",
        "localisation",
        "plausibility",
        "randomisation",
    )
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
    directions = entry.metadata["direction"]
    directions = {name: directions} if isinstance(directions, str) else directions
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


@pytest.fixture(scope="module")
def script():
    path = Path(__file__).parents[1] / "benchmarks" / "localisation.py"
    if not path.exists():
        pytest.skip("the benchmarks folder is not beside the tests")
    spec = importlib.util.spec_from_file_location("localisation", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["localisation"] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    yield module
    del sys.modules["localisation"]


@pytest.fixture
def folder(tmp_path):
    """Five pictures with a red rectangle on black, and the rectangle as mask."""
    entries = []
    for number, mask in enumerate(random_masks(5, 60, 80, seed=4)):
        inside = mask.numpy()[:, :, None].astype("uint8")
        Image.fromarray(inside * np.array([255, 0, 0], "uint8")).save(tmp_path / f"{number}.png")
        Image.fromarray(inside[:, :, 0] * 255).save(tmp_path / f"{number}m.png")
        entries.append({"image": f"{number}.png", "mask": f"{number}m.png"})
    (tmp_path / "manifest.json").write_text(json.dumps(entries))
    return tmp_path


class FakeProcessor:
    """Takes the upper left quarter, and doubles what it is given unless told not to rescale."""

    def preprocess(self, images, **options):
        if options.get("resample") != Image.Resampling.NEAREST or options["do_rescale"]:
            raise AssertionError("a mask is to be sampled without mixing and rescaling")
        arrays = [np.asarray(image.crop((0, 0, 40, 30))).copy() for image in images]
        return {"pixel_values": torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)}

    __call__ = preprocess


def fake_explain(model, *, image, method, sign=1):
    if method == "refused":
        raise TraceError("no attention was seen")
    red = [np.asarray(picture.crop((0, 0, 40, 30)))[:, :, 0] / 255.0 for picture in image]
    maps = torch.from_numpy(np.stack(red)).float()
    ramp = torch.linspace(1.0, 1.1, 30 * 40).reshape(30, 40)
    maps = maps * ramp if sign > 0 else (1 - maps) * ramp
    return SimpleNamespace(image=SimpleNamespace(scores=maps))


def test_the_benchmark_scores_every_run_beside_the_controls(script, folder):
    from relmap.data import DATA

    samples = DATA.get("segmentation-folder").function(folder)
    masks = [sample.open_mask()[:30, :40] for sample in samples]
    visible = [mask for mask in masks if mask.any()]
    runs = [script.Run("right"), script.Run("right", {"sign": -1}), script.Run("refused")]
    model = SimpleNamespace(processor=FakeProcessor())
    results = script.measure(samples, runs, model=model, explain=fake_explain, batch_size=2)
    assert list(results) == ["random control", "centre blob", "right", "right:sign=-1", "refused"]
    assert results["right"].pointing == [1.0] * len(visible)
    assert results["right"].energy == pytest.approx([1.0] * len(visible))
    assert results["right:sign=-1"].energy == pytest.approx([0.0] * len(visible))
    areas = np.mean([mask.float().mean() for mask in visible])
    assert np.mean(results["random control"].energy) == pytest.approx(areas, abs=0.03)
    assert len(results["centre blob"].pointing) == len(visible)
    text = script.table(results)
    assert "| right | 1.000 [1.000, 1.000] | 1.000 [1.000, 1.000] |" in text
    assert "| refused | no attention was seen | | 0 | |" in text


def test_the_interval_holds_the_mean_and_narrows_with_more_values(script):
    values = torch.randn(400, generator=torch.Generator().manual_seed(0)).tolist()
    low, high = script.interval(values)
    assert low < np.mean(values) < high
    assert high - low == pytest.approx(2 * 1.96 * np.std(values) / math.sqrt(400), rel=0.1)
    few_low, few_high = script.interval(values[:25])
    assert few_high - few_low > high - low


def test_variants_are_read_from_the_command_line(script):
    run = script.parse_variant("GenAtt:start_layer=1")
    assert (run.method, run.options, run.name) == (
        "genatt",
        {"start_layer": 1},
        "genatt:start_layer=1",
    )
    assert script.parse_variant("genatt") == script.Run("genatt")
    with pytest.raises(InputError, match="no option of genatt"):
        script.parse_variant("genatt:nonsense=1")


def test_the_command_line_writes_the_table(script, folder, monkeypatch, capsys):
    model = SimpleNamespace(processor=FakeProcessor())
    monkeypatch.setattr(script.relmap, "load", lambda name: model, raising=False)
    monkeypatch.setattr(script.relmap, "explain", fake_explain, raising=False)
    output = folder / "table.md"
    script.main(["a-model", str(folder), "--method", "genatt", "--output", str(output)])
    printed = capsys.readouterr().out
    assert output.read_text() == printed
    assert [line.split(" | ")[0] for line in printed.splitlines()][2:] == [
        "| centre blob",
        "| random control",
        "| genatt",
    ]
