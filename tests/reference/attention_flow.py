"""Attention flow as it was defined: augmenting paths through the layers, one flow per input."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .records import Record


def relevance(
    records: Sequence[Record], size: int, read: int, weigh: Callable[[Record], Tensor]
) -> Tensor:
    """Maximum flow from a token of the last layer to each of the first, divided by their sum."""
    layers = len(records)
    count = (layers + 1) * size
    capacity = torch.zeros(count, count, dtype=torch.float64)
    for layer, record in enumerate(records):
        extended = torch.zeros(size, size, dtype=torch.float64)
        for row, token in enumerate(record.rows.tolist()):
            extended[token, record.columns] = weigh(record)[row]
        mixed = torch.eye(size, dtype=torch.float64) + extended
        mixed = mixed / mixed.sum(dim=1, keepdim=True)
        above, below = (layer + 1) * size, layer * size
        capacity[above : above + size, below : below + size] = mixed
    flows = [_maximum_flow(capacity.tolist(), layers * size + read, sink) for sink in range(size)]
    return torch.tensor(flows, dtype=torch.float64) / sum(flows)


def _maximum_flow(left: list[list[float]], start: int, end: int) -> float:
    """Edmonds-Karp on what is left of the capacities."""
    total = 0.0
    while True:
        came = {start: start}
        waiting = deque([start])
        while waiting and end not in came:
            node = waiting.popleft()
            for other, room in enumerate(left[node]):
                if room > 1e-13 and other not in came:
                    came[other] = node
                    waiting.append(other)
        if end not in came:
            return total
        path, node = [], end
        while node != start:
            path.append((came[node], node))
            node = came[node]
        most = min(left[a][b] for a, b in path)
        for a, b in path:
            left[a][b] -= most
            left[b][a] += most
        total += most
