"""A recorded pass run again, from any activation: `tape` notes, `rerun` repeats, `replay` asks."""

from relmap.trace.replay.replay import Replay

__all__ = ["Replay"]
