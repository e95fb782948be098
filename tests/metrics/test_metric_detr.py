"""DETR segmentation: thresholds and masks against literal loops, AP against COCO's own."""

import contextlib
import io
import json
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image
from tiny.data import draw, write
from tiny.trials import Processor, trial_of
from transformers import DetrConfig, DetrForObjectDetection

import relmap
from relmap.data import DATA
from relmap.data.run_length_masks import decode_mask, encode_mask
from relmap.errors import InputError
from relmap.evaluation import Settings, evaluate
from relmap.metrics.detr_segmentation import (
    average_precision,
    detr_segmentation,
    otsu_threshold,
    segment,
)
from relmap.models import Model
from relmap.targets.detections import detection_query

coco = pytest.importorskip("pycocotools.coco", reason="pycocotools is not installed")
cocoeval = pytest.importorskip("pycocotools.cocoeval")

SIDE = 48


def literal_otsu(values):
    """Every threshold tried, in exact fractions."""
    best, found = Fraction(-1), 0
    for t in range(256):
        low, high = [v for v in values if v <= t], [v for v in values if v > t]
        if low and high:
            means = Fraction(sum(low), len(low)) - Fraction(sum(high), len(high))
            between = Fraction(len(low) * len(high), len(values) ** 2) * means**2
            if between > best:
                best, found = between, t
    return found


@pytest.mark.parametrize("seed", range(12))
def test_otsu_is_the_best_of_all_thresholds(seed):
    generator = np.random.default_rng(seed)
    values = generator.integers(0, 256 if seed % 2 else 9, size=generator.integers(2, 40))
    if seed == 0:
        values[:] = 7
    found = otsu_threshold(torch.tensor(values, dtype=torch.uint8))
    assert found == literal_otsu(values.tolist())


def test_a_mask_is_cut_at_the_features_and_then_dilated():
    scores = torch.tensor([[0.0, 0.1, 0.0], [0.1, 0.9, 1.0], [0.0, 0.0, 0.1]])
    found = segment(scores, (12, 12))
    wanted = torch.zeros(12, 12, dtype=torch.bool)
    # cells (1, 1) and (1, 2); each reaches from the centre of its neighbour to that of the other
    wanted[2:10, 2:12] = True
    assert torch.equal(found, wanted)
    assert torch.equal(segment(-3 * scores + 5, (12, 12)), segment(-scores, (12, 12)))
    assert not segment(torch.full((3, 3), 0.5), (12, 12)).any()


def box(top, left, bottom, right):
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


def annotated(mask, category=1, **more):
    rows, columns = np.nonzero(mask)
    edges = [int(columns.min()), int(rows.min()), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1]
    return {
        "category_id": category,
        "segmentation": encode_mask(mask),
        "area": int(mask.sum()),
        "bbox": edges,
        "iscrowd": 0,
    } | more


def detected(mask, score, category=1):
    return {"category_id": category, "score": score, "segmentation": encode_mask(mask)}


def detail(truth, found):
    return json.dumps({"size": [SIDE, SIDE], "truth": truth, "found": found})


def test_average_precision_by_hand():
    whole, half = box(0, 0, 20, 20), box(0, 0, 20, 10)
    perfect = detail([annotated(whole)], [detected(whole, 0.9)])
    assert average_precision([perfect]) == pytest.approx(1)
    assert average_precision([perfect], recall=True) == pytest.approx(1)
    # IoU is 1/2: right at 0.2, 0.25, ..., 0.5, which are 7 of 16 thresholds
    assert average_precision([detail([annotated(whole)], [detected(half, 0.9)])]) == pytest.approx(
        7 / 16
    )
    # a sure mistake before it: precision 1/2 at every recall
    other = detected(box(30, 30, 40, 40), 0.95)
    assert average_precision(
        [detail([annotated(whole)], [other, detected(whole, 0.9)])]
    ) == pytest.approx(0.5)
    # ... and in another picture it is the same
    assert average_precision([perfect, detail([], [other])]) == pytest.approx(0.5)
    assert average_precision([detail([annotated(whole)], [])]) == 0
    assert np.isnan(average_precision([detail([], [])]))
    assert np.isnan(average_precision([perfect], "large"))


def random_images(count, seed):
    """Objects, and detections that hit some of them more or less."""
    generator = np.random.default_rng(seed)
    images = []
    for _ in range(count):
        truth, found = [], []
        for _ in range(generator.integers(0, 4)):
            top, left = generator.integers(0, 10, 2)
            height, width = generator.integers(8, 44, 2)
            mask = box(top, left, min(top + height, SIDE), min(left + width, SIDE))
            category = int(generator.integers(1, 4))
            truth.append(annotated(mask, category, iscrowd=int(generator.random() < 0.1)))
            for _ in range(generator.integers(0, 3)):
                moved = np.roll(mask, tuple(generator.integers(-6, 7, 2)), (0, 1))
                wrong = generator.random() < 0.2
                found.append(
                    detected(moved, round(generator.random(), 2), 3 if wrong else category)
                )
        images.append((truth, found))
    return images


