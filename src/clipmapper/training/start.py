"""Where training starts: first weights that fit the data they will see.

CLIP's states have a large mean that says nothing: of a small CLIP's text states it is nearly all
there is. A mapper that gets them as they are sees the same vector at every word, and needs long to
find what differs. So the first linear maps take the mean away and bring the rest to unit size.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from clipmapper.training.evaluation import spread
from clipmapper.training.examples import Examples

__all__ = ["fit_projections"]

_ROWS = 2000


@torch.no_grad()
def fit_projections(model: Any, examples: Examples) -> None:
    """Makes a fresh CLIPmapper's projections see centred states of unit variance.

    With the mean m and the mean variance s² of the states over examples and features, a fresh map
    W becomes x -> W (x - m) / s. States that never vary (a control's) are left as they are.
    """
    rows = spread(len(examples), _ROWS).tolist()
    batch = examples.__getitems__(rows)
    words = batch["text_states"][batch["attention_mask"].bool()]
    _fit(model.model.image_projection, batch["image_states"].flatten(0, 1))
    _fit(model.model.text_projection, words)


def _fit(layer: torch.nn.Linear, states: Float[Tensor, "tokens width"]) -> None:
    states = states.to(layer.weight)
    mean = states.mean(0)
    deviation = (states - mean).square().mean().sqrt()
    if deviation < 1e-6:
        return
    layer.weight.div_(deviation)
    layer.bias.copy_(-layer.weight @ mean)
