"""Models: a network together with how to feed it.

`load` finds a model by name in one of the sources, each a file beside this; `describe` takes a
network or a transformers pipeline that is already there. Both give a `Model`, whose `prepare`
turns pictures, texts and sounds into the arguments of the network's forward. Nothing that is
loaded runs code of its own: weights are safetensors or plain tensors, and code from a hub only
comes by explicit wish.
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from relmap.errors import InputError
from relmap.registry import Entry, Registry
from relmap.trace.argument_roles import PICTURES

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "SOURCES",
    "Model",
    "SourceEntry",
    "class_labels",
    "describe",
    "load",
    "normalisation",
    "pictures",
    "read_weights",
    "settle",
]


@dataclass(frozen=True)
class Model:
    """A network with how to feed it and how to call what it knows.

    Attributes:
        network: The module itself, in evaluation mode.
        name: As it was loaded.
        prepare: From image=, text=, audio= to the arguments of the network's forward.
        labels: Class names by number.
        tokenizer: Turns token numbers into words: `convert_ids_to_tokens` and `decode`.
        processor: What prepares pictures and sounds.
        special_ids: Numbers of tokens that are no content.
    """

    network: nn.Module
    name: str
    prepare: Callable[..., dict[str, Any]]
    labels: Mapping[int, str] | None = None
    tokenizer: Any | None = None
    processor: Any | None = None
    special_ids: frozenset[int] = frozenset()


@dataclass(frozen=True, kw_only=True)
class SourceEntry(Entry[Callable[..., Model]]):
    """A model source and what it declares.

    Attributes:
        usage: How a model of it is named, for people.
        pipeline: A function that describes a transformers pipeline.
    """

    operands = ("name",)

    usage: str = ""
    pipeline: Callable[[Any], Model] | None = None


SOURCES = Registry("model source", "relmap.models", SourceEntry)


def load(
    name: str | os.PathLike[str],
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    trust_remote_code: bool = False,
) -> Model:
    """A model by name: a folder or Hub name of transformers, or "SOURCE:NAME" of another source.

    `trust_remote_code` lets a repository bring code of its own; without it such a model is refused.

    Raises:
        InputError: There is no such model or source, its files cannot be read, or the device is
            not here.
        MissingExtraError: The source's library is not installed.

    Example:
        >>> load("warp:vit")
        Traceback (most recent call last):
        relmap.errors.InputError: There is no model source 'warp'. ...
    """
    source, rest = _source_of(os.fspath(name))
    options = {"device": _device(device), "dtype": _dtype(dtype)}
    return SOURCES.get(source).function(rest, trust_remote_code=trust_remote_code, **options)


def describe(network: Any) -> Model:
    """A model around a bare network or a transformers pipeline; a `Model` is returned as it is.

    A bare network knows its class names, if its config has them, but not how to prepare a picture.

    Raises:
        InputError: It is none of the three.
    """
    if isinstance(network, Model):
        return network
    if isinstance(network, nn.Module):
        return Model(
            network=network,
            name=type(network).__name__,
            prepare=_refusal(network),
            labels=class_labels(getattr(network, "config", None)),
            special_ids=_config_ids(getattr(network, "config", None)),
        )
    if isinstance(getattr(network, "model", None), nn.Module) and hasattr(network, "preprocess"):
        describe_pipeline = SOURCES.get("huggingface").pipeline
        assert describe_pipeline is not None
        return describe_pipeline(network)
    if isinstance(network, str | os.PathLike):
        raise InputError(f"A name is no network yet: load it with relmap.load({str(network)!r}).")
    raise InputError(
        f"A {type(network).__name__} is no model: give a torch module, a transformers pipeline, or "
        f"what relmap.load returns."
    )


def pictures(model: Model, inputs: Mapping[str, Any]) -> list[Image] | None:
    """The pictures as the network sees them, cut and sized, to lay maps on; None without any."""
    from PIL import Image

    pixels = next((inputs[name] for name in PICTURES if name in inputs), None)
    if not isinstance(pixels, Tensor) or pixels.ndim != 4 or pixels.shape[1] not in (1, 3):
        return None
    if not pixels.is_floating_point():
        return None
    pixels = pixels.detach().float().cpu()
    mean, deviation = normalisation(model.processor)
    if mean is None or deviation is None:  # how it was normalised is not known: keep the contrast
        low, high = pixels.amin((1, 2, 3), keepdim=True), pixels.amax((1, 2, 3), keepdim=True)
        pixels = (pixels - low) / (high - low).clamp(min=1e-9)
    else:
        shape = (1, -1, 1, 1)
        pixels = pixels * torch.tensor(deviation).view(shape) + torch.tensor(mean).view(shape)
    colours = pixels.expand(-1, 3, -1, -1).clamp(0, 1).mul(255).round().byte()
    return [Image.fromarray(one.permute(1, 2, 0).contiguous().numpy()) for one in colours]


def settle(network: nn.Module, device: Any, dtype: torch.dtype | None) -> nn.Module:
    """The network in evaluation mode, on its device and in its number type."""
    return network.to(device=device, dtype=dtype).eval()


def class_labels(config: Any) -> dict[int, str] | None:
    """The class names in a transformers config."""
    labels = getattr(config, "id2label", None)
    return {int(index): str(label) for index, label in labels.items()} if labels else None


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint: a safetensors file, or one of torch with nothing but tensors.

    Raises:
        InputError: The file is not there, is damaged, or would have to run code to be read.
    """
    if not path.is_file():
        raise InputError(f"There is no checkpoint {str(path)!r}.")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zip, pickle and safetensors each have their own
        raise InputError(
            f"The checkpoint {str(path)!r} cannot be read as plain tensors "
            f"({_first_line(error)}): save it as safetensors."
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    if not isinstance(found, dict) or not all(isinstance(one, Tensor) for one in found.values()):
        raise InputError(f"The checkpoint {str(path)!r} is no table of tensors.")
    return found


def _source_of(name: str) -> tuple[str, str]:
    prefix, colon, rest = name.partition(":")
    if os.path.exists(name):
        return "huggingface", name
    if prefix in SOURCES:
        return prefix, rest
    if not colon and re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        return "huggingface", name
    if colon and re.fullmatch(r"[\w-]{2,}", prefix):
        raise InputError(f"There is no model source {prefix!r}. {_listing()}")
    raise InputError(f"There is no folder {name!r}, and it is no name of a model. {_listing()}")


def _listing() -> str:
    entries = SOURCES.entries()
    shapes = [entry.usage or entry.name for entry in entries]
    return f"A model is named by a local folder, or one of: {', '.join(shapes)}."


def _device(device: str | torch.device | None) -> torch.device | None:
    if device is None:
        return None
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        raise InputError(
            f"The device {str(device)!r} is not to be had here: {_first_line(error)}"
        ) from error
    return found


def _dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    if dtype is None or isinstance(dtype, torch.dtype):
        found = dtype
    else:
        short = {"fp32": "float32", "fp16": "float16", "half": "float16", "bf16": "bfloat16"}
        name = dtype.removeprefix("torch.")
        found = getattr(torch, short.get(name, name), None)
    if found is not None and not (isinstance(found, torch.dtype) and found.is_floating_point):
        found = None
    if dtype is not None and found is None:
        raise InputError(
            f"A network's numbers cannot be {str(dtype)!r}: try 'float32', 'bfloat16', 'float16' "
            f"or 'float64'."
        )
    return found


def _refusal(network: nn.Module) -> Callable[..., dict[str, Any]]:
    def prepare(**given: Any) -> dict[str, Any]:
        names = ", ".join(inspect.signature(network.forward).parameters)
        raise InputError(
            f"A bare {type(network).__name__} does not know how to prepare {', '.join(given)}: "
            f"pass its forward's own arguments ({names}), a pipeline, or a model from relmap.load."
        )

    return prepare


def _config_ids(config: Any) -> frozenset[int]:
    configs = [config, getattr(config, "text_config", None)]
    names = ("pad", "bos", "eos", "cls", "sep", "mask", "decoder_start")
    found = [getattr(one, f"{name}_token_id", None) for one in configs for name in names]
    flat = [token for one in found for token in (one if isinstance(one, list | tuple) else [one])]
    return frozenset(token for token in flat if isinstance(token, int))


def normalisation(processor: Any) -> tuple[Any, Any]:
    """The mean that a preprocessor subtracts from every colour and what it divides by, if known."""
    part: Any
    for part in (processor, getattr(processor, "image_processor", None)):
        if getattr(part, "do_normalize", True) is False:
            return [0.0], [1.0]
        if getattr(part, "image_mean", None) is not None:
            return part.image_mean, part.image_std
    for step in reversed(getattr(processor, "transforms", [])):  # of torchvision: timm, open_clip
        if hasattr(step, "mean") and hasattr(step, "std"):
            values = (step.mean, step.std)
            return tuple([float(one) for one in value] for value in values)  # type: ignore[return-value]
    return None, None


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