@pytest.mark.parametrize("seed", range(3))
def test_average_precision_is_that_of_pycocotools(seed):
    images = random_images(12, seed)
    truth = [
        {**one, "image_id": at, "id": 100 * (at + 1) + number}
        for at, (objects, _) in enumerate(images)
        for number, one in enumerate(objects)
    ]
    found = [{**one, "image_id": at} for at, (_, said) in enumerate(images) for one in said]
    known = coco.COCO()
    known.dataset = {
        "images": [{"id": at, "height": SIDE, "width": SIDE} for at in range(len(images))],
        "annotations": truth,
        "categories": [{"id": number} for number in (1, 2, 3)],
    }
    from pycocotools import mask as masks

    for one in found:
        one["segmentation"] = masks.frPyObjects(one["segmentation"], SIDE, SIDE)
    with contextlib.redirect_stdout(io.StringIO()):
        known.createIndex()
        judge = cocoeval.COCOeval(known, known.loadRes(found), "segm")
        judge.params.iouThrs = np.linspace(0.2, 0.95, 16)
        judge.evaluate()
        judge.accumulate()
    details = [detail(*one) for one in images]
    for at, area in ((0, "all"), (2, "medium")):
        precision, recall = judge.eval["precision"][..., at, -1], judge.eval["recall"][..., at, -1]
        wanted = precision[precision > -1].mean()
        assert area != "all" or 0.05 < wanted < 0.95
        assert average_precision(details, area) == pytest.approx(wanted, abs=1e-12)
        wanted = recall[recall > -1].mean()
        assert average_precision(details, area, recall=True) == pytest.approx(wanted, abs=1e-12)


def test_better_masks_score_higher():
    """The direction by meaning: true masks, moved ones, and random ones."""
    truth = [annotated(box(4, 4, 24, 24)), annotated(box(30, 10, 44, 40), 2)]
    masks = [box(4, 4, 24, 24), box(30, 10, 44, 40)]
    found = []
    for shift in (0, 4, 20):
        moved = [np.roll(mask, (shift, shift), (0, 1)) for mask in masks]
        said = [detected(mask, 0.9, at + 1) for at, mask in enumerate(moved)]
        found.append(average_precision([detail(truth, said)]))
    assert found[0] > found[1] > found[2]


def detector(seed=0):
    torch.manual_seed(seed)
    backbone = {
        "model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 8], "depths": [1, 1],
        "layer_type": "basic", "out_features": ["stage2"],
    }  # fmt: skip
    config = DetrConfig(
        backbone_config=backbone, d_model=16, encoder_layers=2, decoder_layers=2,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=32,
        decoder_ffn_dim=32, num_queries=5, num_labels=3, init_std=0.5, init_xavier_std=3.0,
    )  # fmt: skip
    network = DetrForObjectDetection(config).eval()
    with torch.no_grad():
        network.class_labels_classifier.bias[-1] = -9  # it finds something in every query
    labels = {0: "cat", 1: "dog", 2: "cow"}
    return Model(network, "tiny", lambda image: {"pixel_values": torch.stack(image)}, labels)


def test_a_tiny_detector_from_pictures_to_a_table(tmp_path):
    model = detector()
    categories = {7: "dog", 9: "cow", 11: "cat"}
    pictures = [
        relmap.Example(
            str(at),
            image=torch.randn(3, SIDE, SIDE),
            about={"instances": [annotated(box(2, 2, 30, 30), 9)], "categories": categories},
        )
        for at in range(3)
    ]
    for size in (1, 2):
        found = evaluate(
            model, pictures, ["genatt", "random"], ["detr-segmentation:confidence=0.1"],
            output=tmp_path / str(size), settings=Settings(batch_size=size, resamples=20),
        )  # fmt: skip
        assert not found.measurements.errors
        details = found.measurements.details["genatt", "detr-segmentation:confidence=0.1"]
        assert sorted(details) == [0, 1, 2]
        value = found.value("genatt", "detr-segmentation:confidence=0.1", "AP")
        assert value == pytest.approx(average_precision(list(details.values())))
    example, content = pictures[0], json.loads(details[0])
    with torch.no_grad():
        shares = model.network(pixel_values=example.image[None]).logits[0].softmax(-1)[:, :3]
    kept = [(query, int(row.argmax())) for query, row in enumerate(shares) if row.max() > 0.1]
    assert len(kept) == len(content["found"]) > 0
    for (query, choice), said in zip(kept, content["found"], strict=True):
        assert said["category_id"] == {0: 11, 1: 7, 2: 9}[choice]
        assert said["score"] == pytest.approx(shares[query, choice].item(), rel=1e-5)
        one = relmap.explain(
            model.network, pixel_values=example.image[None], method="genatt",
            target=detection_query(query, choice),
        )  # fmt: skip
        wanted = segment(one.image.scores[0].float(), (SIDE, SIDE))
        assert np.array_equal(decode_mask(said["segmentation"], "here"), wanted.numpy())


