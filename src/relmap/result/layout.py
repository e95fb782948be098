"""Where the tokens of one source sit: special, padding, words, and cells of the patch grid.

A score is a number per token, and only the layout knows what the token was: a patch in row 3,
the word "cat", a separator nobody wrote, padding. Rankings, pictures and metrics all ask here.
"""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from relmap.errors import InputError

MODALITIES = ("image", "text", "audio", "features")


@dataclass(frozen=True, eq=False)
class Layout:
    """Where the tokens of one source sit: special, padding, words, and cells of the patch grid.

    Attributes:
        names: The forward arguments that make this source; the first is its key.
        modality: "image", "text", "audio" or "features".
        special: Tokens no content made: read-out, registers, separators.
        padding: Tokens that fill the batch up.
        tokens: The tokens of each example as the tokenizer spells them (text only).
        grid: (rows, columns), or (frames, rows, columns); audio may have (steps,).
        patches: The token index of every grid cell in row-major order.
        words: The tokens as people read them, where the model source knows better than the markers.
    """

    names: tuple[str, ...]
    modality: str
    special: Bool[Tensor, "batch token"]
    padding: Bool[Tensor, "batch token"]
    tokens: tuple[tuple[str, ...], ...] | None = None
    grid: tuple[int, ...] | None = None
    patches: Int[Tensor, " patch"] | None = None
    words: tuple[tuple[str, ...], ...] | None = None

    @property
    def content(self) -> Bool[Tensor, "batch token"]:
        """The tokens that are neither special nor padding: the ones a ranking is about."""
        return ~(self.special | self.padding)

    def label(self, example: int, token: int) -> str:
        """Name one token: its text, its grid cell (counted from 0), or its index."""
        if self.tokens is not None:
            return self.tokens[example][token]
        if self.grid is not None and self.patches is not None:
            cells = (self.patches == token).nonzero().flatten().tolist()
            if cells:
                axes = ("frame", "row", "column")[-len(self.grid) :]
                place = torch.unravel_index(torch.tensor(cells[0]), self.grid)
                return ", ".join(f"{axis} {int(at)}" for axis, at in zip(axes, place, strict=True))
        return f"token {token}"

    def on_grid(self, scores: Shaped[Tensor, "batch token"]) -> Shaped[Tensor, "batch *grid"]:
        """The scores of the patches, laid out as the grid is; all of them where there is none."""
        if self.grid is None or self.patches is None:
            return scores
        return scores[:, self.patches.to(scores.device)].unflatten(1, self.grid)

    def examples(self, chosen: slice) -> "Layout":
        """The layout of some examples of the batch."""
        return replace(
            self,
            special=self.special[chosen],
            padding=self.padding[chosen],
            tokens=None if self.tokens is None else self.tokens[chosen],
            words=None if self.words is None else self.words[chosen],
        )

    def repeat(self, count: int) -> "Layout":
        """The layout of one example, for `count` explanations of it."""
        return replace(
            self,
            special=self.special.expand(count, -1),
            padding=self.padding.expand(count, -1),
            tokens=None if self.tokens is None else self.tokens * count,
            words=None if self.words is None else self.words * count,
        )

    def check(self, name: str, scores: Tensor, batch: int) -> None:
        """Refuse scores that do not fit.

        Raises:
            InputError: When a shape, a list of tokens, or the grid disagrees with the scores.
        """
        shape = tuple(scores.shape)
        if self.modality not in MODALITIES:
            raise InputError(
                f"the modality of {name!r} is {self.modality!r}, none of {', '.join(MODALITIES)}"
            )
        if not scores.is_floating_point():
            raise InputError(f"scores of {name!r} are {scores.dtype}: relevance is a real number")
        if len(shape) != 2 or shape[0] != batch:
            raise InputError(f"scores of {name!r} have shape {shape}, not ({batch}, tokens)")
        for part in ("special", "padding"):
            flags = getattr(self, part)
            if tuple(flags.shape) != shape or flags.dtype != torch.bool:
                raise InputError(
                    f"{part} of {name!r} is {flags.dtype} {tuple(flags.shape)}; "
                    f"its scores need torch.bool {shape}"
                )
        for part in (self.tokens, self.words):
            if part is not None and [len(row) for row in part] != [shape[1]] * batch:
                raise InputError(f"the tokens of {name!r} are not {shape[1]} per example")
        if self.grid is not None:
            if not 1 <= len(self.grid) <= 3 or not all(size > 0 for size in self.grid):
                raise InputError(
                    f"the grid of {name!r} is {self.grid}: it needs one to three sizes above 0"
                )
            cells = math.prod(self.grid)
            patches = self.patches
            if patches is None or tuple(patches.shape) != (cells,):
                raise InputError(f"{name!r} has a grid of {cells} cells but not as many patches")
            if patches.is_floating_point() or patches.dtype == torch.bool:
                raise InputError(f"the patches of {name!r} are {patches.dtype}, no token numbers")
            if cells and not 0 <= int(patches.min()) <= int(patches.max()) < shape[1]:
                raise InputError(f"a patch of {name!r} is none of its {shape[1]} tokens")
