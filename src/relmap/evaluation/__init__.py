"""Evaluation: is the explanation right?

`evaluate` runs many methods and metrics over a data set. `judging` is one batch of it, `rows` what
it writes, `tables` what they say; `record` writes down everything that the numbers depend on.
"""

from functools import partial as _partial

from relmap.evaluation.plan import Plan, Settings
from relmap.evaluation.runs import DataSource, Evaluation, evaluate, finish, run
from relmap.evaluation.specification import Specification, read_method, read_metric
from relmap.moved import renamed as _renamed

__all__ = [
    "DataSource",
    "Evaluation",
    "Plan",
    "Settings",
    "Specification",
    "evaluate",
    "finish",
    "read_method",
    "read_metric",
    "run",
]  # fmt: skip

__getattr__ = _partial(_renamed, __name__)
