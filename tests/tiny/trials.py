"""Tiny models with examples, and one batch of an evaluation on them, for tests of metrics."""

from dataclasses import replace

import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    ViTConfig,
    ViTForImageClassification,
)

import relmap
from relmap.evaluation import Settings, judging
from relmap.evaluation.plan import Plan
from relmap.evaluation.specification import read_method, read_metric
from relmap.metrics import METRICS
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


class Sum(nn.Module):
    """A model whose truth is known: cell i adds w_i times its mean pixel to the score of class 0.

    Class 1 scores nothing.
    """

    def __init__(self, worth):
        super().__init__()
        self.worth = torch.tensor(worth, dtype=torch.float64)

    def forward(self, pixel_values):
        cells = nn.functional.avg_pool2d(pixel_values.mean(1), PATCH).flatten(1)
        score = (cells * self.worth).sum(dim=1)
        return {"logits": torch.stack([score, torch.zeros_like(score)], dim=1)}


def known_trial(worth, scores):
    """Maps that are given, of the model of known worth, on white pictures of class 0."""
    examples = [
        relmap.Example(str(at), image=torch.ones(3, SIZE, SIZE, dtype=torch.float64), label=0)
        for at in range(len(scores))
    ]
    trial = with_scores(trial_of(vit(), examples, "random"), scores)  # nine patches, a read-out
    network = Sum(worth)
    said = network(trial.subject.arguments["pixel_values"])["logits"]
    subject = replace(trial.subject, network=network, explained=said.argmax(1), known={})
    return replace(trial, subject=subject)


def with_scores(trial, scores, other=0.0):
    """The same trial with given relevance of what counts, and `other` of special tokens."""
    (name,) = trial.attribution.scores
    layout = trial.attribution.layout[name]
    new = torch.full_like(trial.attribution.scores[name], other, dtype=torch.float64)
    if layout.patches is not None:
        new[:, layout.patches] = scores
    else:
        new[layout.content] = torch.cat(list(scores))
    return replace(trial, attribution=replace(trial.attribution, scores={name: new}))


def judged(worth, scores, metric):
    """What a metric says of given maps of the model of known worth, on white pictures."""
    asked = read_metric(metric)
    return METRICS.get(asked.name).function(known_trial(worth, scores), **asked.options)


def bert(words=40):
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=words, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=16, num_labels=3, initializer_range=0.5, max_position_embeddings=16,
    )  # fmt: skip
    return BertForSequenceClassification(config).double().eval()


def texts(lengths, seed=0):
    """Examples of so many tokens each, between a first token 1 and a last token 2."""
    torch.manual_seed(seed)
    rows = [[1, *torch.randint(5, 40, (length,)).tolist(), 2] for length in lengths]
    return [relmap.Example(str(at), text=" ".join(map(str, row))) for at, row in enumerate(rows)]


def text_model():
    network = bert()

    class Tokens:
        pad_token_id, cls_token_id, sep_token_id, mask_token_id = 0, 1, 2, 3

        def convert_ids_to_tokens(self, ids):
            return [str(one) for one in ids]

        def decode(self, ids, **_):
            return " ".join(map(str, ids))

    def prepare(text):
        rows = [list(map(int, one.split())) for one in text]
        length = max(map(len, rows))
        ids = torch.tensor([[*one, *[0] * (length - len(one))] for one in rows])
        return {"input_ids": ids, "attention_mask": (ids > 0).long()}

    return Model(network, "tiny", prepare, tokenizer=Tokens(), special_ids=frozenset({0, 1, 2}))
