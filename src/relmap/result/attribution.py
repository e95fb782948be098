"""What an explanation is: one relevance score per input token, per source, for a whole batch.

Scores are raw. Nothing here is normalised, ranked or set to zero: that belongs to drawing and to
metrics. A `Layout` says where the tokens of a source sit (which are special or padding, which
cell of the patch grid each one covers, which word it is), so that everything downstream reads
one format whatever the model was. Results are written whole or not at all, and reading one back
never unpickles anything.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from operator import index as as_index
from pathlib import Path
from typing import Any, SupportsIndex

from jaxtyping import Bool, Float
from torch import Tensor

from relmap import files
from relmap.errors import InputError
from relmap.files import FORMAT, pack_file, read_file, to_json, write_whole, writes
from relmap.result.layout import Layout
from relmap.result.storage import describe_source, pack_layouts, unpack_examples

__all__ = ["Attribution", "AudioView", "ImageView", "Layout", "TextView"]


@dataclass(frozen=True, eq=False)
class ImageView:
    """The relevance of the patches alone, laid out as the picture is.

    `pixels` is the relevance of every pixel the network saw, from methods that give it.
    """

    name: str
    scores: Float[Tensor, "batch *grid"]
    grid: tuple[int, ...]
    pixels: Float[Tensor, "batch height width"] | None = None


@dataclass(frozen=True, eq=False)
class TextView:
    """The relevance of every text token beside the tokens; special ones flagged."""

    name: str
    tokens: list[list[str]]
    scores: Float[Tensor, "batch token"]
    special: Bool[Tensor, "batch token"]


@dataclass(frozen=True, eq=False)
class AudioView:
    """The relevance over time: (batch, step), or (batch, row, step) for spectrogram patches."""

    name: str
    scores: Float[Tensor, "batch *grid"]


@dataclass(frozen=True, eq=False)
class Attribution:
    """The relevance of every input token for one target per example, always batched.

    Attributes:
        scores: Raw relevance of each source, in the order in which the sources were given.
        layout: Where the tokens of each source sit.
        target: What was explained, in words, per example: "tench (0)".
        prediction: What the model said, per example.
        meta: Versions, method, backward, options, model: whatever JSON can hold.
        inputs: What drawing can use: "image" (one picture per example: PIL, or the pixel tensor),
            "audio" (one waveform per example), "sampling_rate". Not saved.
        pixels: Relevance of every pixel, by source, from methods that give it (full LRP).

    Raises:
        InputError: When scores and layout do not fit each other.

    Example:
        >>> import torch
        >>> none = torch.zeros(1, 3, dtype=torch.bool)
        >>> words = Layout(("input_ids",), "text", none, none, tokens=(("a", "red", "cat"),))
        >>> scores = {"input_ids": torch.tensor([[0.0, 0.25, 0.75]])}
        >>> Attribution(scores, {"input_ids": words}, ("cat",), ("cat",)).top("input_ids", 1)
        [[(2, 'cat', 0.75)]]
    """

    scores: dict[str, Float[Tensor, "batch token"]]
    layout: dict[str, Layout]
    target: tuple[str, ...]
    prediction: tuple[str, ...]
    meta: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, Any] = field(default_factory=dict)
    pixels: dict[str, Float[Tensor, "batch height width"]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse parts that do not fit each other, so that everything after can rely on them."""
        if not self.scores or list(self.scores) != list(self.layout):
            raise InputError(
                "an attribution needs one layout per source in the same order: scores of "
                f"{list(self.scores)}, layouts of {list(self.layout)}"
            )
        for name, scores in self.scores.items():
            self.layout[name].check(name, scores, len(self.target))
        if len(self.prediction) != len(self.target):
            raise InputError(
                f"{len(self.target)} targets but {len(self.prediction)} predictions: give one each"
            )

    def __repr__(self) -> str:
        """Name the sources and what was explained; the numbers are in `scores`."""
        shapes = ", ".join(f"{name} {tuple(score.shape)}" for name, score in self.scores.items())
        return f"Attribution({shapes}; method={self.meta.get('method')!r}, target={self.target})"

    def __len__(self) -> int:
        """Count the examples of the batch."""
        return len(self.target)

    def __getitem__(self, index: SupportsIndex | slice) -> "Attribution":
        """Pick one example (still batched, batch 1), or several by a slice."""
        if not isinstance(index, slice):
            index = as_index(index)
            if not -len(self) <= index < len(self):
                raise IndexError(f"no example {index} in an attribution of {len(self)} example(s)")
            index = slice(index % len(self), index % len(self) + 1)
        if not range(len(self))[index]:
            raise IndexError(f"the slice picks none of the {len(self)} example(s)")
        return replace(
            self,
            scores={name: score[index] for name, score in self.scores.items()},
            layout={name: layout.examples(index) for name, layout in self.layout.items()},
            target=self.target[index],
            prediction=self.prediction[index],
            pixels={name: found[index] for name, found in self.pixels.items()},
            inputs={name: _pick(value, index, len(self)) for name, value in self.inputs.items()},
        )

    def __iter__(self) -> Iterator["Attribution"]:
        """Go through the examples one by one."""
        return (self[index] for index in range(len(self)))

    @property
    def image(self) -> ImageView:
        """The patches of the image on their grid, (batch, rows, columns); special tokens left out.

        Raises:
            InputError: When no image went in, or its tokens lie on no grid (box features).
        """
        for name, layout in self.layout.items():
            if layout.modality == "image" and layout.grid is not None:
                scores = layout.on_grid(self.scores[name])
                return ImageView(name, scores, layout.grid, self.pixels.get(name))
        for name, layout in self.layout.items():
            if layout.modality in ("image", "features"):
                raise InputError(
                    f"the tokens of {name!r} lie on no patch grid; their relevance is in "
                    f"scores[{name!r}], one number per token"
                )
        raise InputError(f"no image went into this model; scores has {list(self.scores)}")

    @property
    def text(self) -> TextView:
        """The text tokens of every example beside their relevance, special ones flagged.

        Raises:
            InputError: When no text went in.
        """
        name, layout = self._first("text")
        tokens = layout.tokens or tuple(
            tuple(str(token) for token in range(layout.special.shape[1])) for _ in self.target
        )
        rows = [list(example) for example in tokens]
        return TextView(name, rows, self.scores[name], layout.special)

    @property
    def audio(self) -> AudioView:
        """The relevance of the sound over time.

        Raises:
            InputError: When no sound went in.
        """
        name, layout = self._first("audio")
        return AudioView(name, layout.on_grid(self.scores[name]))

    def top(self, source: str, count: int = 5) -> list[list[tuple[int, str, float]]]:
        """The most relevant content tokens of each example as (token index, label, score).

        Raises:
            InputError: When there is no such source, or count is below 1.
        """
        if source not in self.scores:
            raise InputError(f"no source {source!r}; this attribution has {list(self.scores)}")
        if count < 1:
            raise InputError(f"count must be at least 1, not {count}")
        layout = self.layout[source]
        ranked = []
        for example, content in enumerate(layout.content.cpu()):
            tokens = content.nonzero().flatten()
            scores = self.scores[source][example].detach().cpu().double()[tokens]
            order = scores.argsort(descending=True, stable=True)[:count].tolist()
            best = [(int(tokens[at]), float(scores[at])) for at in order]
            ranked.append([(token, layout.label(example, token), s) for token, s in best])
        return ranked

    def to_dict(self) -> dict[str, Any]:
        """The attribution as plain lists and strings, example by example, for people and JSON."""
        return {
            "relmap": FORMAT,
            "meta": self.meta,
            "examples": [
                {
                    "target": example.target[0],
                    "prediction": example.prediction[0],
                    "sources": {
                        name: describe_source(scores[0], example.layout[name])
                        for name, scores in example.scores.items()
                    },
                }
                for example in self
            ],
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the attribution: a picture (.png), everything (.safetensors), or text (.json).

        Raises:
            InputError: For another ending, a missing folder, or scores that are not finite (.json).
            MissingExtraError: For .png without matplotlib.
        """
        files.save(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Attribution":
        """Read an attribution that `save` wrote as .safetensors; pictures are not kept in it.

        Raises:
            InputError: When the file is missing, corrupt, or holds something else.
        """
        path = Path(path)
        parts = read_file(path, "attribution", _unpacked)
        try:
            return cls(**parts)
        except InputError as error:
            raise InputError(f"the attribution in {str(path)!r} is damaged: {error}") from error

    def _first(self, modality: str) -> tuple[str, Layout]:
        for name, layout in self.layout.items():
            if layout.modality == modality:
                return name, layout
        raise InputError(f"no {modality} went into this model; scores has {list(self.scores)}")


def _pick(value: Any, chosen: slice, batch: int) -> Any:
    per_example = isinstance(value, list | tuple | Tensor) and len(value) == batch
    return value[chosen] if per_example else value


def _packed(attribution: Attribution) -> bytes:
    tensors, sources = pack_layouts(attribution.layout)
    for at, (name, scores) in enumerate(attribution.scores.items()):
        tensors[f"{at}.scores"] = scores
        if name in attribution.pixels:
            tensors[f"{at}.pixels"] = attribution.pixels[name]
    header = {
        "sources": sources,
        "target": attribution.target,
        "prediction": attribution.prediction,
        "meta": attribution.meta,
    }
    return pack_file(tensors, header)


def _unpacked(header: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Any]:
    names = [source["name"] for source in header["sources"]]
    scores = {name: tensors[f"{at}.scores"] for at, name in enumerate(names)}
    wrong = [name for name, values in tensors.items() if name.endswith(".scores")
             and (not values.is_floating_point() or values.ndim != 2)]  # fmt: skip
    if wrong:
        shape = tuple(tensors[wrong[0]].shape)
        raise InputError(f"{wrong[0]} is {tensors[wrong[0]].dtype} {shape}, no scores of tokens")
    pixels = {
        name: tensors[f"{at}.pixels"] for at, name in enumerate(names) if f"{at}.pixels" in tensors
    }
    return {"scores": scores, "pixels": pixels, **unpack_examples(header, tensors)}


@writes(Attribution, ".safetensors")
def _write_tensors(attribution: Attribution, path: Path) -> None:
    write_whole(path, _packed(attribution))


@writes(Attribution, ".json")
def _write_json(attribution: Attribution, path: Path) -> None:
    write_whole(path, to_json(attribution.to_dict(), indent=1).encode())
