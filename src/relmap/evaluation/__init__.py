"""Evaluation: is the explanation right?

`evaluate` runs many methods and metrics over a data set. `judging` is one batch of it, `rows` what
it writes, `tables` what they say; `record` writes down everything that the numbers depend on.
"""

from relmap.evaluation.plan import Plan, Settings
from relmap.evaluation.runs import Evaluation, Source, evaluate, finish, run
from relmap.evaluation.specification import Specification, read_method, read_metric

__all__ = [
    "Evaluation", "Plan", "Settings", "Source", "Specification", "evaluate", "finish",
    "read_method", "read_metric", "run",
]  # fmt: skip
