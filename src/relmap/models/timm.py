"""Models of timm: a name in its list, with its own weights, a checkpoint file or a folder."""

from __future__ import annotations

import json
from collections.abc import Callable
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
    pretrained = settings.pop("pretrained_cfg", None)
    classes = settings.get("num_classes") or _classes(library, architecture, weights)
    try:
        network = library.create_model(
            architecture,
            pretrained=False,
            pretrained_cfg_overlay=pretrained,
            num_classes=classes,
            **settings.get("model_args", {}),
        )
        network.load_state_dict(weights)
    except (RuntimeError, TypeError, ValueError) as error:
        said = " ".join(str(error).split())[:300]
        raise InputError(
            f"The weights in {str(place)!r} do not fit timm:{architecture}: {said}"
        ) from error
    return network


def _folder(folder: Path) -> tuple[dict[str, Any], Path]:
    settings: dict[str, Any] = {}
    if (folder / "config.json").is_file():
        try:
            settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"{str(folder / 'config.json')!r} is no JSON: {error}") from error
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
