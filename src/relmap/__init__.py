"""relmap: which image patches and which words made an attention model say this.

    import relmap
    model = relmap.load("openai/clip-vit-base-patch32")
    result = relmap.explain(model, image="cat.jpg", text="a cat on a sofa")
    result.save("cat.png")

The verbs are `load`, `explain`, `record` and `draw`; what they return are `Model`, `Attribution`
and `TokenGraph`.
"""

import importlib.metadata

from relmap.attribution import Attribution, Layout
from relmap.draw import draw
from relmap.errors import InputError, MissingExtraError, RelmapError, TraceError
from relmap.explain import DEFAULT_METHOD, explain
from relmap.graph import TokenGraph
from relmap.models import Model, load
from relmap.record import record

__all__ = [
    "DEFAULT_METHOD",
    "Attribution",
    "InputError",
    "Layout",
    "MissingExtraError",
    "Model",
    "RelmapError",
    "TokenGraph",
    "TraceError",
    "__version__",
    "draw",
    "explain",
    "load",
    "record",
]

__version__ = importlib.metadata.version("relmap")
