"""The recorder: watch one forward pass and draw its token graph.

Read in this order: `labels` (which token every element belongs to), `tags` (what is known about a
tensor), `calls` (one torch function), `rules` (the table from function to rule, each rule in the
file of its kind), `recorder` (the mode that applies them), `passes` (the pass around it), `finish`
(drafts become the graph). `tape`, `rerun` and `replay` run the network again, from any activation.
"""

from relmap.trace.entrances import graph_of_sources
from relmap.trace.freeze import build_graph, record
from relmap.trace.replay.replay import Replay
from relmap.trace.tracing import Recorded, recording

__all__ = ["Recorded", "Replay", "build_graph", "graph_of_sources", "record", "recording"]
