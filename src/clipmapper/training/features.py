"""What the frozen encoders say of every picture and text, computed once and kept on disk.

Only the mapper is trained, so the encoders' outputs never change: they are written in half
precision to memory-mapped files and read from there, by this run and by every later one with the
same encoders, preparation and files. Pictures lie in equal rows; texts, which differ in length,
lie one after another with the places where they begin. The work is done in blocks, and a block
that is on disk is marked as done: a run that is killed goes on where it was, and several
processes share the blocks. Memory does not grow with the data.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from relmap.errors import InputError
from relmap.files import write_whole

__all__ = [
    "FORMAT",
    "Encoders",
    "PictureStates",
    "TextStates",
    "picture_states",
    "tell_of_cuts",
    "text_states",
]

FORMAT = 1  # of what is kept; one more whenever other numbers would be computed or stored
BLOCK = 64  # pictures or texts that are encoded together
FLUSH_SECONDS = 5.0


@dataclass(frozen=True, eq=False)
class Encoders:
    """The frozen encoders and what prepares their inputs.

    Attributes:
        clip: The encoders' module, whose weights are part of the cache's name.
        encode_images: Pixels to the states of all tokens.
        encode_text: Token numbers to the states of all tokens.
        processor: Pictures to pixels.
        tokenizer: Texts to token numbers.
        max_length: Tokens of a text at most.
    """

    clip: nn.Module
    encode_images: Callable[..., Tensor]
    encode_text: Callable[..., Tensor]
    processor: Any
    tokenizer: Any
    max_length: int

    @cached_property
    def weights(self) -> str:
        """A fingerprint of the encoders' weights."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.clip.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
        return digest.hexdigest()

    @property
    def device(self) -> torch.device:
        """Where the encoders compute."""
        return next(self.clip.parameters()).device

    def token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The token numbers of texts, cut to the encoder's length, without padding."""
        if not texts:
            return []
        return self.tokenizer(list(texts), truncation=True, max_length=self.max_length)["input_ids"]


class _Rows:
    """A file of numbers of a known shape, opened where and when it is needed.

    A memory map that travels to another process would be copied there whole; this opens it anew.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: str = "float16") -> None:
        self.path, self.shape, self.dtype = path, shape, dtype
        with path.open("ab") as file:  # makes it, full of zeros, unless it is there
            file.truncate(int(np.prod(shape)) * np.dtype(dtype).itemsize)
        self._open: np.memmap[Any, Any] | None = None

    @property
    def values(self) -> np.memmap[Any, Any]:
        if self._open is None:
            self._open = np.memmap(self.path, dtype=self.dtype, mode="r+", shape=self.shape)
        return self._open

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_open": None}


@dataclass(frozen=True)
class PictureStates:
    """The image encoder's states of many pictures, [count, tokens, width]; without rows, zeros."""

    shape: tuple[int, int, int]
    rows: _Rows | None = None

    def __len__(self) -> int:
        return self.shape[0]

    def take(self, index: Int[np.ndarray, " b"]) -> Float[Tensor, "b tokens width"]:
        """The states of some pictures."""
        if self.rows is None:
            return torch.zeros(len(index), *self.shape[1:], dtype=torch.float16)
        return torch.from_numpy(self.rows.values[index])


@dataclass(frozen=True)
class TextStates:
    """The text encoder's states of many texts, and their token numbers, one after another.

    `starts` holds where each text begins, and at its end where the last one stops.
    """

    rows: _Rows
    ids: Int[np.ndarray, " total"]
    starts: Int[np.ndarray, " texts_and_one"]

    def __len__(self) -> int:
        return len(self.starts) - 1

    def take(
        self, index: Int[np.ndarray, " b"]
    ) -> tuple[Float[Tensor, "b t width"], Int[Tensor, "b t"], Int[Tensor, "b t"]]:
        """The states, token numbers and attention mask of some texts, padded to the longest."""
        lengths = self.starts[index + 1] - self.starts[index]
        steps = np.arange(lengths.max())
        inside = steps < lengths[:, None]
        # padding repeats the last token of the text: any finite state will do under the mask
        places = self.starts[index][:, None] + np.minimum(steps, lengths[:, None] - 1)
        return (
            torch.from_numpy(self.rows.values[places]),
            torch.from_numpy(self.ids[places].astype(np.int64)),
            torch.from_numpy(inside.astype(np.int64)),
        )


