"""Data formats: what they read, what they refuse, and masks that follow the image."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from relmap.data import DATA
from relmap.data.geometry import masks_as_seen
from relmap.data.image_folder import image_folder
from relmap.data.segmentation_folder import segmentation_folder
from relmap.errors import InputError


def picture(height: int = 40, width: int = 60, *, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def rectangle(height: int, width: int) -> np.ndarray:
    """A mask that is symmetric in no way, so that flips and shifts show."""
    inside = np.zeros((height, width), dtype=bool)
    inside[height // 5 : height // 2, width // 3 : width // 3 + width // 4] = True
    return inside


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    entries = []
    for number in (2, 1):
        picture(seed=number).save(tmp_path / f"images/{number}.png")
        mask = Image.fromarray(rectangle(40, 60).astype("uint8") * 255)
        mask.save(tmp_path / f"masks/{number}.png")
        entries.append(
            {
                "image": f"images/{number}.png",
                "mask": f"masks/{number}.png",
                "imagenet_class": number,
                "imagenet_name": f"class {number}",
                "categories": ["a"],
            }
        )
    (tmp_path / "manifest.json").write_text(json.dumps(entries))
    return tmp_path


def test_a_segmentation_folder_is_read_in_the_order_of_its_manifest(folder):
    samples = DATA.get("segmentation_folder").function(str(folder))
    assert [sample.name for sample in samples] == ["2", "1"]
    assert [sample.label for sample in samples] == [2, 1]
    assert samples[0].label_name == "class 2"
    assert samples[0].about["categories"] == ["a"]
    assert samples[0].open_image().tobytes() == picture(seed=2).tobytes()
    assert torch.equal(samples[0].open_mask(), torch.from_numpy(rectangle(40, 60)))


def test_a_missing_folder_and_a_missing_manifest_are_named(tmp_path):
    with pytest.raises(InputError, match=r"no folder .*nowhere"):
        segmentation_folder(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"no manifest\.json"):
        segmentation_folder(tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not JSON"),
        ("{}", "must be a JSON list"),
        ("[]", "at least one entry"),
        ('["1.png"]', 'entry 0 .* no "image"'),
        ('[{"image": "images/1.png"}]', 'entry 0 .* no "mask"'),
        ('[{"image": "images/1.png", "mask": 3}]', 'no "mask"'),
    ],
)
def test_a_bad_manifest_is_refused(folder, text, words):
    (folder / "manifest.json").write_text(text)
    with pytest.raises(InputError, match=words):
        segmentation_folder(folder)


def test_missing_files_are_counted_and_the_first_are_named(folder):
    entries = [{"image": f"images/{n}.png", "mask": "masks/1.png"} for n in (1, 3, 4, 5, 6)]
    (folder / "manifest.json").write_text(json.dumps(entries))
    with pytest.raises(InputError) as caught:
        segmentation_folder(folder)
    message = str(caught.value)
    assert "4 of 5 images" in message
    assert "3.png" in message
    assert "5.png, ..." in message
    assert "6.png" not in message
    (folder / "masks/2.png").unlink()
    (folder / "manifest.json").write_text(
        '[{"image": "images/1.png", "mask": "masks/1.png"},'
        ' {"image": "images/2.png", "mask": "masks/2.png"}]'
    )
    with pytest.raises(InputError, match="1 of 2 masks"):
        segmentation_folder(folder)


@pytest.mark.parametrize("mode", ["1", "L", "P", "I;16", "RGB", "RGBA"])
def test_masks_are_true_wherever_the_file_is_not_zero(folder, mode):
    inside = rectangle(40, 60)
    grey = Image.fromarray(inside.astype("uint8") * 255)
    if mode == "P":  # label 1 of a palette whose colour 1 is black: the label counts
        mask = Image.fromarray(inside.astype("uint8"))
        mask.putpalette([255, 255, 255, 0, 0, 0])
    elif mode == "I;16":
        mask = Image.fromarray(inside.astype("uint16") * 700)
    else:
        mask = grey.convert(mode)
    mask.save(folder / "masks/2.png")
    assert torch.equal(segmentation_folder(folder)[0].open_mask(), torch.from_numpy(inside))


def test_unreadable_and_ill_fitting_files_are_refused(folder):
    (folder / "images/2.png").write_bytes(b"not a picture")
    (folder / "images/1.png").write_bytes((folder / "images/1.png").read_bytes()[:2000])
    second, first = segmentation_folder(folder)
    for sample in (first, second):
        with pytest.raises(InputError, match="cannot be read"):
            sample.open_image()
    picture(30, 60).save(folder / "images/1.png")
    with pytest.raises(InputError, match="60 x 40 pixels, its image 60 x 30"):
        first.open_mask()


def test_an_image_folder_is_read_by_path_without_a_manifest(tmp_path):
    (tmp_path / "b").mkdir()
    for name in ("b/1.png", "2.JPG", "a.webp"):
        picture().save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    samples = DATA.get("image-folder").function(tmp_path)
    assert [sample.name for sample in samples] == ["2", "a", "b/1"]
    assert samples[0].open_image().size == (60, 40)
    assert samples[0].label is None
    with pytest.raises(InputError, match="has no mask"):
        samples[0].open_mask()


def test_an_image_folder_follows_its_manifest(folder):
    samples = image_folder(folder)
    assert [sample.name for sample in samples] == ["2", "1"]
    (folder / "manifest.json").write_text('[{"image": "images/1.png", "label": 7, "name": "cock"}]')
    (sample,) = image_folder(folder)
    assert (sample.label, sample.label_name) == (7, "cock")
    (folder / "manifest.json").write_text('[{"image": "images/9.png"}]')
    with pytest.raises(InputError, match="1 of 1 images"):
        image_folder(folder)


def test_an_image_folder_without_images_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no image"):
        image_folder(tmp_path)
    with pytest.raises(InputError, match="no folder"):
        image_folder(tmp_path / "nowhere")


def test_every_format_says_what_it_reads():
    assert {"image-folder", "segmentation-folder"} <= set(DATA.names())
    assert all(entry.about for entry in DATA.entries())


def processors():
    """Processors of several families, with the geometry of each derived here by hand."""
    from transformers import CLIPImageProcessor, DeiTImageProcessor, ViTImageProcessor

    def square(image: Image.Image) -> Image.Image:
        return image.resize((32, 32), Image.Resampling.NEAREST)

    def shortest_side_then_crop(image: Image.Image) -> Image.Image:
        width, height = image.size
        scale = 32 / min(width, height)
        large = image.resize((int(width * scale), int(height * scale)), Image.Resampling.NEAREST)
        left, top = (large.size[0] - 28) // 2, (large.size[1] - 28) // 2
        return large.crop((left, top, left + 28, top + 28))

    def square_then_crop(image: Image.Image) -> Image.Image:
        return image.resize((40, 40), Image.Resampling.NEAREST).crop((4, 4, 36, 36))

    side, crop = {"height": 32, "width": 32}, {"height": 28, "width": 28}
    return [
        (ViTImageProcessor(size=side), square),
        (
            CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=crop),
            shortest_side_then_crop,
        ),
        (DeiTImageProcessor(size={"height": 40, "width": 40}, crop_size=side), square_then_crop),
    ]


@pytest.mark.parametrize("number", range(3))
def test_masks_follow_the_geometry_of_the_processor(number):
    processor, by_hand = processors()[number]
    for height, width in ((64, 96), (120, 60), (37, 53)):
        inside = rectangle(height, width)
        (seen,) = masks_as_seen([torch.from_numpy(inside)], processor)
        expected = np.asarray(by_hand(Image.fromarray(inside.astype("uint8") * 255))) > 0
        assert seen.shape == expected.shape
        assert (seen.numpy() != expected).mean() < 0.01


@pytest.mark.parametrize("number", range(3))
def test_a_coloured_region_stays_under_its_mask(number):
    processor, _ = processors()[number]
    shapes = ((64, 96), (120, 60), (200, 200))
    regions = [rectangle(*shape) for shape in shapes]
    colours = [np.where(region[:, :, None], [255, 0, 0], [0, 0, 255]) for region in regions]
    images = [Image.fromarray(pixels.astype("uint8")) for pixels in colours]
    pixels = processor(images, return_tensors="pt")["pixel_values"]
    masks = masks_as_seen([torch.from_numpy(region) for region in regions], processor)
    assert masks.shape == (3, *pixels.shape[2:])
    red, blue = pixels[:, 0], pixels[:, 2]
    for i in range(3):
        is_red = (red[i] - red[i].min()) / (red[i].max() - red[i].min()) > 0.5
        is_blue = (blue[i] - blue[i].min()) / (blue[i].max() - blue[i].min()) > 0.5
        # the image is interpolated and the mask is not: they may part along the border by a pixel
        assert (is_red != masks[i]).float().mean() < 0.02
        assert (is_blue == masks[i]).float().mean() < 0.02


def test_geometries_that_a_mask_cannot_follow_are_refused():
    from transformers import LlavaNextImageProcessor, Qwen2VLImageProcessor

    mask = torch.from_numpy(rectangle(64, 96))
    for processor in (LlavaNextImageProcessor(), Qwen2VLImageProcessor()):
        with pytest.raises(InputError, match="one picture"):
            masks_as_seen([mask], processor)
    with pytest.raises(InputError, match="transformers' image processors only, not NoneType"):
        masks_as_seen([mask], None)


def test_a_processor_that_changes_values_is_refused():
    class Inverting:
        def preprocess(self, images, **options):
            pixels = torch.stack([torch.from_numpy(np.array(image)) for image in images])
            return {"pixel_values": pixels.permute(0, 3, 1, 2) * 0.5}

        __call__ = preprocess

    with pytest.raises(InputError, match="changes more than the geometry"):
        masks_as_seen([torch.from_numpy(rectangle(20, 20))], Inverting())


def test_a_processor_of_text_and_images_is_asked_for_its_image_part():
    from types import SimpleNamespace

    image_processor, _ = processors()[0]
    mask = torch.from_numpy(rectangle(64, 96))
    inner = masks_as_seen([mask], image_processor)
    assert torch.equal(
        masks_as_seen([mask], SimpleNamespace(image_processor=image_processor)), inner
    )
