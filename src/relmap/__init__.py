"""relmap: which image patches and which words made an attention model say this.

    import relmap
    model = relmap.load("openai/clip-vit-base-patch32")
    result = relmap.explain(model, image="cat.jpg", text="a cat on a sofa")
    result.save("cat.png")

The verbs are `load`, `explain`, `evaluate`, `record` and `draw`; what they return are `Model`,
`Attribution`, `Evaluation` and `TokenGraph`. `interaction` says which patches and words acted on
each other, `explain_caption` why a network wrote each word, `compare` what several methods say.
"""

import importlib.metadata

from relmap.attribution import Attribution, Layout
from relmap.captions import CaptionExplanation, explain_caption
from relmap.comparison import Comparison, compare
from relmap.draw import draw
from relmap.errors import InputError, MissingExtraError, RelmapError, TraceError
from relmap.evaluation import Evaluation, evaluate
from relmap.example import Example
from relmap.explain import DEFAULT_METHOD, explain
from relmap.graph import TokenGraph
from relmap.interaction import Interaction, interaction
from relmap.models import Model, load
from relmap.points import Points, points
from relmap.record import record

__all__ = [
    "DEFAULT_METHOD",
    "Attribution",
    "CaptionExplanation",
    "Comparison",
    "Evaluation",
    "Example",
    "InputError",
    "Interaction",
    "Layout",
    "MissingExtraError",
    "Model",
    "Points",
    "RelmapError",
    "TokenGraph",
    "TraceError",
    "__version__",
    "compare",
    "draw",
    "evaluate",
    "explain",
    "explain_caption",
    "interaction",
    "load",
    "points",
    "record",
]

__version__ = importlib.metadata.version("relmap")
