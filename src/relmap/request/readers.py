"""What people hand in, made into what preprocessors take.

A picture may come as a PIL image, a file, an array, a tensor or the bytes of a file; a sound as a
wave file or an array; a text as a string; each alone or as a list, which is a batch. Everything
that is not what it claims to be is refused here, with its name, before a network sees it.
"""

from __future__ import annotations

import io
import os
import wave
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from relmap.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["check_kinds", "read_audio", "read_image", "read_texts", "same_length", "to_list"]


def read_image(image: Any) -> Image:
    """An RGB picture from a PIL image, a path, the bytes of a file, an array or a tensor.

    Arrays are (rows, columns), (rows, columns, channels) or (channels, rows, columns), either bytes
    0..255 or floating numbers 0..1.

    Raises:
        InputError: There is no such file, it is no picture, or the array has no shape of a picture.

    Example:
        >>> read_image(np.zeros((4, 6, 3), np.uint8)).size
        (6, 4)
    """
    from PIL import Image

    if isinstance(image, Image.Image):
        return _decoded(image, "the PIL image")
    if isinstance(image, str | os.PathLike):
        return _open_image(_existing_file(image, "image"), f"The image {str(image)!r}")
    if isinstance(image, bytes | bytearray):
        return _open_image(io.BytesIO(image), "The image given as bytes")
    if isinstance(image, torch.Tensor):
        image = image.detach().cpu()
        image = (image.float() if image.is_floating_point() else image).numpy()
    if isinstance(image, np.ndarray):
        return Image.fromarray(_pixels(image)).convert("RGB")
    raise InputError(
        f"An image cannot be a {type(image).__name__}: give a PIL image, a path, the bytes of a "
        f"file, an array or a tensor, or a list of them."
    )


def read_audio(audio: Any, rate: int) -> np.ndarray:
    """A mono waveform at `rate` samples a second, floating numbers about -1..1.

    A sound file, or a mapping with "array" and "sampling_rate", is resampled to `rate`;
    an array or a tensor is taken to have the right rate.

    Raises:
        InputError: There is no such file, it is empty, or it cannot be read: wave files of whole
            numbers always can, others (FLAC, OGG, MP3) with soundfile, the extra `sound`.
    """
    given_rate = rate
    if isinstance(audio, str | os.PathLike):
        samples, given_rate = _open_sound(_existing_file(audio, "audio"))
    elif isinstance(audio, Mapping):
        if not {"array", "sampling_rate"} <= set(audio):
            raise InputError("Audio as a mapping needs the keys 'array' and 'sampling_rate'.")
        samples, given_rate = _samples(audio["array"]), int(audio["sampling_rate"])
    else:
        samples = _samples(audio)
    if samples.size == 0:
        raise InputError("The audio is empty: it holds no samples.")
    return _resample(samples, given_rate, rate)


def read_texts(text: Any) -> list[str]:
    """The texts of a batch, from one string or a list of strings.

    Raises:
        InputError: One is empty or no string.
    """
    texts = to_list(text, "text")
    for index, sentence in enumerate(texts):
        where = f" (number {index} of the list)" if len(texts) > 1 else ""
        if not isinstance(sentence, str):
            raise InputError(f"A text is a string, not a {type(sentence).__name__}{where}.")
        if not sentence.strip():
            raise InputError(f"The text is empty{where}: there is no word to explain.")
    return texts


def to_list(value: Any, what: str) -> list[Any]:
    """The examples of a batch: a list as it is, an array of pictures cut up, anything else alone.

    Raises:
        InputError: The list is empty.
    """
    batched = isinstance(value, np.ndarray) and what == "image" and value.ndim == 4
    items = list(value) if batched or isinstance(value, list | tuple) else [value]
    if not items:
        raise InputError(f"The list given as `{what}` is empty.")
    return items


