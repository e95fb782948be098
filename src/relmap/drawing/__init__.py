"""Pictures of attributions: heat maps over images, coloured words, strips over time.

A figure is a page of blocks. Each example gives a title and one block per source, so an image and
its text stand in one figure and the examples of a batch stand one under the other. Scores are
scaled here and nowhere else; legends and colour bars show the raw values. Importing this registers
the figures of all results with `relmap.files`.
"""

from relmap.drawing import figures
from relmap.files import draw

__all__ = ["draw", "figures"]
