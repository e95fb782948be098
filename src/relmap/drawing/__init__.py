"""Pictures of attributions: heat maps over images, coloured words, strips over time.

A figure is a page of blocks. Each example gives a title and one block per source, so an image and
its text stand in one figure and the examples of a batch stand one under the other. Scores are
scaled here and nowhere else; legends and colour bars show the raw values. Importing this registers
the figures of all results with `relmap.files`.
"""

from relmap.drawing import figures
from relmap.drawing.figures import draws_source
from relmap.drawing.page import Block
from relmap.files import draw, draws

__all__ = ["Block", "draw", "draws", "draws_source", "figures"]
