"""Pictures, sounds and texts as people hand them in, and the forward's arguments made ready."""

import io
import sys
import wave

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from relmap.errors import InputError
from relmap.request import forward_arguments as arguments
from relmap.request.readers import read_audio, read_image, read_texts, same_length, to_list


@pytest.fixture
def picture():
    return Image.fromarray(np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3))


def tone(rate, seconds=0.5, pitch=200):
    return np.sin(2 * np.pi * pitch * np.arange(int(rate * seconds)) / rate).astype(np.float32)


def write_wave(path, samples, rate, width=2, channels=1):
    top = 2.0 ** (8 * width - 1) - 1
    numbers = np.round(samples.astype(np.float64) * top).astype(np.int64) + (
        128 if width == 1 else 0
    )
    data = b"".join(
        int(n).to_bytes(width, "little", signed=width > 1) for n in np.repeat(numbers, channels)
    )
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(data)


def test_an_image_comes_in_many_shapes(picture, tmp_path):
    picture.save(tmp_path / "a.png")
    file = io.BytesIO()
    picture.save(file, "png")
    array = np.asarray(picture)
    channels_first = torch.from_numpy(array.copy()).permute(2, 0, 1)
    for image in (
        picture,
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        file.getvalue(),
        array,
        array / 255,
        channels_first,
        channels_first / 255,
    ):
        assert np.array_equal(np.asarray(read_image(image)), array)


def test_grey_and_transparent_images_become_coloured(picture):
    assert read_image(picture.convert("L")).mode == "RGB"
    assert read_image(picture.convert("RGBA")).mode == "RGB"
    assert read_image(np.zeros((4, 5), np.uint8)).size == (5, 4)
    assert read_image(np.zeros((4, 5), bool)).size == (5, 4)


def test_a_turned_photograph_is_turned_back(picture, tmp_path):
    notes = Image.Exif()
    notes[274] = 6
    picture.save(tmp_path / "turned.jpg", exif=notes)
    assert read_image(tmp_path / "turned.jpg").size == (5, 7)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        ("nowhere.jpg", "nowhere.jpg"),
        (".", "folder"),
        (b"no picture", "bytes"),
        (np.zeros((2, 2, 2, 2)), "shape"),
        (np.zeros((0, 3, 3)), "no pixels"),
        (np.full((4, 4), 7.0), "from 0 to 1"),
        (np.full((4, 4), np.nan), "NaN"),
        (3, "int"),
        ("a\0b", "not there"),
    ],
)
def test_what_is_no_image_is_refused(image, words):
    with pytest.raises(InputError, match=words):
        read_image(image)


