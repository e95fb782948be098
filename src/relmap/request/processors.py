"""From pictures, texts and sounds to the forward's arguments, by the model's own preprocessors.

The parts that a transformers model comes with do the work; what is added here is what people
expect of
them: one picture goes with many texts, a question is put into the model's own form of a
conversation, a caption is left open at its end, and nothing is cut off silently.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from relmap._torch_private import has_head
from relmap.errors import InputError
from relmap.request.forward_arguments import check_length, complete, forward_names, text_limit
from relmap.request.readers import (
    check_kinds,
    read_audio,
    read_image,
    read_texts,
    same_length,
    to_list,
)

__all__ = ["Parts", "prepare"]

_ARGUMENTS = {
    "image": ("pixel_values",),
    "text": ("input_ids",),
    "audio": ("input_features", "input_values"),
}


@dataclass(frozen=True)
class Parts:
    """The preprocessors of a model, as far as it has them, and why others did not load."""

    processor: Any = None
    tokenizer: Any = None
    image_processor: Any = None
    feature_extractor: Any = None
    problems: Mapping[str, str] = field(default_factory=dict)


def prepare(
    network: nn.Module, parts: Parts, *, image: Any = None, text: Any = None, audio: Any = None
) -> dict[str, Any]:
    """The forward's arguments for pictures, texts and sounds; lists are batches.

    A tensor is taken as already prepared: pixel values, token numbers, sound features.

    Raises:
        InputError: The model does not take what was given, cannot read it, or needs more than that.
    """
    given = {"image": image, "text": text, "audio": audio}
    given = {kind: value for kind, value in given.items() if value is not None}
    check_kinds(given, _kinds(network, parts, given))
    read = {kind: _examples(kind, value, parts) for kind, value in given.items()}
    examples = same_length(read)
    made = {kind: items for kind, items in examples.items() if isinstance(items[0], Tensor)}
    raw = {kind: items for kind, items in examples.items() if kind not in made}
    arguments: dict[str, Any] = {}
    for kind, tensors in made.items():
        arguments[_argument(network, kind)] = _stack(tensors, kind)
    if len(raw) > 1 and parts.processor is not None:
        arguments.update(_together(network, parts, raw))
    else:
        for kind, items in raw.items():
            arguments.update(_ALONE[kind](network, parts, items))
    if "text" not in given and "image" in given:
        arguments.update(_caption_start(network, parts, arguments))
    names = forward_names(network)
    kept = {name: value for name, value in arguments.items() if name in names}
    check_length(kept, text_limit(network, parts.tokenizer))
    ready = complete(network, kept)
    _check_enough(network, given, ready)
    return ready


def _check_enough(network: nn.Module, given: Mapping[str, Any], ready: Mapping[str, Any]) -> None:
    """Refuses one kind of input where the network needs another with it.

    Nothing says which networks do: some that take pictures and texts take texts alone. So where a
    kind is missing, the network is tried on the first example.
    """
    found = {kind: _argument(network, kind) for kind in _ARGUMENTS}
    missing = [kind for kind, name in found.items() if name is not None and name not in ready]
    known = _ENOUGH.setdefault(network, set())
    if not missing or network.training or frozenset(ready) in known:
        return
    sizes = {len(one) for one in ready.values() if isinstance(one, Tensor) and one.ndim > 0}
    first = {
        name: value[:1] if len(sizes) == 1 and isinstance(value, Tensor) and value.ndim else value
        for name, value in ready.items()
    }
    try:
        with torch.no_grad():
            network(**first)
    except (AttributeError, TypeError, ValueError) as error:
        alone = " and ".join(f"{kind}=" for kind in given)
        raise InputError(
            f"{type(network).__name__} cannot be run on {alone} alone: give "
            f"{' and '.join(f'{kind}=' for kind in missing)} as well. (It says: "
            f"{(str(error).strip() or type(error).__name__).splitlines()[0]})"
        ) from error
    known.add(frozenset(ready))


_ENOUGH: WeakKeyDictionary[nn.Module, set[frozenset[str]]] = WeakKeyDictionary()
"""Which arguments a network could be run on; asked once for each set of them."""


def _kinds(network: nn.Module, parts: Parts, given: Mapping[str, Any]) -> dict[str, Any]:
    tools = {
        "image": ("image_processor", parts.image_processor),
        "text": ("tokenizer", parts.tokenizer),
        "audio": ("feature_extractor", parts.feature_extractor),
    }
    kinds: dict[str, Any] = {}
    for kind, (name, tool) in tools.items():
        if _argument(network, kind) is None:
            kinds[kind] = False
        elif tool is not None or _is_prepared(kind, given.get(kind)):
            kinds[kind] = True
        else:
            problem = f" ({parts.problems[name]})" if name in parts.problems else ""
            kinds[kind] = (
                f"its {name.replace('_', ' ')} is not among the model's files{problem}; pass "
                f"`{_argument(network, kind)}` instead"
            )
    return kinds


def _argument(network: nn.Module, kind: str) -> Any:
    names = forward_names(network)
    return next((name for name in _ARGUMENTS[kind] if name in names), None)


def _is_prepared(kind: str, value: Any) -> bool:
    first = value[0] if isinstance(value, list | tuple) and value else value
    # A bare row of samples is a sound still to be prepared.
    return isinstance(first, Tensor) and not (kind == "audio" and first.ndim == 1)


def _examples(kind: str, value: Any, parts: Parts) -> list[Any]:
    axes = {"image": 3, "text": 1, "audio": 2}[kind]
    if _is_prepared(kind, value):
        if isinstance(value, Tensor):
            return list(value) if value.ndim > axes or kind == "audio" else [value]
        return list(value)
    if kind == "text":
        return read_texts(value)
    items = to_list(value, kind)
    if kind == "image":
        return [read_image(item) for item in items]
    if isinstance(value, list | tuple) and value and isinstance(value[0], int | float):
        items = [value]  # the samples of one sound
    return [read_audio(item, parts.feature_extractor.sampling_rate) for item in items]


def _stack(tensors: list[Any], kind: str) -> Tensor:
    shapes = {
        tuple(one.shape) if isinstance(one, Tensor) else type(one).__name__ for one in tensors
    }
    if len(shapes) > 1:
        raise InputError(
            f"The prepared tensors of `{kind}` differ: {', '.join(map(str, shapes))}. A batch "
            f"needs one shape, and tensors do not mix with what is still to be prepared."
        )
    if kind == "text" and tensors[0].is_floating_point():
        raise InputError("A tensor given as `text` holds token numbers: give whole numbers.")
    return torch.stack(tensors)


def _words(network: nn.Module, parts: Parts, texts: list[str]) -> dict[str, Any]:
    tokenizer, open_ended = parts.tokenizer, _goes_on(network)
    if tokenizer.pad_token is None:
        return _padded_by_hand(tokenizer, texts)
    options = _padding(network, parts)
    if open_ended:  # the positions of a causal model count from the left
        options["padding_side"] = "right"
    encoded = dict(tokenizer(texts, return_tensors="pt", **options))
    return _left_open(encoded, tokenizer) if open_ended else encoded


def _padding(network: nn.Module, parts: Parts) -> dict[str, Any]:
    # A tokenizer without a mask was trained on texts of one length, padding read as words (SigLIP).
    limit = text_limit(network, parts.tokenizer)
    if limit is not None and "attention_mask" not in parts.tokenizer.model_input_names:
        return {"padding": "max_length", "max_length": limit}
    return {"padding": True}


def _padded_by_hand(tokenizer: Any, texts: list[str]) -> dict[str, Any]:
    rows = [torch.tensor(tokenizer(text)["input_ids"]) for text in texts]
    masks = [torch.ones_like(row) for row in rows]
    pad = torch.nn.utils.rnn.pad_sequence  # with any number, since the mask hides it
    return {
        "input_ids": pad(rows, batch_first=True),
        "attention_mask": pad(masks, batch_first=True),
    }


def _pixels(network: nn.Module, parts: Parts, images: list[Any]) -> dict[str, Any]:
    return dict(parts.image_processor(images=images, return_tensors="pt"))


def _sounds(network: nn.Module, parts: Parts, waves: list[Any]) -> dict[str, Any]:
    extractor = parts.feature_extractor
    options = {"sampling_rate": extractor.sampling_rate, "return_tensors": "pt"}
    if len({len(wave) for wave in waves}) > 1 and getattr(extractor, "chunk_length", None) is None:
        options["padding"] = True  # others cut and fill every sound to one length by themselves
    return dict(extractor(waves, **options))


_ALONE = {"text": _words, "image": _pixels, "audio": _sounds}


def _together(network: nn.Module, parts: Parts, raw: Mapping[str, list[Any]]) -> dict[str, Any]:
    keywords = {"image": "images", "text": "text", "audio": "audio"}
    data = {keywords[kind]: items for kind, items in raw.items()}
    options = _padding(network, parts) | {"return_tensors": "pt"}
    if "text" in data and _goes_on(network):
        return _conversation(network, parts, data, options)
    return dict(parts.processor(**data, **options))


def _conversation(
    network: nn.Module, parts: Parts, data: dict[str, Any], options: dict[str, Any]
) -> dict[str, Any]:
    """Pictures and a prompt for a model that goes on writing, in its own template if it has one."""
    processor, texts = parts.processor, data["text"]
    token = str(getattr(processor, "image_token", None) or "")
    if getattr(processor, "chat_template", None) and not (token and token in texts[0]):
        turns = [[{"role": "user", "content": _content(data, text)}] for text in texts]
        data["text"] = [
            processor.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
            for turn in turns
        ]
        first = getattr(parts.tokenizer, "bos_token", None)
        if first and data["text"][0].startswith(first):
            options["add_special_tokens"] = False  # the template has written it
        return dict(processor(**data, **options))
    try:
        encoded = dict(processor(**data, **options))
        number = getattr(processor, "image_token_id", None)
        placed = not token or number is None or bool((encoded["input_ids"] == number).any())
    except ValueError:  # some count the places for pictures before they begin
        encoded, placed = {}, False
    if not placed and "images" in data:
        data["text"] = [token + text for text in texts]
        encoded = dict(processor(**data, **options))
    return _left_open(encoded, parts.tokenizer)


def _content(data: Mapping[str, Any], text: str) -> list[dict[str, str]]:
    kinds = [
        {"type": kind} for key, kind in (("images", "image"), ("audio", "audio")) if key in data
    ]
    return [*kinds, {"type": "text", "text": text}]


def _goes_on(network: nn.Module) -> bool:
    generates = getattr(network, "can_generate", None)
    config: Any = getattr(network, "config", None)
    text = getattr(config, "text_config", None)
    twofold = any(getattr(one, "is_encoder_decoder", False) for one in (config, text))
    answers = "decoder_input_ids" in inspect.signature(network.forward).parameters and hasattr(
        network, "decoder_start_token_id"
    )
    return bool(generates and generates()) and not (
        twofold or answers or has_head(network, "masked")
    )


def _left_open(encoded: dict[str, Any], tokenizer: Any) -> dict[str, Any]:
    """The tokens without the closing one that some tokenizers add: nothing is said after it."""
    ids, mask = encoded.get("input_ids"), encoded.get("attention_mask")
    found = [getattr(tokenizer, f"{name}_token_id", None) for name in ("eos", "sep")]
    ends = [token for token in found if token is not None]
    if ids is None or mask is None or not ends:
        return encoded
    places = torch.arange(ids.shape[1])
    last = torch.where(mask > 0, places, -1).amax(dim=1)
    rows = torch.arange(len(ids))
    closing = torch.isin(ids[rows, last], torch.tensor(ends)) & (mask.sum(dim=1) > 1)
    if not closing.all():
        return encoded
    mask = mask.clone()
    mask[rows, last] = 0
    kept = slice(0, int(torch.where(mask > 0, places, -1).max()) + 1)
    cut = {
        name: value[:, kept]
        for name, value in encoded.items()
        if isinstance(value, Tensor) and value.shape == ids.shape
    }
    return encoded | cut | {"attention_mask": mask[:, kept]}


def _caption_start(
    network: nn.Module, parts: Parts, arguments: Mapping[str, Any]
) -> dict[str, Any]:
    """The token that a caption starts with, for models that write one about a picture alone."""
    if "input_ids" in arguments or not _goes_on(network) or _argument(network, "text") is None:
        return {}
    config: Any = network.config  # type: ignore[assignment]
    starts = [getattr(getattr(config, "text_config", None), "bos_token_id", None)]
    starts += [getattr(config, "bos_token_id", None)]
    starts += [getattr(parts.tokenizer, f"{name}_token_id", None) for name in ("bos", "cls")]
    start = next((one for one in starts if isinstance(one, int)), None)
    if start is None or getattr(parts.processor, "image_token", None):
        raise InputError("This model reads a picture with a prompt: give text= as well.")
    batch = len(arguments["pixel_values"])
    ids = torch.full((batch, 1), start)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
