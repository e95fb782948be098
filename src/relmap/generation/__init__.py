"""Text that a network went on with: token by token and as a whole.

`continuation` puts the text that was given or generated back among the arguments of the forward;
`captions` explains every word of it, and the whole.
"""

from relmap.generation.captions import CaptionExplanation, explain_caption

__all__ = ["CaptionExplanation", "explain_caption"]
