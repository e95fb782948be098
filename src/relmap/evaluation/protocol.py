"""The protocol record: everything that the numbers beside it depend on.

It is written before the first number. A run that finds another record in its folder refuses to mix
its numbers with those, and says what differs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from relmap.backwards import BACKWARDS
from relmap.errors import InputError
from relmap.evaluation.plan import Plan
from relmap.evaluation.specification import CENTRE, Specification
from relmap.files import to_json, write_whole
from relmap.methods import METHODS
from relmap.metrics import METRICS
from relmap.models import Model
from relmap.request.compatibility import choose_backward

__all__ = ["check_record", "read_record", "record_of", "weights_of", "write_record"]

FILE = "protocol.json"


def record_of(model: Model, data: Mapping[str, Any], plan: Plan) -> dict[str, Any]:
    """Versions, model, data, settings, and every option of every method and metric."""
    network = model.network
    parameter = next(network.parameters())
    return {
        "versions": {
            name: _version(name) for name in ("relmap", "torch", "transformers", "numpy", "scipy")
        },
        "model": {
            # where a folder lies says nothing about the numbers; its weights have a fingerprint
            "name": Path(model.name).name if Path(model.name).exists() else model.name,
            "class": type(network).__name__,
            "weights": weights_of(network),
            "dtype": str(parameter.dtype).removeprefix("torch."),
            "device": parameter.device.type,
        },
        "data": dict(data),
        "settings": asdict(plan.settings),
        "methods": [_method(one) for one in plan.methods],
        "metrics": [_metric(one) for one in plan.metrics],
        "threads": torch.get_num_threads(),
    }


def weights_of(network: torch.nn.Module) -> str:
    """A fingerprint of a network's weights: names, shapes, and up to 4,096 values of each."""
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        values = tensor.detach().flatten()
        few = values[:: max(1, len(values) // 4096)].cpu()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(few.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def check_record(folder: Path, record: Mapping[str, Any]) -> bool:
    """Whether a run of this record has begun in the folder.

    Raises:
        InputError: A run of another record has, with what differs.
    """
    found = read_record(folder)
    if found is None:
        return False
    plain = json.loads(to_json(dict(record)))
    for one, other in ((plain["data"], found["data"]), (found["data"], plain["data"])):
        for name in ("examples", "fingerprint"):
            if name not in one:  # a stream that has not been read to its end
                other.pop(name, None)
    wrong = [name for name in plain if _compared(name, plain) != _compared(name, found)]
    if wrong:
        name = wrong[0]
        raise InputError(
            f"{folder} holds an evaluation with other {', '.join(wrong)}: it has "
            f"{_short(found.get(name))}, this is {_short(plain[name])}. Give another --output, or "
            "remove the folder."
        )
    return True


def read_record(folder: Path) -> dict[str, Any] | None:
    """The record in a folder, None if there is none.

    Raises:
        InputError: It is not readable.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}") from error


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Write the record, whole or not at all."""
    write_whole(folder / FILE, to_json(dict(record), indent=1).encode())


def _compared(name: str, record: Mapping[str, Any]) -> Any:
    """What has to be the same; the bootstrap may be drawn again in another way."""
    value = record.get(name)
    if name == "settings" and isinstance(value, Mapping):
        return {
            key: one for key, one in value.items() if key not in ("seed", "resamples", "reference")
        }
    return value


def _method(one: Specification) -> dict[str, Any]:
    if one.name == CENTRE:
        return {"name": CENTRE}
    entry = METHODS.get(one.name)
    defaults = {key: value.default for key, value in METHODS.options(one.name).items()}
    backward = choose_backward(entry, one.options.get("backward"))
    chosen = {key: value for key, value in one.options.items() if key != "backward"}
    return {
        "name": one.name,
        "options": {**defaults, **chosen},
        "backward": backward.name,
        "reference": entry.reference,
        "backward_reference": BACKWARDS.get(backward.name).reference,
    }


def _metric(one: Specification) -> dict[str, Any]:
    entry = METRICS.get(one.name)
    defaults = {key: value.default for key, value in METRICS.options(one.name).items()}
    return {
        "name": one.name,
        "options": {**defaults, **one.options},
        "reference": entry.reference,
        "direction": entry.direction if isinstance(entry.direction, str) else dict(entry.direction),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 300 else f"{text[:297]}..."
