"""The functions of torch in every legal spelling: a table for each file of `trace.operations`.

The first spelling of a row is the plain one, which the literal oracle explains; all others are the
same network, written otherwise.
"""

from tiny.spellings.additions import ADDITIONS, GATES, SUMS
from tiny.spellings.movement import CONCATENATION, MOVEMENT
from tiny.spellings.products import ATTENTION, CONVOLUTIONS, MULTI_HEAD, PRODUCTS
from tiny.spellings.reductions import REDUCTIONS
from tiny.spellings.writes import WRITES

__all__ = ["ADDITIONS", "ATTENTION", "CONCATENATION", "CONVOLUTIONS", "GATES", "MOVEMENT",
           "MULTI_HEAD", "PRODUCTS", "REDUCTIONS", "SUMS", "WRITES"]  # fmt: skip
