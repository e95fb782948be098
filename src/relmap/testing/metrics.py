"""The contract of metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from relmap.data.example import Example
from relmap.evaluation.judging import judge
from relmap.evaluation.plan import Plan, Settings
from relmap.evaluation.specification import Specification, read_method, read_metric
from relmap.metrics import METRICS, Judged, MetricEntry
from relmap.models import Model
from relmap.testing.contract import see
from relmap.testing.networks import SIZE, looking, reading


def check_metric(
    name: str, model: Model | None = None, examples: Sequence[Example] | None = None
) -> None:
    """See that a registered metric ("energy", "precision-at-k:k=2") keeps to what relmap promises.

    It gives the quantities that it declares a direction of, and changes nothing that it is given. A
    metric of masks or words says better of a map of what was marked than of a map of everything
    else, in the direction it declares; masks are judged one by one. A metric of models judges the
    `examples` on the `model`, by default one of pictures and one of words, without failing.

    Raises:
        AssertionError: Something is not kept; the sentence says what.
        InputError: There is no such metric.

    Example:
        >>> check_metric("energy")
    """
    entry, options = METRICS.read(name)
    function = partial(entry.function, **entry.check_options(options))
    entry = replace(entry, function=function)
    see(bool(entry.about), f"{entry.name} has no docstring: its first line is shown in lists")
    (judged,) = entry.needs
    if judged is Judged.MASK:
        _check_masks(entry)
    elif judged is Judged.WORDS:
        _check_words(entry)
    elif model is None or examples is None:
        _check_models(entry, read_metric(name), [_of_pictures(), _of_words()])
    else:
        _check_models(entry, read_metric(name), [(model, examples)])


def _quantities(entry: MetricEntry, measured: Any) -> dict[str, Any]:
    found = dict(measured) if isinstance(measured, Mapping) else {entry.name: measured}
    _check_names(entry, found)
    return found


def _check_names(entry: MetricEntry, found: Mapping[str, Any]) -> None:
    known = entry.directions
    strange = [name for name in found if name not in known and name != "detail"]
    shown = [name for name in found if name in known]
    see(bool(shown), f"{entry.name} gives {', '.join(strange) or 'nothing'}, and no quantity that "
        f"it declares a direction of ({', '.join(known)})")  # fmt: skip


def _check_better(entry: MetricEntry, best: Any, worst: Any, what: str) -> None:
    better, worse = _quantities(entry, best), _quantities(entry, worst)
    for quantity, direction in entry.directions.items():
        if quantity not in better or quantity not in worse:
            continue
        gap = _mean(better[quantity]) - _mean(worse[quantity])
        right = gap >= 0 if direction == "higher" else gap <= 0
        see(right or math.isnan(gap), f"{entry.name} declares that {direction} {quantity} is "
            f"better, but gives a map of {what} {gap:+.3g} of it against its opposite")  # fmt: skip


def _mean(value: Any) -> float:
    return float(torch.as_tensor(value, dtype=torch.float64).mean())


def _check_masks(entry: MetricEntry) -> None:
    generator = torch.Generator().manual_seed(0)
    masks = torch.zeros(8, 14, 14, dtype=torch.bool)
    for index, mask in enumerate(masks):
        mask[index % 5 : index % 5 + 7, index % 4 : index % 4 + 8] = True
    maps = torch.rand(8, 14, 14, generator=generator) + 0.1
    kept = maps.clone(), masks.clone()
    measured = _quantities(entry, entry.function(maps, masks))
    same = torch.equal(kept[0], maps) and torch.equal(kept[1], masks)
    see(same, f"{entry.name} changes the maps or masks that it is given")
    _check_better(
        entry, entry.function(maps * masks, masks), entry.function(maps * ~masks, masks), "the mask"
    )
    for index in range(len(maps)):
        alone = _quantities(
            entry, entry.function(maps[index : index + 1], masks[index : index + 1])
        )
        for quantity, value in alone.items():
            whole = measured[quantity]
            if not isinstance(whole, Tensor) or not isinstance(value, Tensor):
                continue
            count = f"{len(whole)} numbers of {quantity} for {len(maps)} maps"
            see(len(whole) == len(maps), f"{entry.name} gives {count}")
            close = torch.allclose(whole[index : index + 1], value, 1e-5, 1e-8, equal_nan=True)
            see(close, f"{entry.name} gives map {index} another {quantity} in a batch than alone")


def _check_words(entry: MetricEntry) -> None:
    marked = torch.zeros(20, dtype=torch.bool)
    marked[[1, 2, 7]] = True
    scores = torch.rand(20, generator=torch.Generator().manual_seed(0)) + 0.1
    kept = scores.clone(), marked.clone()
    _quantities(entry, entry.function(scores, marked))
    same = torch.equal(kept[0], scores) and torch.equal(kept[1], marked)
    see(same, f"{entry.name} changes the scores or marks that it is given")
    best, worst = (entry.function(scores * part, marked) for part in (marked, ~marked))
    _check_better(entry, best, worst, "the marked words")


def _check_models(
    entry: MetricEntry, metric: Specification,
    given: Sequence[tuple[Model, Sequence[Example]]],
) -> None:  # fmt: skip
    """See that a metric judges at least one of the models, and gives what it declares."""
    plan = Plan((read_method("genatt"),), (metric,), Settings(batch_size=2))
    failures: list[str] = []
    for model, examples in given:
        rows = judge(model, list(enumerate(examples)), plan)
        errors = [row.error for row in rows if row.error]
        if errors:
            failures.append(f"{model.name}: {errors[0]}")
            continue
        _check_names(entry, {row.quantity: row.value for row in rows})
        for row in rows:
            finite = row.value is None or not math.isinf(row.value)
            see(finite, f"{entry.name} gives an infinite {row.quantity} on {model.name}")
    see(len(failures) < len(given), f"{entry.name} judges none of the models, so that nothing "
        f"could be checked; pass check_metric({entry.name!r}, model, examples) one that it does "
        f"({'; '.join(failures)})")  # fmt: skip


class _Normalised:
    """What a preprocessor says of itself."""

    image_mean, image_std = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


def _of_pictures() -> tuple[Model, list[Example]]:
    subject = looking()

    def prepare(image: Sequence[Tensor]) -> dict[str, Any]:
        return {"pixel_values": torch.stack(list(image))}

    def mask() -> Tensor:
        inside = torch.zeros(SIZE, SIZE, dtype=torch.bool)
        inside[2:7, 3:9] = True
        return inside

    examples = [
        Example(str(index), image=picture, label=index, mask=mask)
        for index, picture in enumerate(subject.inputs["pixel_values"])
    ]
    return Model(subject.network, subject.name, prepare, processor=_Normalised()), examples


class _Numbers:
    """A tokenizer whose words are the numbers of the tokens."""

    pad_token_id, mask_token_id = 0, 1

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str]:
        return [str(int(one)) for one in ids]

    def decode(self, ids: Sequence[int], **_: Any) -> str:
        return " ".join(self.convert_ids_to_tokens(ids))


def _of_words() -> tuple[Model, list[Example]]:
    subject = reading()

    def prepare(text: Sequence[str]) -> dict[str, Any]:
        rows = [[int(word) for word in one.split()] for one in text]
        length = max(map(len, rows))
        ids = torch.tensor([[*row, *[0] * (length - len(row))] for row in rows])
        return {"input_ids": ids, "attention_mask": (ids > 0).long()}

    texts = [" ".join(str(int(one)) for one in row if one) for row in subject.inputs["input_ids"]]
    examples = [
        Example(str(index), text=text, label=index, words=((0, len(text.split()[0])),))
        for index, text in enumerate(texts)
    ]
    model = Model(
        subject.network, subject.name, prepare, tokenizer=_Numbers(), special_ids=frozenset({0, 1})
    )
    return model, examples
