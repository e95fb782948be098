"""Scenes: a synthetic world in which the truth of an explanation is known.

Pictures of two to five coloured shapes, questions about them, captions, and for every question the
objects and the words that its answer depends on. `world` says what a scene is, `drawing` turns it
into pixels and masks, `kinds`, `questions` and `captions` into words, and `write_scenes` puts all
of it on disk in the official formats of VQA v2 and COCO: what reads those data sets reads this one.
"""

from clipmapper.scenes.captions import describe_scene
from clipmapper.scenes.drawing import draw_masks, draw_scene
from clipmapper.scenes.kinds import KINDS
from clipmapper.scenes.questions import SceneQuestion, ask
from clipmapper.scenes.world import (
    COLOURS,
    SHAPES,
    SIZES,
    UNSEEN_PAIRS,
    Scene,
    Thing,
    sample_siblings,
)
from clipmapper.scenes.writing import world_texts, write_scenes

__all__ = [
    "COLOURS",
    "KINDS",
    "SHAPES",
    "SIZES",
    "UNSEEN_PAIRS",
    "Scene",
    "SceneQuestion",
    "Thing",
    "ask",
    "describe_scene",
    "draw_masks",
    "draw_scene",
    "sample_siblings",
    "world_texts",
    "write_scenes",
]
