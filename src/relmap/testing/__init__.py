"""The project's own contract tests, for anybody's plug-in.

Each check runs what relmap's suite runs on its own methods, backwards and metrics, on tiny networks
that are made here, and raises an AssertionError that says in a sentence what is not kept:

    from relmap.testing import check_method

    def test_my_method_keeps_the_contract():
        check_method("my-method")

It needs nothing but relmap, and no test runner.
"""

from relmap.testing.backwards import check_backward
from relmap.testing.contract import check_batch, check_layout
from relmap.testing.methods import check_method
from relmap.testing.metrics import check_metric
from relmap.testing.models import check_model

__all__ = [
    "check_backward",
    "check_batch",
    "check_layout",
    "check_method",
    "check_metric",
    "check_model",
]
