"""What each kind of operation does to tokens. A file for each kind; `trace.table` lists them.

An operation that is in none of these files is registered with `OPERATIONS` from outside.
"""

from relmap.trace.operations.registered import OPERATIONS, OperationEntry

__all__ = ["OPERATIONS", "OperationEntry"]
