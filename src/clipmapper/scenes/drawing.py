"""Scenes as pixels: shapes over a textured ground, and the exact mask of every thing."""

import math
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageDraw

from clipmapper.scenes.world import SIDE, Scene, Thing

__all__ = ["draw_masks", "draw_scene"]

_RGB = {
    "red": (214, 39, 40),
    "green": (44, 160, 44),
    "blue": (31, 90, 200),
    "yellow": (235, 205, 40),
    "purple": (140, 60, 180),
    "orange": (245, 130, 30),
}
_OVERSAMPLING = 3  # for smooth edges


def draw_scene(scene: Scene) -> UInt8[np.ndarray, "112 112 3"]:
    """The picture of a scene, RGB.

    Example:
        >>> draw_scene(Scene((), "plain", 0)).shape
        (112, 112, 3)
    """
    random = np.random.default_rng(scene.seed)
    picture = Image.fromarray(_ground(scene.background, random))
    for thing in scene.things:
        left, top, right, bottom = box = _box(thing)
        size = (right - left, bottom - top)
        cover = Image.new("L", (size[0] * _OVERSAMPLING, size[1] * _OVERSAMPLING))
        here = replace(thing, x=thing.x - left, y=thing.y - top)
        _fill(ImageDraw.Draw(cover), here, _OVERSAMPLING)
        colour = np.array(_RGB[thing.colour]) + random.integers(-14, 15, 3)
        soft = cover.resize(size, Image.Resampling.BOX)
        picture.paste(tuple(int(v) for v in colour.clip(0, 255)), box, soft)
    return np.asarray(picture)


def draw_masks(scene: Scene) -> Bool[np.ndarray, "things 112 112"]:
    """For every thing, the pixels that it covers.

    Example:
        >>> thing = Thing("red", "circle", "small", 50.0, 50.0, 10.0, 0.0)
        >>> draw_masks(Scene((thing,), "plain", 0)).sum()
        np.int64(277)
    """
    masks = np.zeros((len(scene.things), SIDE, SIDE), dtype=bool)
    for index, thing in enumerate(scene.things):
        cover = Image.new("L", (SIDE, SIDE))
        _fill(ImageDraw.Draw(cover), thing, 1)
        masks[index] = np.asarray(cover) > 0
    return masks


def _box(thing: Thing) -> tuple[int, int, int, int]:
    reach = thing.radius + 1
    left, top = math.floor(thing.x - reach), math.floor(thing.y - reach)
    right, bottom = math.ceil(thing.x + reach), math.ceil(thing.y + reach)
    return max(left, 0), max(top, 0), min(right, SIDE), min(bottom, SIDE)


def _fill(canvas: ImageDraw.ImageDraw, thing: Thing, scale: int) -> None:
    if thing.shape == "circle":
        x, y, r = thing.x * scale, thing.y * scale, thing.radius * scale * 0.9
        canvas.ellipse((x - r, y - r, x + r, y + r), fill=255)
    else:
        canvas.polygon([(x * scale, y * scale) for x, y in _corners(thing)], fill=255)


def _corners(thing: Thing) -> list[tuple[float, float]]:
    """The corners of a regular polygon or star, turned by the thing's angle."""
    count, inner = {"square": (4, 1.0), "triangle": (3, 1.0), "star": (10, 0.45)}[thing.shape]
    start = 45.0 if thing.shape == "square" else -90.0
    corners = []
    for index in range(count):
        turn = math.radians(start + thing.angle + 360.0 * index / count)
        reach = thing.radius * (inner if index % 2 else 1.0)
        corners.append((thing.x + reach * math.cos(turn), thing.y + reach * math.sin(turn)))
    return corners


def _ground(background: str, random: np.random.Generator) -> UInt8[np.ndarray, "112 112 3"]:
    """A muted texture: no ground is as colourful as a thing."""
    base = random.uniform(150, 225)
    colour = base + random.uniform(-12, 12, 3)
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    period, phase = random.uniform(9, 18), random.uniform(0, 18)
    turn = random.uniform(0, math.pi)
    along = x * math.cos(turn) + y * math.sin(turn) + phase
    across = -x * math.sin(turn) + y * math.cos(turn) + phase
    if background == "striped":
        pattern = np.sign(np.sin(2 * math.pi * along / period))
    elif background == "dotted":
        waves = np.sin(2 * math.pi * along / period) * np.sin(2 * math.pi * across / period)
        pattern = np.where(waves > 0.55, 1.5, -0.5)
    elif background == "checked":
        waves = np.sin(math.pi * along / period) * np.sin(math.pi * across / period)
        pattern = np.sign(waves)
    elif background == "grainy":
        pattern = random.normal(0, 1.2, (SIDE, SIDE))
    else:  # plain: a soft slope
        pattern = (along - along.mean()) / SIDE * 2
    strength = random.uniform(7, 14)
    noise = random.normal(0, 2.0, (SIDE, SIDE, 1))
    return (colour + strength * pattern[..., None] + noise).clip(0, 255).astype(np.uint8)
