"""The forward's own arguments, made ready for one network.

Whoever prepared them, the network's dict goes through the same few steps: one image with many
texts is repeated, an encoder-decoder gets the token its decoder starts with, tensors follow the
network's device and number type, and what no network can use (not-a-number, a text longer than
the positions it knows) is refused by name.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Mapping
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor, nn

from relmap._torch_private import has_head
from relmap.errors import InputError
from relmap.trace.argument_roles import MAIN, PER_EXAMPLE, may_be_infinite

__all__ = [
    "check_finite",
    "check_length",
    "complete",
    "count_examples",
    "forward_names",
    "home",
    "pair",
    "place",
    "start_decoder",
    "start_token",
    "text_limit",
]


def complete(network: nn.Module, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments as the network takes them: paired, with a decoder start, placed and checked.

    Raises:
        InputError: A value is not finite, or a text is longer than the network's positions.
    """
    arguments = start_decoder(network, pair(network, inputs))
    arguments = place(network, arguments)
    check_finite(arguments)
    check_length(arguments, text_limit(network))
    return arguments


def count_examples(network: nn.Module, inputs: Mapping[str, Any]) -> int:
    """How many examples the arguments hold.

    Texts are counted before pictures, since one text may have several; a detector that looks for
    words has several texts for a picture.

    Raises:
        InputError: There is no tensor among the arguments.
    """
    names = ("input_ids", "inputs_embeds", "pixel_values")
    first = names[::-1] if has_head(network, "detection") else names
    for value in [*(inputs.get(name) for name in first), *inputs.values()]:
        rows = isinstance(value, list | tuple) and value and isinstance(value[0], Tensor)
        if rows or (isinstance(value, Tensor) and value.ndim > 0):
            return len(value)
    raise InputError(f"There is no tensor among the inputs ({', '.join(inputs) or 'none'}).")


def forward_names(network: nn.Module) -> tuple[str, ...]:
    """The names of the arguments of the network's forward, in order."""
    parameters = inspect.signature(network.forward).parameters.values()
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return tuple(parameter.name for parameter in parameters if parameter.kind not in variable)


