"""What holds of the plug-in once it is installed."""

import torch

from relmap.metrics import METRICS
from relmap.testing import check_metric

mask = torch.zeros(1, 4, 4, dtype=torch.bool)
mask[0, :2, :2] = True  # the object covers the first of four patches
precision = METRICS.get("precision-at-k").function
assert precision(torch.tensor([[[3.0, 1.0], [2.0, 0.0]]]), mask, k=1).tolist() == [1.0]
assert precision(torch.tensor([[[3.0, 1.0], [2.0, 0.0]]]), mask, k=2).tolist() == [0.5]
check_metric("precision-at-k:k=2")
