"""What an interaction is: one number for every pair of tokens of two sources, for a whole batch.

Numbers are raw, and special tokens are in them: the layouts say which tokens these are. The map
in both directions at once stands beside the two one-way maps that it is the product of.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from operator import index as as_index
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsIndex

import torch
from jaxtyping import Float
from torch import Tensor

from relmap import files
from relmap.errors import InputError
from relmap.files import pack_file, read_file, write_whole, writes
from relmap.result.attribution import Attribution
from relmap.result.layout import Layout
from relmap.result.storage import pack_layouts, unpack_examples
from relmap.result.token_text import readable

if TYPE_CHECKING:
    import matplotlib.figure

DRAWN = 12  # examples


@dataclass(frozen=True, eq=False)
class Interaction:
    """The interaction of every token of one source (rows) with every token of another (columns).

    Attributes:
        maps: M, the elementwise product of both directions; never negative.
        one_way: M_mn by (who attends, to whom), rows first: `one_way["pixel_values", "input_ids"]`
            says how the image attends to the text. Their matrix product, should you want it, is
            `one_way[m, n] @ one_way[n, m]`.
        layout: Where the tokens of both sources sit, rows first.
        target: What was explained, in words, per example.
        prediction: What the model said, per example.
        meta: Versions, method, options, model: whatever JSON can hold.
        inputs: What drawing can use. Not saved.

    Raises:
        InputError: When the parts do not fit each other.
    """

    maps: Float[Tensor, "batch row column"]
    one_way: dict[tuple[str, str], Tensor]
    layout: dict[str, Layout]
    target: tuple[str, ...]
    prediction: tuple[str, ...]
    meta: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse parts that do not fit each other, so that everything after can rely on them."""
        names = list(self.layout)
        pairs = [(one, other) for one in names for other in names if one != other]
        if len(names) != 2 or set(self.one_way) != set(pairs):
            raise InputError(
                f"an interaction has two sources and a map for each direction, not {names} with "
                f"maps of {list(self.one_way)}"
            )
        forth, back = (self.one_way[pair] for pair in pairs)
        for part in (self.maps, forth, back.transpose(1, 2)):
            for axis, name in enumerate(names):
                self.layout[name].check(name, part.sum(2 - axis), len(self.target))
        if len(self.prediction) != len(self.target):
            raise InputError(
                f"{len(self.target)} targets but {len(self.prediction)} predictions: give one each"
            )

    def __repr__(self) -> str:
        """Name the sources and what was explained; the numbers are in `maps`."""
        shape = " x ".join(
            f"{name} {self.maps.shape[at]}" for at, name in enumerate(self.layout, 1)
        )
        return f"Interaction({shape}; method={self.meta.get('method')!r}, target={self.target})"

    def __len__(self) -> int:
        """Count the examples of the batch."""
        return len(self.target)

    def __getitem__(self, index: SupportsIndex) -> Interaction:
        """Pick one example, still batched."""
        at = as_index(index)
        if not -len(self) <= at < len(self):
            raise IndexError(f"no example {at} in an interaction of {len(self)} example(s)")
        chosen = slice(at % len(self), at % len(self) + 1)
        return replace(
            self,
            maps=self.maps[chosen],
            one_way={pair: values[chosen] for pair, values in self.one_way.items()},
            layout={name: layout.examples(chosen) for name, layout in self.layout.items()},
            target=self.target[chosen],
            prediction=self.prediction[chosen],
            inputs={
                name: value[chosen] if len(value) == len(self) else value
                for name, value in self.inputs.items()
            },
        )

    def __iter__(self) -> Iterator[Interaction]:
        """Go through the examples one by one."""
        return (self[index] for index in range(len(self)))

    def directed(self, asks: str) -> Interaction:
        """The same with one direction alone: how the tokens of `asks` attended to the others'.

        Raises:
            InputError: When there is no such source.
        """
        rows, columns = self.layout
        if asks not in (rows, columns):
            raise InputError(f"no source {asks!r}; this interaction has {rows} and {columns}")
        if asks == rows:
            return replace(self, maps=self.one_way[rows, columns])
        return replace(self, maps=self.one_way[columns, rows].transpose(1, 2))

    def by_token(self, example: int = 0) -> Attribution:
        """One example as an attribution of the rows for each content token of the columns.

        With an image and a text these are the words' maps over the picture, `.image.scores`.
        """
        single, (rows, columns) = self[example], self.layout
        tokens = single.layout[columns].content[0].nonzero().flatten()
        labels = [single._label(columns, int(token)) for token in tokens]
        scores = single.maps[0][:, tokens.to(single.maps.device)].transpose(0, 1)
        return Attribution(
            scores={rows: scores},
            layout={rows: single.layout[rows].repeat(len(labels))},
            target=tuple(labels),
            prediction=single.prediction * len(labels),
            meta=single.meta,
            inputs={
                name: [value[0]] * len(labels) if len(value) == 1 else value
                for name, value in single.inputs.items()
            },
        )

    def top(self, count: int = 5, example: int = 0) -> list[tuple[str, str, float]]:
        """The strongest pairs of content tokens of one example as (row, column, value)."""
        single, (rows, columns) = self[example], self.layout
        content = single.layout[rows].content[0][:, None] & single.layout[columns].content[0]
        values = single.maps[0].detach().cpu().double().masked_fill(~content.cpu(), -torch.inf)
        order = values.flatten().argsort(descending=True, stable=True)
        places = [
            divmod(int(at), values.shape[1]) for at in order[: min(count, int(content.sum()))]
        ]
        return [
            (single._label(rows, row), single._label(columns, column), float(values[row, column]))
            for row, column in places
        ]

    def draw(self, path: str | os.PathLike[str] | None = None) -> matplotlib.figure.Figure:
        """A sheet with a map over the picture for every word; without a picture, a table.

        At most 12 examples are drawn. Maps have a scale each; the ground of a word shows how much
        of the whole interaction is its own.

        Raises:
            MissingExtraError: When matplotlib is not installed.
        """
        return files.draw(self, path)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the interaction: a picture (.png) or everything (.safetensors).

        Raises:
            InputError: For another ending or a missing folder.
            MissingExtraError: For .png without matplotlib.
        """
        files.save(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Interaction:
        """Read an interaction that `save` wrote as .safetensors; pictures are not kept in it.

        Raises:
            InputError: When the file is missing, corrupt, or holds something else.
        """

        def unpack(header: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Any]:
            parts = unpack_examples(header, tensors)
            rows, columns = parts["layout"]
            one_way = {(rows, columns): tensors["forth"], (columns, rows): tensors["back"]}
            return {"maps": tensors["maps"], "one_way": one_way, **parts}

        return cls(**read_file(Path(path), "interaction", unpack))

    def _packed(self) -> bytes:
        tensors, sources = pack_layouts(self.layout)
        rows, columns = self.layout
        forth, back = self.one_way[rows, columns], self.one_way[columns, rows]
        header = {
            "sources": sources,
            "target": self.target,
            "prediction": self.prediction,
            "meta": self.meta,
        }
        return pack_file(tensors | {"maps": self.maps, "forth": forth, "back": back}, header)

    def _label(self, name: str, token: int) -> str:
        """One token of the first example, as people read it."""
        layout = self.layout[name]
        return layout.label(0, token) if layout.tokens is None else readable(layout)[token].text


@writes(Interaction, ".safetensors")
def _write_tensors(interaction: Interaction, path: Path) -> None:
    write_whole(path, interaction._packed())