def test_masks_are_of_the_picture_as_it_was_given_without_what_was_padded():
    model = detector()
    with torch.no_grad():
        model.network.class_labels_classifier.bias[-1] = 0  # "no object" takes its share

    def prepare(image):
        """Half as large, at the upper left of a larger input."""
        pixels, real = torch.zeros(len(image), 3, SIDE, 64), torch.zeros(len(image), SIDE, 64)
        for at, one in enumerate(image):
            small = np.asarray(one.resize((40, 32)), dtype=np.float32).transpose(2, 0, 1) / 255
            pixels[at, :, :32, :40], real[at, :32, :40] = torch.tensor(small), 1
        return {"pixel_values": pixels, "pixel_mask": real.long()}

    drawn = np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8)
    example = relmap.Example("1", image=Image.fromarray(drawn), about={"instances": []})
    inputs = prepare([example.image])
    with torch.no_grad():
        shares = model.network(**inputs).logits[0].softmax(-1)[:, :3].amax(dim=1)
    confidence = shares.sort().values[2:4].mean().item()  # two of five queries are surer
    trial = trial_of(replace(model, prepare=prepare, processor=Processor()), [example])
    found = detr_segmentation(trial, confidence=confidence)
    content = json.loads(found["detail"][0])
    assert content["size"] == [64, 80]
    assert found["detections"].tolist() == [2]
    queries = (shares > confidence).nonzero().flatten().tolist()
    for query, said in zip(queries, content["found"], strict=True):
        assert said["score"] == pytest.approx(shares[query].item(), rel=1e-5)
        target = detection_query(query, said["category_id"])
        one = relmap.explain(model.network, method="genatt", target=target, **inputs)
        inside = segment(one.image.scores[0].float(), (SIDE, 64))[:32, :40].numpy()
        assert 0 < inside.sum() < inside.size
        twice = inside.repeat(2, axis=0).repeat(2, axis=1)
        assert np.array_equal(decode_mask(said["segmentation"], "here"), twice)


@pytest.mark.parametrize(
    ("side", "areas"),
    [(31, {"all"}), (33, {"all", "medium"}), (95, {"all", "medium"}), (97, {"all", "large"})],
)
def test_sizes_are_cocos(side, areas):
    mask = np.zeros((100, 100), dtype=bool)
    mask[:side, :side] = True
    one = {"size": [100, 100], "truth": [annotated(mask)], "found": [detected(mask, 0.9)]}
    found = {
        area: average_precision([json.dumps(one)], area) for area in ("all", "medium", "large")
    }
    assert {area for area, value in found.items() if not np.isnan(value)} == areas
    assert all(found[area] == pytest.approx(1) for area in areas)


def test_what_is_missing_is_said():
    found = evaluate(
        detector(), [relmap.Example("1", image=torch.randn(3, SIDE, SIDE))], ["random"],
        ["detr-segmentation"],
    )  # fmt: skip
    ((said, _),) = found.measurements.errors["random", "detr-segmentation"].items()
    assert "example '1' has no instances" in said


def test_coco_instances_are_read_with_their_pictures(tmp_path):
    for name in ("1.jpg", "COCO_val2014_000000000012.jpg"):
        draw(tmp_path / "val2017" / name)
    content = {
        "images": [{"id": 12, "file_name": "000000000012.jpg"}, {"id": 1, "file_name": "1.jpg"}],
        "categories": [{"id": 3, "name": "cat"}],
        "annotations": [
            {"image_id": 1, "category_id": 3, "segmentation": [[0, 0, 3, 0, 3, 3]], "area": 4.5,
             "bbox": [0, 0, 3, 3], "iscrowd": 0, "id": 5},
        ],
    }  # fmt: skip
    file = tmp_path / "annotations" / "instances_val2017.json"
    write(file, content)
    first, second = DATA.get("coco-instances").function(tmp_path, split="val")
    assert first.name == "COCO_val2014_000000000012"
    assert (first.about["image_id"], first.about["instances"]) == (12, [])
    assert second.about["instances"] == content["annotations"]
    assert second.about["categories"] == {3: "cat"}
    with Image.open(second.image) as picture:
        assert picture.size == (6, 4)
    content["annotations"][0]["category_id"] = 4
    write(file, content)
    with pytest.raises(InputError, match=r"1 of 1 annotations .* entry 0"):
        DATA.get("coco-instances").function(tmp_path)
    with pytest.raises(InputError, match=r"has no instances_train\*\.json"):
        DATA.get("coco-instances").function(tmp_path, split="train")
