"""Heat maps: the relevance of the patches laid over the picture they were cut from.

Patch scores are upsampled bilinearly with patch centres kept in place, so a cell of the grid lies
exactly over its patch. The picture shown has to be the one the model saw (after cropping).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from relmap.drawing.colours import FAINT, GREY, Scale, number, scale_of
from relmap.drawing.page import MARGIN, WIDTH, Area, Block
from relmap.result.attribution import Attribution

SIDE = 640  # pixels of the longer side of a drawn picture
TALL, GAP, BAR = 3.1, 0.12, 0.75  # inches: highest panel, between panels, colour bar with numbers
FRAMES = 6
EXTREMES = 0.995  # share of the pixels whose relevance is drawn as it is
FAINTEST, STRONGEST = 0.25, 0.85  # how opaque the colour of no and of most relevance is

Array = np.ndarray


@dataclass(frozen=True)
class Map:
    """The relevance of one picture on its grid, the padded cells of it, and the picture."""

    scores: Float[Tensor, "rows columns"]
    padding: Tensor
    picture: Array | None

    @property
    def ratio(self) -> float:
        """Height over width."""
        rows, columns = self.scores.shape if self.picture is None else self.picture.shape[:2]
        return rows / columns


def heat_map(example: Attribution, name: str) -> Block:
    """The picture beside its heat map with a colour bar; a video becomes one map per frame."""
    maps = maps_of(example, name)
    scale = scale_of_maps(maps)
    original = [maps[0].picture] if len(maps) == 1 and maps[0].picture is not None else []
    count = len(original) + len(maps)
    room = (WIDTH - 2 * MARGIN - BAR - GAP * (count - 1)) / count
    ratio = maps[0].ratio
    height = min(room * ratio, TALL)
    width = height / ratio

    def paint(area: Area) -> None:
        left = 0.0
        for picture in original:
            area.axes(left, 0.0, width, height).imshow(picture, aspect="auto")
            left += width + GAP
        for each in maps:
            area.axes(left, 0.0, width, height).imshow(coloured(each, scale), aspect="auto")
            left += width + GAP
        colour_bar(area, left, height, scale, 0.6 if original else None)

    return Block(height + 0.12, paint)


def maps_of(example: Attribution, name: str) -> list[Map]:
    """The maps of one example: one, or one per frame (evenly chosen where there are many)."""
    layout = example.layout[name]
    if name in example.pixels:
        pixels = example.pixels[name][0].detach().cpu().float()
        picture = _pictures(example.inputs.get("image"), 1)[0]
        return [Map(_clipped(pixels), torch.zeros_like(pixels, dtype=torch.bool), picture)]
    scores = layout.on_grid(example.scores[name])[0].detach().cpu().float()
    padding = layout.on_grid(layout.padding)[0].cpu()
    if scores.ndim == 2:
        scores, padding = scores[None], padding[None]
    pictures = _pictures(example.inputs.get("image"), len(scores))
    shown = torch.linspace(0, len(scores) - 1, min(len(scores), FRAMES)).round().int().tolist()
    return [Map(scores[at], padding[at], pictures[at]) for at in shown]


def _clipped(pixels: Tensor) -> Tensor:
    """Pixel relevance is heavy-tailed: a few pixels would leave the others without a colour."""
    most = pixels.abs().flatten().quantile(EXTREMES)
    return pixels.clamp(-most, most)


def scale_of_maps(maps: list[Map]) -> Scale:
    """One scale for several maps, so that their colours compare."""
    values = torch.cat([each.scores.flatten() for each in maps])
    return scale_of(values, ~torch.cat([each.padding.flatten() for each in maps]))


def coloured(each: Map, scale: Scale) -> Float[Array, "height width 3"]:
    """The colours of the upsampled scores, blended over the grey picture; padding is grey."""
    height, width = _size(*each.scores.shape) if each.picture is None else each.picture.shape[:2]
    smooth = torch.nn.functional.interpolate(
        each.scores.masked_fill(each.padding, scale.low)[None, None],
        size=(height, width),
        mode="bilinear",
        align_corners=False,
    )[0, 0]
    # Lifted, so that the dark end of the colours still shows on a dark picture.
    luma = None if each.picture is None else each.picture @ np.array([0.299, 0.587, 0.114])
    grey = None if luma is None else 0.2 + 0.75 * luma
    colours = _blend(smooth.numpy(), scale, grey)
    if each.padding.any():
        rows = torch.arange(height) * each.padding.shape[0] // height
        columns = torch.arange(width) * each.padding.shape[1] // width
        colours[each.padding[rows][:, columns].numpy()] = GREY
    return colours


def _blend(scores: Array, scale: Scale, ground: Array | float | None) -> Array:
    """The colours of scores over a grey ground, the more opaque the more relevant."""
    share = np.asarray(scale.norm(scores))
    colours = scale.picture_map(share)[..., :3]
    if ground is None:
        return colours
    strength = abs(2 * share - 1) if scale.signed else share
    opacity = (FAINTEST + (STRONGEST - FAINTEST) * strength)[..., None]
    return opacity * colours + (1 - opacity) * np.asarray(ground)[..., None]


def colour_bar(
    area: Area, left: float, height: float, scale: Scale, ground: float | None = None
) -> None:
    """A vertical colour bar with the raw values at its ends (and zero where there is one)."""
    bar = area.axes(left, 0.07, 0.11, height - 0.14)
    steps = np.linspace(scale.high, scale.low, 256)[:, None]
    bar.imshow(_blend(steps, scale, ground), aspect="auto")
    for value in scale.ticks:
        share = (scale.high - value) / (scale.high - scale.low)
        area.text(left + 0.16, 0.07 + share * (height - 0.14), number(value), 7.0, color=FAINT)
    if height > (1.8 if scale.signed else 1.0):
        middle = 0.07 + (0.25 if scale.signed else 0.5) * (height - 0.14)  # clear of the numbers
        area.text(left + 0.22, middle, "relevance", 7.0, color=FAINT, rotation=90, va="center")


def picture_of(value: Any) -> Float[Array, "height width 3"]:
    """A picture as RGB between 0 and 1, out of a PIL image or a tensor of pixels.

    Pixel tensors (channels first) that were standardised for a model are stretched to 0..1.
    """
    from PIL import Image

    if isinstance(value, Tensor | np.ndarray):
        pixels = torch.as_tensor(value).detach().cpu().float()
        if pixels.ndim == 3 and pixels.shape[0] in (1, 3):
            pixels = pixels.permute(1, 2, 0)
        pixels = pixels[..., None] if pixels.ndim == 2 else pixels
        low, high = pixels.amin(), pixels.amax()
        pixels = (pixels - low) / (high - low).clamp_min(1e-12)
        levels = (pixels * 255).round().byte().expand(-1, -1, 3).contiguous().numpy()
        value = Image.fromarray(levels)
    height, width = _size(value.height, value.width)
    sampling = Image.Resampling.NEAREST if width > 4 * value.width else Image.Resampling.BICUBIC
    return np.asarray(value.convert("RGB").resize((width, height), sampling)) / 255.0


def _size(rows: int, columns: int) -> tuple[int, int]:
    zoom = SIDE / max(rows, columns)
    return max(1, round(rows * zoom)), max(1, round(columns * zoom))


def _pictures(given: Any, frames: int) -> list[Array | None]:
    """One picture per map of this example, if there are any."""
    picture = None if given is None else given[0]
    if picture is None:
        return [None] * frames
    if frames == 1 and not isinstance(picture, list | tuple):
        single = picture[0] if isinstance(picture, Tensor) and picture.ndim == 4 else picture
        return [picture_of(single)]
    if isinstance(picture, list | tuple | Tensor | np.ndarray) and len(picture) >= frames:
        chosen = torch.linspace(0, len(picture) - 1, frames).round().int().tolist()
        return [picture_of(picture[at]) for at in chosen]
    return [None] * frames