def pair(network: nn.Module, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments with one image repeated for its texts, or one text for its images.

    Networks in which an example may hold several images or texts (those that generate, and
    detectors that look for words) are left to themselves.

    Example:
        >>> inputs = {"pixel_values": torch.zeros(1, 3, 8, 8), "input_ids": torch.zeros(5, 4)}
        >>> pair(nn.Identity(), inputs)["pixel_values"].shape
        torch.Size([5, 3, 8, 8])
    """
    arguments = dict(inputs)
    pixels, ids = arguments.get("pixel_values"), arguments.get("input_ids")
    if not (_is_tensor(pixels, 4) and _is_tensor(ids, 2)) or _counts_its_own_examples(network):
        return arguments
    batch = max(len(pixels), len(ids))
    for name in PER_EXAMPLE:
        value = arguments.get(name)
        if isinstance(value, Tensor) and value.ndim > 0 and len(value) == 1 < batch:
            arguments[name] = value.repeat(batch, *[1] * (value.ndim - 1))
    return arguments


def start_decoder(network: nn.Module, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments with the decoder's start token, where an encoder-decoder was given none.

    What is explained then is the first token that the decoder says. Networks that read the input a
    second time in the decoder (BART's classifier) are left to themselves.
    """
    arguments = dict(inputs)
    given = ("decoder_input_ids", "decoder_inputs_embeds", "labels")
    if any(arguments.get(name) is not None for name in given) or not _needs_start(network):
        return arguments
    start, batch = start_token(network), _batch_of(arguments)
    if start is not None and batch is not None:
        arguments["decoder_input_ids"] = torch.full((batch, 1), start, dtype=torch.long)
    return arguments


def place(network: nn.Module, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments on the network's device, floats in its type; arrays as tensors."""
    device, dtype = home(network)

    def move(value: Any) -> Any:
        if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
            value = torch.from_numpy(np.ascontiguousarray(value))
        if isinstance(value, Tensor):
            return value.to(device=device, dtype=dtype if value.is_floating_point() else None)
        if type(value) in (list, tuple):
            items = [move(item) for item in value]
            return tuple(items) if type(value) is tuple else items
        return value

    return {name: move(value) for name, value in inputs.items()}


def home(network: nn.Module) -> tuple[torch.device | None, torch.dtype | None]:
    """The device that the network's inputs go to and the type of its numbers; None: it has none."""
    first = next(network.parameters(), None)
    if getattr(network, "hf_device_map", None):  # spread over devices: start where the words start
        with contextlib.suppress(AttributeError, NotImplementedError):
            first = network.get_input_embeddings().weight  # type: ignore[operator]
    ordinary = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
    dtypes = (parameter.dtype for parameter in network.parameters() if parameter.dtype in ordinary)
    return (None if first is None else first.device), next(dtypes, None)


def check_finite(inputs: Mapping[str, Any]) -> None:
    """Refuses not-a-number and infinite inputs; a mask may hold minus infinity.

    Raises:
        InputError: The message names the argument.
    """
    for name, value in inputs.items():
        for tensor in value if isinstance(value, list | tuple) else [value]:
            if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
                continue
            bad = tensor.isnan() | (tensor == torch.inf)
            if not may_be_infinite(name):
                bad |= tensor == -torch.inf
            if bad.any():
                raise InputError(
                    f"The input `{name}` holds {int(bad.sum())} NaN or infinite numbers out of "
                    f"{tensor.numel()}: check how it was prepared."
                )


def text_limit(network: nn.Module, tokenizer: Any = None) -> int | None:
    """The most tokens of text that the network takes, None if nothing says so."""
    config = getattr(network, "config", None)
    limits = []
    if tokenizer is not None and 0 < getattr(tokenizer, "model_max_length", 0) < 10**9:
        limits.append(int(tokenizer.model_max_length))
    positions = getattr(_text_config(config), "max_position_embeddings", None)
    if isinstance(positions, int):
        limits.extend(_position_table(network, positions))
    return min(limits, default=None)


def check_length(inputs: Mapping[str, Any], limit: int | None) -> None:
    """Refuses a text of more tokens than the limit.

    Raises:
        InputError: The message gives both lengths.
    """
    ids = inputs.get("input_ids")
    if limit is not None and _is_tensor(ids, 2) and ids.shape[1] > limit:
        raise InputError(
            f"The text has {ids.shape[1]} tokens, but the model takes at most {limit}: shorten "
            f"it or split it up."
        )


def _is_tensor(value: Any, axes: int) -> TypeGuard[Tensor]:
    return isinstance(value, Tensor) and value.ndim == axes


def _text_config(config: Any) -> Any:
    """The config that speaks of the text's positions, which may lie inside another one's."""
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    if isinstance(getattr(text, "max_position_embeddings", None), int):
        return text
    for name in getattr(config, "sub_configs", None) or ():
        inner = _text_config(getattr(config, name, None))
        if isinstance(getattr(inner, "max_position_embeddings", None), int):
            return inner
    return text


def _position_table(network: nn.Module, positions: int) -> list[int]:
    # Only a learned table ends: rotary and relative positions go on, at the user's own risk.
    for name, module in network.named_modules():
        named = "position" in name.rpartition(".")[2] or name.endswith("wpe")
        if not (named and isinstance(module, nn.Embedding)):
            continue
        if 0 <= module.num_embeddings - positions <= 2:  # BART's family adds two rows
            # RoBERTa's family counts from the padding index on, so some rows are never a position.
            padding = module.padding_idx if module.num_embeddings == positions else None
            return [positions if padding is None else positions - padding - 1]
    return []


def _counts_its_own_examples(network: nn.Module) -> bool:
    generates = getattr(network, "can_generate", None)
    return has_head(network, "detection") or bool(generates and generates())


def _needs_start(network: nn.Module) -> bool:
    config = getattr(network, "config", None)
    if config is None or "decoder_input_ids" not in forward_names(network):
        return False
    if hasattr(network, "decoder_start_token_id"):  # BLIP's question answering
        return True
    if has_head(network, "sequence classes", "answer spans", "token classes"):
        return False
    configs = (config, getattr(config, "text_config", None))
    return any(getattr(one, "is_encoder_decoder", False) for one in configs)


def start_token(network: nn.Module) -> int | None:
    """The token that a text of this network starts with, as its configs say; None if none does."""
    config: Any = getattr(network, "config", None)
    places = (
        getattr(network, "generation_config", None),
        config,
        getattr(config, "decoder", None),
        getattr(config, "text_config", None),
        network,
    )
    for name in ("decoder_start_token_id", "bos_token_id", "pad_token_id"):
        for place_ in places:
            token = getattr(place_, name, None)
            if isinstance(token, list) and token:
                token = token[0]
            if isinstance(token, int):
                return token
    return None


def _batch_of(inputs: Mapping[str, Any]) -> int | None:
    for name in (*MAIN, "attention_mask"):
        value = inputs.get(name)
        if isinstance(value, Tensor) and value.ndim > 1:
            return value.shape[0]
    encoded = inputs.get("encoder_outputs")
    first = encoded[0] if encoded is not None else None
    return first.shape[0] if isinstance(first, Tensor) else None
