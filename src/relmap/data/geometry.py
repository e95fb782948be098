"""Geometry: a mask must be cut and scaled exactly as the model's processor does its image.

Processors resize to a square or by the shortest side, crop, pad, or crop by a percentage, each
with its own rounding. None of that is repeated here: the mask, drawn in black and white, goes
through the same processor with nearest-neighbour sampling and without rescaling of its values.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from relmap.errors import InputError

__all__ = ["masks_as_seen"]


def masks_as_seen(
    masks: Sequence[Bool[Tensor, "_ _"]], processor: Any
) -> Bool[Tensor, "batch rows columns"]:
    """Masks of a batch of images in the geometry in which the model sees these images.

    What the processor crops away is lost; what it pads is outside the mask.

    Args:
        masks: Each true inside the object, with the height and width of its original image.
        processor: A transformers image processor, or a processor that holds one.

    Raises:
        InputError: If the processor does not turn an image into one picture of plain pixels (it
            cuts tiles, flattens patches, or changes values beyond rescaling and normalising).
    """
    from PIL import Image

    images = getattr(processor, "image_processor", processor)
    if not hasattr(images, "preprocess"):
        raise InputError(
            f"a mask can follow transformers' image processors only, not {type(images).__name__}"
        )
    drawn = [Image.fromarray(mask.cpu().numpy().astype("uint8") * 255) for mask in masks]
    seen = images(
        [picture.convert("RGB") for picture in drawn],
        do_rescale=False,
        do_normalize=False,
        resample=Image.Resampling.NEAREST,
        return_tensors="pt",
    )
    pixels = seen.get("pixel_values")
    if pixels is None or pixels.ndim != 4 or pixels.shape[:2] != (len(masks), 3):
        shape = None if pixels is None else tuple(pixels.shape)
        raise InputError(
            f"{type(images).__name__} does not turn each image into one picture (pixel_values of "
            f"shape {shape}): a mask cannot follow its geometry"
        )
    if not torch.isin(pixels, torch.tensor([0, 255], dtype=pixels.dtype)).all():
        raise InputError(
            f"{type(images).__name__} changes more than the geometry of an image: "
            "black and white do not stay black and white"
        )
    return pixels[:, 0] > 0