def test_a_corrupt_image_is_named(picture, tmp_path):
    (tmp_path / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 40)
    (tmp_path / "text.jpg").write_text("hello")
    picture.resize((200, 200)).save(tmp_path / "whole.jpg")
    (tmp_path / "half.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:700])
    for name in ("torn.png", "text.jpg", "half.jpg"):
        with pytest.raises(InputError, match=name):
            read_image(tmp_path / name)


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_a_wave_file_is_read(tmp_path, width):
    write_wave(tmp_path / "a.wav", tone(8000), 8000, width, channels=2)
    samples = read_audio(tmp_path / "a.wav", 8000)
    assert np.abs(samples - tone(8000)).max() < 2.0 ** (2 - 8 * width) + 1e-6


def test_another_rate_is_resampled():
    found = read_audio({"array": tone(8000), "sampling_rate": 8000}, 16000)
    assert np.abs(found - tone(16000)).max() < 0.05
    assert (
        np.abs(read_audio({"array": tone(16000), "sampling_rate": 16000}, 8000) - tone(8000)).max()
        < 0.05
    )


def test_sounds_of_arrays_are_mixed_and_scaled():
    stereo = np.stack([tone(8000), tone(8000)])
    assert np.allclose(read_audio(stereo, 8000), tone(8000), atol=1e-6)
    assert np.allclose(read_audio(torch.from_numpy(tone(8000)), 8000), tone(8000))
    assert np.abs(read_audio(np.array([-32767, 32767], np.int16), 8000)).max() == 1


@pytest.mark.parametrize(
    "audio", ["nowhere.wav", np.zeros(0), np.zeros((4, 4, 4)), np.array([np.nan]), 3, {"array": 1}]
)
def test_what_is_no_sound_is_refused(audio):
    with pytest.raises(InputError):
        read_audio(audio, 16000)


@pytest.mark.parametrize(("ending", "subtype"), [("flac", "PCM_16"), ("wav", "FLOAT")])
def test_other_sound_files_are_read_by_soundfile(tmp_path, ending, subtype):
    soundfile = pytest.importorskip("soundfile", reason="needs the extra 'sound'")
    stereo = np.stack([tone(8000), np.zeros_like(tone(8000))], axis=1)
    soundfile.write(tmp_path / f"a.{ending}", stereo, 8000, subtype=subtype)
    samples = read_audio(tmp_path / f"a.{ending}", 8000)
    assert np.abs(samples - tone(8000) / 2).max() < 1e-4


def test_other_sound_files_name_the_extra_that_reads_them(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "soundfile", None)
    (tmp_path / "a.flac").write_bytes(b"fLaC" + bytes(100))
    with pytest.raises(InputError, match=r"a\.flac.*need the extra 'sound': pip install"):
        read_audio(tmp_path / "a.flac", 8000)


def test_a_corrupt_wave_file_is_named(tmp_path):
    (tmp_path / "noise.wav").write_bytes(b"RIFF nothing")
    with pytest.raises(InputError, match=r"noise\.wav"):
        read_audio(tmp_path / "noise.wav", 16000)


def test_texts_are_strings_that_say_something():
    assert read_texts("a cat") == ["a cat"]
    assert read_texts(("a", "b")) == ["a", "b"]
    for text in ("", "  \n", ["a", ""], [], [3], 3):
        with pytest.raises(InputError):
            read_texts(text)


def test_what_comes_once_is_repeated():
    assert same_length({"image": [1], "text": [1, 2, 3]}) == {"image": [1] * 3, "text": [1, 2, 3]}
    assert same_length({"image": [1, 2], "text": ["a"]})["text"] == ["a", "a"]
    with pytest.raises(InputError, match=r"2 of `image`, 3 of `text`"):
        same_length({"image": [1, 2], "text": [1, 2, 3]})
    assert len(to_list(np.zeros((3, 4, 4, 3)), "image")) == 3


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2, dtype=torch.float64)

    def forward(self, x, mask=None):
        return self.layer(x)


def test_inputs_follow_the_network():
    inputs = {"x": np.zeros((1, 2), np.float32), "ids": torch.ones(1, 2, dtype=torch.int64)}
    inputs["pair"] = (torch.zeros(1), 3)
    placed = arguments.place(Network(), inputs)
    assert placed["x"].dtype == placed["pair"][0].dtype == torch.float64
    assert placed["ids"].dtype == torch.int64
    assert placed["pair"][1] == 3
    assert arguments.place(nn.Identity(), {"x": torch.zeros(1)})["x"].dtype == torch.float32


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_inputs_that_are_not_finite_are_named(bad):
    with pytest.raises(InputError, match="`x`"):
        arguments.complete(Network(), {"x": torch.tensor([[0.0, bad]])})


def test_a_mask_may_be_minus_infinity():
    arguments.check_finite({"attention_mask": torch.tensor([0.0, -torch.inf])})
    with pytest.raises(InputError):
        arguments.check_finite({"attention_mask": torch.tensor([torch.nan])})


def test_one_text_is_repeated_for_its_images():
    inputs = {
        "pixel_values": torch.rand(2, 3, 4, 4),
        "input_ids": torch.ones(1, 5),
        "attention_mask": torch.ones(1, 5),
    }
    paired = arguments.pair(nn.Identity(), inputs)
    assert paired["input_ids"].shape == paired["attention_mask"].shape == (2, 5)
    assert paired["pixel_values"].shape == (2, 3, 4, 4)


def test_examples_are_counted():
    class WordsObjectDetection(nn.Identity):
        pass

    inputs = {"pixel_values": torch.rand(6, 3, 4, 4), "input_ids": torch.ones(2, 5)}
    assert arguments.count_examples(nn.Identity(), inputs) == 2
    assert arguments.count_examples(WordsObjectDetection(), inputs) == 6
    assert arguments.count_examples(nn.Identity(), {"size": 3, "x": torch.rand(4, 2)}) == 4
    assert arguments.count_examples(nn.Identity(), {"series": [torch.rand(4)] * 3}) == 3
    with pytest.raises(InputError, match="size"):
        arguments.count_examples(nn.Identity(), {"size": 3})
