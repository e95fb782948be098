"""The protocol record: everything that the numbers beside it depend on.

It is written before the first number. A run that finds a record in its folder goes on where that
one was, and may do more: more methods, metrics or examples. One that differs in anything else
refuses to mix its numbers with those, and says what differs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from relmap.backwards import BACKWARDS
from relmap.errors import InputError
from relmap.evaluation.fingerprint import fingerprint_of
from relmap.evaluation.plan import Plan
from relmap.evaluation.specification import CENTRE, Specification
from relmap.files import fingerprint, to_json, write_whole
from relmap.methods import METHODS
from relmap.metrics import METRICS
from relmap.models import Model, normalisation
from relmap.request.compatibility import choose_backward

__all__ = [
    "check_record", "config_of", "preparation_of", "read_record", "record_of", "run_of",
    "weights_of", "write_record",
]  # fmt: skip

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
            "config": config_of(network),
            "preparation": preparation_of(model),
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
    parts: list[str | torch.Tensor] = []
    for name, tensor in network.state_dict().items():
        values = tensor.detach().flatten()
        parts += [f"{name} {tuple(tensor.shape)}", values[:: max(1, len(values) // 4096)]]
    return fingerprint(*parts)


def config_of(network: torch.nn.Module) -> str:
    """A fingerprint of what a network is beside its weights: its config, or else its modules."""
    return _fingerprint(_described(getattr(network, "config", None) or network))


def preparation_of(model: Model) -> str:
    """A fingerprint of how inputs are made of pictures and texts."""
    tokenizer: Any = getattr(model.tokenizer, "backend_tokenizer", None)
    if hasattr(tokenizer, "to_str"):  # how the last call padded is in it, and says nothing
        known = json.loads(tokenizer.to_str())
        tokens = {key: known[key] for key in known if key not in ("padding", "truncation")}
    else:
        tokens = _described(model.tokenizer)
    processor = model.processor
    parts = [processor, *(getattr(processor, name, None) for name in _PROCESSORS)]
    described = [_described(part) for part in parts if part is not model.tokenizer]
    return _fingerprint([described, list(map(str, normalisation(processor))), tokens])


def _described(part: Any) -> Any:
    """A config or processor in words, without where it came from."""
    if part is None:
        return None
    if callable(getattr(part, "to_dict", None)):
        known = part.to_dict()
        return {key: value for key, value in known.items() if key not in _ORIGINS}
    return re.sub(r" at 0x[0-9a-f]+", "", repr(part))


def _fingerprint(value: Any) -> str:
    return fingerprint(json.dumps(value, sort_keys=True, default=_described))


def run_of(record: Mapping[str, Any]) -> str:
    """A fingerprint of what does not change when an evaluation is extended."""
    return _fingerprint({name: _compared(name, record) for name in ("versions", "model", "data",
        "settings")})  # fmt: skip


def check_record(
    folder: Path, record: Mapping[str, Any], examples: Sequence[str] | None = None
) -> bool:
    """Whether a run has begun in the folder that this one goes on with, or extends.

    `examples` are the fingerprints of this run's examples, None if they are not known yet.

    Raises:
        InputError: A run of another record has, with what differs.
    """
    found = read_record(folder)
    if found is None:
        return False
    plain = json.loads(to_json(dict(record)))
    names = ("versions", "model", "settings", "data")
    differences = [
        (name, _difference(_compared(name, found), _compared(name, plain)))
        for name in names
        if _compared(name, found) != _compared(name, plain)
    ]
    for name in ("methods", "metrics"):
        differences += [
            (name, f"it has {_short(one)}, which this has not")
            for one in found.get(name, ()) if one not in plain[name]
        ]  # fmt: skip
    differences += [("data", one) for one in _other_examples(found, plain, examples)]
    if differences:
        kinds = ", ".join(dict.fromkeys(kind for kind, _ in differences))
        raise InputError(
            f"{folder} holds an evaluation with other {kinds}: "
            f"{'; '.join(said for _, said in differences[:3])}. Give another --output, or remove "
            "the folder; to what is there only methods, metrics and examples may be added."
        )
    return True


def _other_examples(
    found: Mapping[str, Any], plain: Mapping[str, Any], examples: Sequence[str] | None
) -> list[str]:
    """How the examples of a record are no beginning of those of this run."""
    known = found.get("data", {}).get("examples")
    fingerprint = found.get("data", {}).get("fingerprint")
    if known is None or fingerprint is None:
        return []
    if examples is None:
        if "fingerprint" not in plain["data"]:  # a stream that has not been read to its end
            return []
        now = plain["data"]["examples"]
        same = now == known and plain["data"]["fingerprint"] == fingerprint
    else:
        now = len(examples)
        same = now >= known and fingerprint_of(examples[:known]) == fingerprint
    if same:
        return []
    return [
        f"it has {known} examples, this has {now}"
        if now < known
        else f"it has {known} examples that are not the first {known} of this, or were changed"
    ]


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


_SETTINGS = ("target", "batch_size")  # the bootstrap may be drawn again, and a limit may grow
_VERSIONS = ("relmap", "torch", "transformers", "numpy")  # scipy draws the bootstrap
_DATA = ("name", "format", "options")  # which examples there are is told apart
_PROCESSORS = ("image_processor", "feature_extractor", "video_processor")
_ORIGINS = frozenset({
    "_name_or_path", "name_or_path", "_commit_hash", "transformers_version", "dtype", "torch_dtype",
    "tokenizer", "processor_class",
})  # fmt: skip


def _compared(name: str, record: Mapping[str, Any]) -> Any:
    """What has to be the same when a run goes on."""
    value = record.get(name)
    kept = {"settings": _SETTINGS, "versions": _VERSIONS, "data": _DATA}.get(name)
    if kept is None or not isinstance(value, Mapping):
        return value
    return {key: value.get(key) for key in kept}


def _difference(found: Any, plain: Any, where: str = "") -> str:
    """Where two parts of a record differ first, in words."""
    if isinstance(found, Mapping) and isinstance(plain, Mapping):
        for key in [*found, *(key for key in plain if key not in found)]:
            if found.get(key) != plain.get(key):
                return _difference(found.get(key), plain.get(key), f"{where}{key} ")
    return f"it has {where}{_short(found)}, this is {_short(plain)}"


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
