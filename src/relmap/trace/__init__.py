"""The recorder: watch one forward pass and draw its token graph.

Read in this order: `labels` (which token every element belongs to), `tags` (what is known about a
tensor), `drafts` (the notebook of a pass), `calls` (one torch function), `operations` (the rules,
one file for each kind of function), `table` (from function to rule), `recorder` (the mode that
applies them), `tracing` (the pass around it), `freeze` (drafts become the graph). `replay` runs the
network again, from any activation.
"""

from relmap.trace.entrances import graph_of_sources
from relmap.trace.freeze import build_graph, record
from relmap.trace.replay.replay import Replay
from relmap.trace.tracing import Recorded, recording

__all__ = ["Recorded", "Replay", "build_graph", "graph_of_sources", "record", "recording"]