def same_length(lists: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    """The same number of examples of everything: what came once is repeated for every example.

    Raises:
        InputError: Two lists have different lengths, neither of them one.

    Example:
        >>> same_length({"image": ["cat.jpg"], "text": ["a cat", "a dog"]})["image"]
        ['cat.jpg', 'cat.jpg']
    """
    lengths = {name: len(items) for name, items in lists.items()}
    batch = max(lengths.values(), default=0)
    if any(length not in (1, batch) for length in lengths.values()):
        found = ", ".join(f"{length} of `{name}`" for name, length in lengths.items())
        raise InputError(f"The lists differ in length ({found}): give one, or as many of each.")
    return {name: items * batch if len(items) == 1 else items for name, items in lists.items()}


def check_kinds(given: Mapping[str, Any], taken: Mapping[str, Any]) -> None:
    """Refuses a kind of input that the model has no way to take.

    `taken` holds for each kind whether the model takes it, a reason where it could but for
    something.

    Raises:
        InputError: The message lists what the model takes, or nothing was given.
    """
    able = [f"{name}=" for name, value in taken.items() if value is True]
    listing = " and ".join(able) or "only its forward's own arguments"
    if not given:
        raise InputError(f"Nothing to explain was given: the model takes {listing}.")
    for name in given:
        reason = taken.get(name, False)
        if reason is not True:
            because = f" ({reason})" if isinstance(reason, str) else ""
            raise InputError(f"The model takes no {name}{because}: it takes {listing}.")


def _existing_file(path: str | os.PathLike[str], what: str) -> Path:
    file = Path(path)
    try:
        exists = file.is_file()
    except (OSError, ValueError):  # a name that no file system takes
        exists = False
    if not exists:
        kind = "a folder" if file.is_dir() else "not there"
        raise InputError(f"The {what} {str(path)!r} is {kind}: give the path of one {what} file.")
    return file


def _open_image(source: Any, name: str) -> Image:
    from PIL import Image

    try:
        with Image.open(source) as image:
            return _decoded(image, name)
    except InputError:
        raise
    except Exception as error:  # each decoder of Pillow has exceptions of its own
        reason = "not a picture that Pillow can read" if "identify" in str(error) else str(error)
        raise InputError(f"{name} cannot be read: {reason}.") from error


def _decoded(image: Image, name: str) -> Image:
    from PIL import ImageOps

    if 0 in image.size:
        raise InputError(f"{name} has no pixels: its size is {image.size}.")
    # A phone stores the picture as the sensor lay and a note on how to turn it.
    return ImageOps.exif_transpose(image).convert("RGB")


def _pixels(array: np.ndarray) -> np.ndarray:
    if array.ndim == 3 and array.shape[0] in (1, 3, 4) and array.shape[2] not in (1, 3, 4):
        array = np.moveaxis(array, 0, 2)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise InputError(
            f"An image array has the shape (rows, columns), (rows, columns, channels) or "
            f"(channels, rows, columns) with 1, 3 or 4 channels, not {array.shape}."
        )
    if array.size == 0:
        raise InputError(f"The image array has no pixels: its shape is {array.shape}.")
    if array.dtype == np.uint8:
        return array
    if array.dtype == bool:
        return array.astype(np.uint8) * 255
    if np.issubdtype(array.dtype, np.floating):
        _check_range(array, 1.0)
        return np.round(array * 255).astype(np.uint8)
    _check_range(array, 255)
    return array.astype(np.uint8)


def _check_range(array: np.ndarray, top: float) -> None:
    if not np.isfinite(array).all():
        raise InputError("The image array holds NaN or infinite numbers.")
    if array.min() < 0 or array.max() > top:
        raise InputError(
            f"An image array of type {array.dtype} holds numbers from 0 to {top:g}, this one from "
            f"{array.min():g} to {array.max():g}. Pixels that are already normalised go in as a "
            f"torch tensor or under the network's own argument name."
        )


def _open_sound(file: Path) -> tuple[np.ndarray, int]:
    """The waveform of a file and its rate: of whole numbers by Python itself, else by soundfile."""
    try:
        return _open_wave(file)
    except (wave.Error, EOFError, OSError) as error:
        reason = str(error)
    try:
        import soundfile
    except ImportError as error:
        raise InputError(
            f"The audio {str(file)!r} cannot be read: {reason}. Wave files of whole numbers are "
            f"read as they are. {MissingExtraError('sound')}"
        ) from error
    try:
        samples, rate = soundfile.read(file, dtype="float32", always_2d=True)
    except soundfile.SoundFileError as error:
        raise InputError(f"The audio {str(file)!r} cannot be read: {error}") from error
    return samples.mean(axis=1), rate


def _open_wave(file: Path) -> tuple[np.ndarray, int]:
    with wave.open(str(file), "rb") as sound:
        width, channels, rate = sound.getsampwidth(), sound.getnchannels(), sound.getframerate()
        frames = sound.readframes(sound.getnframes())
    if width == 3:  # numpy has no 24-bit numbers: shift each into the top of 32 bits
        triples = np.frombuffer(frames[: len(frames) // 3 * 3], np.uint8).reshape(-1, 3)
        padded = np.concatenate([np.zeros((len(triples), 1), np.uint8), triples], axis=1)
        numbers, width = np.ascontiguousarray(padded).view("<i4")[:, 0], 4
    else:
        kind = {1: "u1", 2: "<i2", 4: "<i4"}[width]
        numbers = np.frombuffer(frames[: len(frames) // width * width], kind)
    samples = numbers.astype(np.float32) - (128 if width == 1 else 0)
    whole = samples[: len(samples) // channels * channels]
    return whole.reshape(-1, channels).mean(axis=1) / 2.0 ** (8 * width - 1), rate


def _samples(audio: Any) -> np.ndarray:
    if isinstance(audio, torch.Tensor):
        audio = audio.detach().cpu().float().numpy()
    elif isinstance(audio, Sequence) and not isinstance(audio, str | bytes):
        audio = np.asarray(audio)
    if not isinstance(audio, np.ndarray):
        raise InputError(
            f"Audio cannot be a {type(audio).__name__}: give the path of a wave file, an array, a "
            f"tensor, or a mapping with 'array' and 'sampling_rate'."
        )
    if audio.ndim == 2 and min(audio.shape) <= 2:  # (channels, samples) or (samples, channels)
        audio = audio.mean(axis=int(np.argmin(audio.shape)))
    if audio.ndim != 1:
        raise InputError(f"A waveform has one axis, this array has the shape {audio.shape}.")
    whole = np.iinfo(audio.dtype).max if np.issubdtype(audio.dtype, np.integer) else 1
    samples = audio.astype(np.float32) / whole
    if not np.isfinite(samples).all():
        raise InputError("The audio holds NaN or infinite numbers.")
    return samples


def _resample(samples: np.ndarray, given: int, wanted: int) -> np.ndarray:
    if given == wanted:
        return samples.astype(np.float32)
    # Band-limited: the spectrum is cut, or continued with zeros, and read at the new rate.
    length = max(1, round(len(samples) * wanted / given))
    spectrum = np.fft.rfft(samples)[: length // 2 + 1]
    return (np.fft.irfft(spectrum, length) * (length / len(samples))).astype(np.float32)
