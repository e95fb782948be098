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

from relmap.data.example import Example
from relmap.errors import InputError, MissingExtraError, RelmapError, TraceError
from relmap.evaluation import Evaluation, evaluate
from relmap.explanation import DEFAULT_METHOD, compare, explain
from relmap.files import draw
from relmap.generation.captions import CaptionExplanation, explain_caption
from relmap.interactions import Interaction, interaction
from relmap.models import Model, load
from relmap.moved import answer_old_paths as _answer_old_paths
from relmap.result.attribution import Attribution, Layout
from relmap.result.comparison import Comparison
from relmap.result.point_prompts import Points, points
from relmap.trace import record
from relmap.trace.graph import TokenGraph

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

_answer_old_paths()

__version__ = importlib.metadata.version("relmap")
