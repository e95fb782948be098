"""Tiny models with examples, and one batch of an evaluation on them, for tests of metrics."""

import torch
from transformers import ViTConfig, ViTForImageClassification

import relmap
from relmap.evaluation import Settings, judging
from relmap.evaluation.plan import Plan
from relmap.evaluation.specification import read_method, read_metric
from relmap.models import Model

SIZE, PATCH = 12, 4


class Processor:
    """What a preprocessor says of itself, for models made in a test."""

    image_mean, image_std = [0.5, 0.4, 0.3], [0.2, 0.25, 0.5]


def vit(seed=0):
    torch.manual_seed(seed)
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
        image_size=SIZE, patch_size=PATCH, num_labels=4, initializer_range=0.5,
    )  # fmt: skip
    network = ViTForImageClassification(config).double().eval()

    def prepare(image):
        return {"pixel_values": torch.stack(image)}

    return Model(network, "tiny", prepare, processor=Processor())


def pictures(count, label=None, seed=1):
    torch.manual_seed(seed)
    return [
        relmap.Example(str(at), image=torch.randn(3, SIZE, SIZE, dtype=torch.float64), label=label)
        for at in range(count)
    ]


def measured(model, examples, method, metric, **settings):
    """Quantity -> step -> values of the examples, from one batch."""
    plan = Plan((read_method(method),), (read_metric(metric),), Settings(**settings))
    rows = judging.judge(model, list(enumerate(examples)), plan)
    assert not [row.error for row in rows if row.error], rows
    found = {}
    for row in rows:
        found.setdefault(row.quantity, {}).setdefault(row.step, []).append(row.value)
    return found


def trial_of(model, examples, method="genatt"):
    """What a metric gets of one batch."""
    plan = Plan((read_method(method),), (), Settings())
    (batch,) = judging._ready(model, list(enumerate(examples)), [])
    explained = judging._explained(model, batch, plan.methods[0], plan)
    return judging._trial(model, batch, plan.methods[0], plan, explained)
