"""Models of timm: a name in its list, with its own weights, a checkpoint file or a folder.

A folder's `config.json` is somebody else's file. Of what it says, timm is given only what describes
the architecture and the pictures: never a path, weights or a flag that loads some, since versions
of timm differ in how much code a checkpoint may run.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from relmap.errors import InputError, MissingExtraError
from relmap.models import SOURCES, Model, read_weights, settle
from relmap.request.forward_arguments import complete, forward_names
from relmap.request.readers import check_kinds, read_image, to_list

__all__ = ["timm"]

PICTURES = frozenset({
    "input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode", "pool_size",
    "fixed_input_size", "test_input_size", "test_crop_pct", "num_classes", "classifier",
    "first_conv", "label_names", "label_descriptions",
})  # fmt: skip
"""What a folder may say of its pictures and classes (timm's pretrained_cfg); the rest is where
weights lie, and who made them."""


@SOURCES.register("timm", usage="timm:NAME[@checkpoint or folder]")
def timm(
    name: str,
    *,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
    trust_remote_code: bool = False,
) -> Model:
    """A timm model: "NAME" with timm's own weights, "NAME@FILE" or "NAME@FOLDER" with those.

    Raises:
        InputError: timm has no such model, or its weights are not there or do not fit.
        MissingExtraError: timm is not installed.
    """
    library = _timm()
    architecture, _, place = name.partition("@")
    if not architecture:
        raise InputError("Name the model: timm:NAME, such as timm:vit_small_patch16_224.")
    if not library.is_model(architecture.partition(".")[0]) and ":" not in architecture:
        close = library.list_models(f"{architecture.partition('_')[0]}*")[:5]
        raise InputError(
            f"timm has no model {architecture!r}. Some that it has: "
            f"{', '.join(close) or 'see its list'}."
        )
    network = (
        _with_weights(library, architecture, Path(place)) if place else _own(library, architecture)
    )
    transform = _transform(library, network)
    return Model(
        network=settle(network, device, dtype),
        name=f"timm:{name}",
        prepare=partial(_prepare, network, transform),
        labels=_labels(library, network),
        processor=transform,
    )


def _timm() -> Any:
    try:
        import timm.data
    except ImportError as error:
        raise MissingExtraError("timm") from error
    except RuntimeError as error:  # a torchvision that was built for another torch
        raise InputError(f"timm is installed, but its import fails: {error}") from error
    return timm


def _own(library: Any, architecture: str) -> nn.Module:
    try:
        return library.create_model(architecture, pretrained=True)
    except Exception as error:  # the Hub, the disk and timm have different ones
        raise InputError(
            f"The weights of timm:{architecture} are not to be had "
            f"({' '.join(str(error).split())[:200]}). If this machine is offline, name a "
            f"checkpoint: timm:{architecture}@model.safetensors."
        ) from error


def _with_weights(library: Any, architecture: str, place: Path) -> nn.Module:
    settings: dict[str, Any] = {}
    if place.is_dir():
        settings, place = _folder(place)
    weights = read_weights(place)
    said = _table(settings, "pretrained_cfg")
    classes = settings.get("num_classes") or _classes(library, architecture, weights)
    arguments = _arguments(library, architecture, _table(settings, "model_args"))
    try:
        network = library.create_model(
            architecture,
            pretrained=False,
            pretrained_cfg_overlay={name: said[name] for name in said if name in PICTURES},
            num_classes=classes,
            **arguments,
        )
        network.load_state_dict(weights)
    except (RuntimeError, TypeError, ValueError) as error:
        said = " ".join(str(error).split())[:300]
        raise InputError(
            f"The weights in {str(place)!r} do not fit timm:{architecture}: {said}"
        ) from error
    return network


def _table(settings: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = settings.get(name) or {}
    if not isinstance(found, dict):
        raise InputError(f"{name} in config.json is a {type(found).__name__}, not a JSON object")
    return found


def _arguments(library: Any, architecture: str, said: Mapping[str, Any]) -> dict[str, Any]:
    """What a folder says of the architecture, as arguments of the network's own class.

    Raises:
        InputError: It says something else, such as where weights lie.
    """
    given = {name: value for name, value in said.items() if value is not None}
    if not given:
        return {}
    network = library.create_model(architecture, pretrained=False)
    known = {
        name
        for kind in type(network).__mro__
        for name in inspect.signature(kind.__init__).parameters
    }
    # what timm reads itself, before or after it makes the network: weights, caches, wrappers
    own = {
        name
        for function in (library.create_model, library.models.build_model_with_cfg)
        for name in inspect.signature(function).parameters
    }
    wrong = sorted(name for name in given if name not in known - own)
    if wrong:
        raise InputError(
            f"model_args in config.json names {', '.join(map(repr, wrong))}, which is no argument "
            f"of {type(network).__name__}: relmap builds the architecture and loads the weights "
            "beside it, nothing else. Remove it from config.json."
        )
    return given


def _folder(folder: Path) -> tuple[dict[str, Any], Path]:
    settings: dict[str, Any] = {}
    if (folder / "config.json").is_file():
        try:
            settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"{str(folder / 'config.json')!r} is no JSON: {error}") from error
        if not isinstance(settings, dict):
            raise InputError(f"{str(folder / 'config.json')!r} is no JSON object")
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    if len(files) != 1:
        raise InputError(
            f"The folder {str(folder)!r} holds {len(files)} checkpoints: name the file."
        )
    return settings, files[0]


def _classes(library: Any, architecture: str, weights: dict[str, Tensor]) -> int | None:
    # The number of classes is the height of the last layer, whose name timm's settings give.
    settings = library.get_pretrained_cfg(architecture)
    layer = getattr(settings, "classifier", None)
    layer = layer[0] if isinstance(layer, list | tuple) else layer
    weight = weights.get(f"{layer}.weight")
    return None if weight is None else len(weight)


def _transform(library: Any, network: nn.Module) -> Callable[[Any], Tensor]:
    settings = library.data.resolve_model_data_config(network)
    return library.data.create_transform(**settings, is_training=False)


def _labels(library: Any, network: Any) -> dict[int, str] | None:
    settings = getattr(network, "pretrained_cfg", None) or {}
    names = settings.get("label_names")
    if names:
        said = settings.get("label_descriptions") or {}
        return {index: said.get(name, name) for index, name in enumerate(names)}
    subset = library.data.infer_imagenet_subset(network)
    if subset is None:
        return None
    info = library.data.ImageNetInfo(subset)
    return {index: info.index_to_description(index) for index in range(info.num_classes())}


def _prepare(
    network: nn.Module,
    transform: Callable[[Any], Tensor],
    *,
    image: Any = None,
    text: Any = None,
    audio: Any = None,
) -> dict[str, Any]:
    kinds = {"image": image, "text": text, "audio": audio}
    check_kinds(
        {kind: value for kind, value in kinds.items() if value is not None}, {"image": True}
    )
    if isinstance(image, Tensor):
        pixels = image[None] if image.ndim == 3 else image
    else:
        made = [
            one if isinstance(one, Tensor) else transform(read_image(one))
            for one in to_list(image, "image")
        ]
        pixels = torch.stack(made)
    return complete(network, {forward_names(network)[0]: pixels})
