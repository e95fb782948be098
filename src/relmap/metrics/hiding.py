"""The model under test: asked again with part of its inputs hidden or taken away.

Tests of faithfulness all do the same thing to a model: they hide what a map says is important (or
not), and look at what happens to the answer. Which parts are hidden is a mask over units (patches,
pixels, text tokens, boxes); how they are hidden is a *fill*. Rows that ask the same thing of the
same example are run once, and so are the unperturbed input, the fully hidden one, and what two
metrics ask alike. An answer depends on the other rows that are run with it by rounding only, and
which these are depends on the question alone, never on what was asked before it: a metric that is
added later finds the very numbers that it would have found at once.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from relmap.errors import InputError, MissingExtraError
from relmap.result.layout import Layout
from relmap.targets.answers import Answer, TargetContext, read_answer
from relmap.trace.argument_roles import belongs

__all__ = ["FILLS", "Response", "Subject"]

FILLS = {
    "black": "the pixel value 0 before normalisation",
    "white": "the pixel value 1 before normalisation",
    "mean": "the mean colour that the model's preprocessing subtracts",
    "image-mean": "the mean colour of the image itself",
    "blur": "the image blurred by a Gaussian whose deviation is a 16th of its side",
    "noise": "uniform random colours, the same for the same example",
    "remove": "tokens are taken out, and the sequence is that much shorter; where nothing would be "
    "left, one token of zeros is",
    "mask-token": "the tokenizer's mask token stands in their place",
    "pad-token": "the tokenizer's padding token stands in their place",
}
_REMOVING = ("remove", "mask-token", "pad-token")


@dataclass(frozen=True, eq=False)
class Response:
    """What a model said to every perturbed input, and how much of its first answer is left.

    Attributes:
        logit: The score of the explained choice.
        probability: Its probability: a softmax over choices that exclude each other, else a
            sigmoid; NaN for an image-text score, which is no probability.
        choice: The highest choice.
    """

    logit: Float[Tensor, "example step"]
    probability: Float[Tensor, "example step"]
    choice: Int[Tensor, "example step"]


Said = tuple[float, float, int]
Question = tuple[Hashable, ...]
"""Logit and probability of the explained choice, and the highest choice."""


@dataclass(frozen=True, eq=False)
class Subject:
    """A network with the arguments of a batch, and what it said of each example's choice.

    Attributes:
        network: The module itself.
        arguments: The forward's arguments of the unperturbed batch.
        batch: Examples in it.
        explained: The choice of each example whose score is watched.
        kind: What a choice is: "class", "pair", "token" or "detection".
        names: Of the examples, which seed the noise.
        mean: The colour that preprocessing subtracts, None where that is not known.
        deviation: What it divides by.
        rows: Perturbed inputs that are run at once.
        known: What was said of each unperturbed example, as ("whole", example).
        hidden: What was said of fully hidden examples; subjects of one batch may share it.
        asked: The questions that were answered.
    """

    network: nn.Module
    arguments: Mapping[str, Any]
    batch: int
    explained: Int[Tensor, " example"]
    kind: str
    names: tuple[str, ...]
    context: Callable[[int, Mapping[str, Any]], TargetContext]
    mean: tuple[float, ...] | None = None
    deviation: tuple[float, ...] | None = None
    rows: int = 32
    known: dict[Question, Said] = field(default_factory=dict)
    hidden: dict[Question, Said] = field(default_factory=dict)
    asked: dict[Question, Response] = field(default_factory=dict)

    def respond(
        self, source: str, layout: Layout, keep: Bool[Tensor, "example step unit"], fill: str
    ) -> Response:
        """What the model says where only some units of a source are kept.

        Units are the patches of the layout's grid or the pixels of the image (told apart by their
        number), or the tokens of the source. Special tokens are never taken out.

        Raises:
            InputError: The fill does not fit the source, or needs what the model does not say.

        Example:
            >>> import torch
            >>> list(FILLS)[:3]
            ['black', 'white', 'mean']
        """
        check_fill(fill, layout.modality)
        keep = keep.cpu()
        content = hashlib.blake2b(keep.numpy().tobytes()).digest()
        question = (source, fill, tuple(keep.shape), content)
        if question not in self.asked:
            self.asked[question] = self._answered(source, layout, keep, fill)
        return self.asked[question]

    def _answered(
        self, source: str, layout: Layout, keep: Bool[Tensor, "example step unit"], fill: str
    ) -> Response:
        wanted = [
            (_key(source, layout, fill, example, row), example, row)
            for example, rows in enumerate(keep)
            for row in rows
        ]
        # dicts: of equal rows one is run
        whole = {
            key: (example, row) for key, example, row in wanted
            if key[0] == "whole" and key not in self.known
        }  # fmt: skip
        part = {key: (example, row) for key, example, row in wanted if key[0] == "part"}
        self.known.update(self._said(source, layout, fill, whole))
        if any(key[0] == "hidden" and key not in self.hidden for key, _, _ in wanted):
            rows = [(at, _hidden(layout, at, keep.shape[-1])) for at in range(self.batch)]
            hidden = {_key(source, layout, fill, at, row): (at, row) for at, row in rows}
            self.hidden.update(self._said(source, layout, fill, hidden))
        said = self.known | self.hidden | self._said(source, layout, fill, part)
        logit, probability, choice = zip(*(said[key] for key, _, _ in wanted), strict=True)
        shape = keep.shape[:2]
        return Response(
            torch.tensor(logit, dtype=torch.float64).view(shape),
            torch.tensor(probability, dtype=torch.float64).view(shape),
            torch.tensor(choice).view(shape),
        )

    def perturbed(
        self, source: str, layout: Layout, keep: Bool[Tensor, "row unit"], fill: str,
        examples: Sequence[int],
    ) -> dict[str, Any]:  # fmt: skip
        """The forward's arguments in which each row is an example with only some units kept.

        Raises:
            InputError: The fill does not fit the source, or needs what the model does not say.
        """
        check_fill(fill, layout.modality)
        arguments = {name: self._rows_of(value, examples) for name, value in self.arguments.items()}
        if not bool(keep.all()):
            arguments |= self._changed(source, layout, fill, arguments, keep, examples)
        return arguments

    def remember(self, answer: Answer) -> None:
        """Note what the model said of the unperturbed batch, so that it is not asked again."""
        for example, said in enumerate(self._read(answer, range(self.batch))):
            self.known[("whole", example)] = said

    def _said(
        self, source: str, layout: Layout, fill: str,
        missing: Mapping[Question, tuple[int, Tensor]],
    ) -> dict[Question, Said]:  # fmt: skip
        """What the model says of rows, each by its key."""
        said: dict[Question, Said] = {}
        for chunk in self._chunks(missing, layout, fill):
            said.update(self._run(source, layout, fill, chunk))
        return said

    def _chunks(
        self, missing: Mapping[Question, tuple[int, Tensor]], layout: Layout, fill: str
    ) -> list[list[tuple[Question, int, Tensor]]]:
        """The rows to run, in batches of equal shape and of at most `rows`."""
        groups: dict[int, list[tuple[Question, int, Tensor]]] = {}
        for key, (example, row) in missing.items():
            # What is shorter is run apart, so that no answer depends on somebody else's padding.
            removed = fill == "remove" and key != ("whole", example)
            length = int(_tokens_kept(layout, example, row).sum()) if removed else -1
            groups.setdefault(length, []).append((key, example, row))
        return [
            group[start : start + self.rows]
            for group in groups.values()
            for start in range(0, len(group), self.rows)
        ]

    def _run(
        self, source: str, layout: Layout, fill: str, chunk: Sequence[tuple[Question, int, Tensor]]
    ) -> dict[Question, Said]:
        examples = [example for _, example, _ in chunk]
        keep = torch.stack([row for _, _, row in chunk])
        arguments = self.perturbed(source, layout, keep, fill, examples)
        with torch.no_grad():
            output = self.network(**arguments)
        answer = read_answer(output, self.context(len(chunk), arguments))
        said = self._read(answer, examples)
        return {key: one for (key, _, _), one in zip(chunk, said, strict=True)}

    def _rows_of(self, value: Any, examples: Sequence[int]) -> Any:
        if isinstance(value, Tensor) and value.ndim and len(value) == self.batch:
            return value[torch.tensor(examples, device=value.device)]
        return value

    def _read(self, answer: Answer, examples: Sequence[int]) -> list[Said]:
        scores = answer.scores.detach().double().cpu()
        if answer.kind == "pair":  # a text is scored for its own image; the others are neighbours
            logit = scores.diagonal()
            return [(value, float("nan"), 0) for value in logit.tolist()]
        columns = self.explained.cpu()[torch.tensor(list(examples))]
        logit = scores.gather(1, columns[:, None])[:, 0]
        shares = scores.softmax(dim=1) if answer.exclusive else scores.sigmoid()
        probability = shares.gather(1, columns[:, None])[:, 0]
        choice = answer.scores.argmax(dim=1).tolist()
        return list(zip(logit.tolist(), probability.tolist(), choice, strict=True))

    def _changed(
        self, source: str, layout: Layout, fill: str, arguments: Mapping[str, Any], keep: Tensor,
        examples: Sequence[int],
    ) -> dict[str, Any]:  # fmt: skip
        """The arguments in which some units are hidden."""
        if layout.modality == "image" and fill not in _REMOVING:
            pixels = arguments[source]
            cells = to_pixels(keep, layout, pixels.shape[-2:]).to(pixels.device)
            shown = torch.where(cells[:, None], pixels, self._filling(fill, pixels, examples))
            return {source: shown}
        rows = zip(keep, examples, strict=True)
        kept = torch.stack([_tokens_kept(layout, example, row) for row, example in rows])
        if fill == "remove":
            return _shortened(source, layout, arguments, kept)
        return {source: self._replaced(arguments[source], kept, layout, fill, examples)}

    def _filling(self, fill: str, pixels: Tensor, examples: Sequence[int]) -> Tensor:
        """What stands where pixels are hidden, normalised as the pixels are."""
        if fill == "blur":
            return blurred(pixels)
        if fill == "image-mean":
            return pixels.mean(dim=(-2, -1), keepdim=True).expand_as(pixels)
        if self.mean is None or self.deviation is None:
            raise InputError(
                f"fill={fill!r} is a colour before normalisation, and this model does not say how "
                "it normalises: load it with its image processor, or use fill='image-mean' or "
                "'blur'"
            )
        mean = pixels.new_tensor(self.mean)[:, None, None]
        deviation = pixels.new_tensor(self.deviation)[:, None, None]
        if fill == "noise":
            drawn = [_noise(self.names[one], pixels.shape[1:]).to(pixels) for one in examples]
            return (torch.stack(drawn) - mean) / deviation
        colour = {"black": torch.zeros_like(mean), "white": torch.ones_like(mean), "mean": mean}
        return ((colour[fill] - mean) / deviation).expand_as(pixels)

    def _replaced(
        self, ids: Tensor, kept: Tensor, layout: Layout, fill: str, examples: Sequence[int]
    ) -> Tensor:
        tokenizer = self.context(self.batch, self.arguments).tokenizer
        number = getattr(tokenizer, f"{fill.replace('-', '_')}_id", None)
        if number is None:
            raise InputError(
                f"fill={fill!r}: this model's tokenizer has no {fill.replace('-', ' ')}; "
                "use fill='remove'"
            )
        hidden = ~kept & ~layout.padding.cpu()[torch.tensor(list(examples))]
        return torch.where(hidden.to(ids.device), number, ids)


def _key(
    source: str, layout: Layout, fill: str, example: int, row: Bool[Tensor, " unit"]
) -> Question:
    """What is asked of an example: it "whole", fully "hidden", or a "part" of it."""
    if bool(row.all()):
        return ("whole", example)
    if torch.equal(row, _hidden(layout, example, len(row))):
        return ("hidden", source, fill, example, len(row))
    return ("part", example, hashlib.blake2b(row.numpy().tobytes()).digest())


def _hidden(layout: Layout, example: int, units: int) -> Bool[Tensor, " unit"]:
    """Which units are kept where everything is hidden: special tokens and padding, of tokens."""
    if layout.modality == "image":
        return torch.zeros(units, dtype=torch.bool)
    return ~layout.content[example].cpu()


def check_fill(fill: str, modality: str) -> None:
    """Refuse a fill that does not exist, or not for this kind of input.

    Raises:
        InputError: With the fills that fit.
    """
    colours = [name for name in FILLS if name not in _REMOVING]
    fitting = {"image": colours, "text": list(_REMOVING)}.get(modality, ["remove"])
    if fill not in fitting:
        raise InputError(f"fill={fill!r} does not fit {modality} input: use {', '.join(fitting)}")


def to_pixels(
    keep: Bool[Tensor, "row unit"], layout: Layout, size: Sequence[int]
) -> Bool[Tensor, "row height width"]:
    """A mask of patches, or of pixels already, at the size of the image.

    Raises:
        InputError: There are as many units as neither patches nor pixels.
    """
    height, width = size
    if keep.shape[1] == height * width:
        return keep.unflatten(1, (height, width))
    if (
        layout.grid is None
        or len(layout.grid) != 2
        or keep.shape[1] != layout.grid[0] * layout.grid[1]
    ):
        raise InputError(
            f"a mask of {keep.shape[1]} units is neither one of {height} x {width} pixels nor one "
            f"of the patch grid {layout.grid}"
        )
    cells = keep.unflatten(1, layout.grid)[:, None].float()
    return torch.nn.functional.interpolate(cells, (height, width), mode="nearest-exact")[:, 0] > 0


def blurred(pixels: Float[Tensor, "row colour height width"]) -> Tensor:
    """The pictures under a Gaussian with a deviation of a 16th of their side, borders repeated.

    The Gaussian is cut at three deviations.

    Raises:
        MissingExtraError: scipy is not installed.
    """
    try:
        from scipy.ndimage import gaussian_filter
    except ImportError as error:
        raise MissingExtraError("evaluate") from error
    deviations = [side / 16 for side in pixels.shape[-2:]]
    smooth = gaussian_filter(
        pixels.double().cpu().numpy(), deviations, mode="nearest", truncate=3, axes=(-2, -1)
    )
    return torch.from_numpy(smooth).to(pixels)


def _noise(name: str, shape: Sequence[int]) -> Tensor:
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    return torch.rand(tuple(shape), generator=generator)


def _tokens_kept(layout: Layout, example: int, row: Bool[Tensor, " token"]) -> Tensor:
    """The tokens of one example that stay: those kept, and special ones; never padding."""
    special, padding = layout.special[example].cpu(), layout.padding[example].cpu()
    return (row | special) & ~padding


def _shortened(
    source: str, layout: Layout, arguments: Mapping[str, Any], kept: Bool[Tensor, "row token"]
) -> dict[str, Any]:
    """All arguments that have one entry for every token of the source, without some of them."""
    length, found = kept.shape[1], {}
    empty = not bool(kept.any())
    if empty:  # no network takes a sequence without tokens
        kept = kept.clone()
        kept[:, 0] = True
    for name, value in arguments.items():
        if not isinstance(value, Tensor) or value.shape[:2] != kept.shape[:2]:
            continue
        if name in layout.names or belongs(name, source, layout.modality == "text"):
            here = kept.to(value.device)
            found[name] = value[here].view(len(kept), -1, *value.shape[2:])
            if empty and (name == source or value.is_floating_point()):
                found[name] = torch.zeros_like(found[name])
    if source not in found:
        raise InputError(
            f"tokens cannot be taken out of {source!r}: its shape {tuple(arguments[source].shape)} "
            f"does not begin with (batch, {length} tokens)"
        )
    return found