def picture_states(
    paths: Sequence[Path], encoders: Encoders, cache: Path, *, workers: int = 0
) -> PictureStates:
    """The image encoder's states of pictures, from the cache or computed into it.

    Raises:
        InputError: A picture is missing or cannot be read.
    """
    if not paths:
        raise InputError("there are no pictures to encode")
    key = _key(encoders.weights, _plain(encoders.processor), *_file_list(paths))
    sample = _Pictures(paths[:1], encoders.processor)[0]
    with torch.inference_mode():
        tokens, width = encoders.encode_images(sample.to(encoders.device)).shape[1:]
    shape = (len(paths), tokens, width)
    rows = _Rows(_folder(cache, f"pictures-{key}") / "states.f16", shape)

    def encode(blocks: Sequence[int]) -> Iterator[tuple[slice, Tensor]]:
        loader = DataLoader(
            _Pictures(paths, encoders.processor), None, sampler=blocks, num_workers=workers
        )
        for block, pixels in zip(blocks, loader, strict=True):
            states = encoders.encode_images(pixels.to(encoders.device, non_blocking=True))
            yield slice(block * BLOCK, block * BLOCK + len(pixels)), states

    _fill(rows, len(paths), encode, "pictures")
    return PictureStates(shape, rows)


def text_states(texts: Sequence[str], encoders: Encoders, cache: Path) -> TextStates:
    """The text encoder's states of texts, from the cache or computed into it.

    Texts that the encoder has no positions for are cut, and their number is told.

    Raises:
        InputError: There are no texts, or some have no tokens.
    """
    if not texts:
        raise InputError("there are no texts to encode")
    tell_of_cuts(texts, encoders.tokenizer, encoders.max_length)
    ids: list[Int[np.ndarray, "_"]] = []
    for start in range(0, len(texts), 8192):
        tokens = encoders.token_ids(texts[start : start + 8192])
        ids.extend(np.asarray(one, dtype=np.int32) for one in tokens)
    empty = [text for text, one in zip(texts, ids, strict=True) if len(one) == 0]
    if empty:
        raise InputError(f"{len(empty)} texts have no tokens: {empty[:3]!r}")
    starts = np.cumsum([0, *map(len, ids)])
    flat = np.concatenate(ids)
    key = _key(encoders.weights, flat.tobytes(), starts.tobytes())
    first = torch.from_numpy(ids[0].astype(np.int64))[None].to(encoders.device)
    with torch.inference_mode():
        width = encoders.encode_text(first, torch.ones_like(first)).shape[-1]
    rows = _Rows(_folder(cache, f"texts-{key}") / "states.f16", (len(flat), width))

    def encode(blocks: Sequence[int]) -> Iterator[tuple[slice, Tensor]]:
        for block in blocks:
            part = ids[block * BLOCK : (block + 1) * BLOCK]
            inputs, mask = _padded(part)
            inputs, mask = inputs.to(encoders.device), mask.to(encoders.device)
            states = encoders.encode_text(inputs, mask)[mask.bool()]
            start = starts[block * BLOCK]
            yield slice(start, start + len(states)), states

    _fill(rows, len(ids), encode, "texts")
    return TextStates(rows, flat, starts)


def tell_of_cuts(texts: Sequence[str], tokenizer: Any, longest: int) -> None:
    """Says how many texts lose their end, since a model that never saw it cannot know it."""
    # no token is less than a byte; begin, end and a space before the first word come on top
    longer = [text for text in texts if len(text.encode()) + 3 > longest]
    cut: list[str] = []
    for start in range(0, len(longer), 8192):
        part = longer[start : start + 8192]
        whole = tokenizer(part, truncation=False, verbose=False)["input_ids"]
        cut += [text for text, ids in zip(part, whole, strict=True) if len(ids) > longest]
    if cut:
        Console(stderr=True).print(
            f"{len(cut)} of {len(texts)} texts are cut to the {longest} tokens that CLIP reads, "
            f"the first of them {cut[0][:60]!r}",
            markup=False,
        )


class _Pictures(Dataset[Tensor]):
    """Blocks of prepared pictures, opened by the process that is asked for them."""

    def __init__(self, paths: Sequence[Path], processor: Any) -> None:
        self.paths, self.processor = paths, processor

    def __getitem__(self, block: int) -> Tensor:
        from PIL import Image

        opened = []
        for path in self.paths[block * BLOCK : (block + 1) * BLOCK]:
            try:
                with Image.open(path) as picture:
                    opened.append(picture.convert("RGB"))
            except (OSError, ValueError, SyntaxError) as error:
                raise InputError(f"the picture {path} cannot be read: {error}") from error
        return self.processor(images=opened, return_tensors="pt")["pixel_values"]


def _fill(
    rows: _Rows,
    count: int,
    encode: Callable[[Sequence[int]], Iterable[tuple[slice, Tensor]]],
    what: str,
) -> None:
    """Computes the blocks that are not done yet, each process its share."""
    from accelerate import PartialState

    state = PartialState()
    blocks = -(-count // BLOCK)
    marks = _Rows(rows.path.with_name("done.u8"), (blocks,), "uint8")
    state.wait_for_everyone()  # a process that is done early must not change another's share
    todo = np.flatnonzero(marks.values == 0)[state.process_index :: state.num_processes].tolist()
    state.wait_for_everyone()
    pending: list[int] = []
    flushed = time.monotonic()
    with torch.inference_mode(), _progress(what, len(todo)) as advance:
        for block, (place, states) in zip(todo, encode(todo), strict=True):
            rows.values[place] = states.to("cpu", torch.float16).numpy()
            pending.append(block)
            if time.monotonic() - flushed > FLUSH_SECONDS or block == todo[-1]:
                rows.values.flush()  # first the numbers, then the word that they are there
                marks.values[pending] = 1
                marks.values.flush()
                pending, flushed = [], time.monotonic()
            advance()
    state.wait_for_everyone()
    if state.is_main_process:
        about = {"what": what, "count": count, "shape": rows.shape, "dtype": rows.dtype}
        write_whole(rows.path.with_name("index.json"), json.dumps(about, indent=1).encode())


@contextlib.contextmanager
def _progress(what: str, blocks: int) -> Iterator[Callable[[], None]]:
    """A bar on a terminal, one line elsewhere, nothing where there is nothing to do."""
    console = Console(stderr=True)
    if not blocks:
        yield lambda: None
        return
    if not console.is_terminal:
        console.print(f"features of {what}: {blocks} blocks of {BLOCK} to compute")
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(f"features of {what}", total=blocks)
        yield lambda: bar.advance(task)


def _padded(ids: Sequence[Int[np.ndarray, "_"]]) -> tuple[Int[Tensor, "b t"], Int[Tensor, "b t"]]:
    longest = max(map(len, ids))
    inputs = np.stack([np.pad(one, (0, longest - len(one)), mode="edge") for one in ids])
    mask = np.stack([np.arange(longest) < len(one) for one in ids])
    return torch.from_numpy(inputs.astype(np.int64)), torch.from_numpy(mask.astype(np.int64))


def _folder(cache: Path, name: str) -> Path:
    folder = cache / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot keep features in {str(folder)!r}: {error.strerror}") from error
    return folder


def _file_list(paths: Sequence[Path]) -> Iterator[str]:
    """Every picture's name, size and time: a file that was written anew is another file."""
    root = os.path.commonpath([path.absolute().parent for path in paths])
    for path in paths:
        try:
            about = path.stat()
        except OSError as error:
            raise InputError(f"the picture {path} cannot be read: {error.strerror}") from error
        name = os.path.relpath(path.absolute(), root)
        yield f"{name} {about.st_size} {about.st_mtime_ns}"


def _plain(processor: Any) -> str:
    """A processor's settings as text."""
    settings: Mapping[str, Any] = processor.to_dict()
    return json.dumps(settings, sort_keys=True, default=str)


def _key(*parts: str | bytes) -> str:
    """The cache's name for these parts; the first format was not marked, and stays as it was."""
    digest = hashlib.sha256()
    for part in (*parts, *([] if FORMAT == 1 else [f"format {FORMAT}"])):
        digest.update(part.encode() if isinstance(part, str) else part)
        digest.update(b"\0")
    return digest.hexdigest()[:20]
