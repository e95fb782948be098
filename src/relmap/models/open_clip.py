"""Models of open_clip: a name in its list with one of its sets of weights, or with a local file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from relmap.errors import InputError, MissingExtraError
from relmap.models import SOURCES, Model, read_weights, settle
from relmap.request.forward_arguments import complete
from relmap.request.readers import check_kinds, read_image, read_texts, same_length, to_list

__all__ = ["open_clip"]


@dataclass(frozen=True)
class Words:
    """Reads token numbers back as words, for a tokenizer of open_clip that has no such method."""

    tokenizer: Any

    @property
    def all_special_ids(self) -> list[int]:
        """The numbers of the tokens that open, close and fill up a text."""
        return [0, *self.tokenizer.all_special_ids]

    def convert_ids_to_tokens(self, ids: Iterable[Any]) -> list[str]:
        """The tokens as the vocabulary spells them."""
        decoder = self.tokenizer.decoder
        return [decoder[int(token)] for token in ids]

    def decode(self, ids: Iterable[Any], skip_special_tokens: bool = False) -> str:
        """The text that was cut into these tokens."""
        left_out = set(self.all_special_ids) if skip_special_tokens else set()
        return self.tokenizer.decode([int(token) for token in ids if int(token) not in left_out])


@SOURCES.register("open-clip", aliases=("openclip",), usage="open_clip:NAME[@weights or file]")
def open_clip(
    name: str,
    *,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
    trust_remote_code: bool = False,
) -> Model:
    """An open_clip model: "NAME@TAG" with a set of its weights, "NAME@FILE" with a local file.

    Raises:
        InputError: open_clip has no such model or weights, or the file does not fit.
        MissingExtraError: open_clip is not installed.
    """
    library = _open_clip()
    architecture, _, place = name.partition("@")
    hosted = architecture.startswith(("hf-hub:", "local-dir:"))
    if not hosted and architecture not in library.list_models():
        close = [one for one in library.list_models() if one.startswith(architecture[:5])][:5]
        raise InputError(
            f"open_clip has no model {architecture!r}. Some that it has: "
            f"{', '.join(close or library.list_models()[:5])}."
        )
    if not hosted and not place:
        tags = ", ".join(library.list_pretrained_tags_by_model(architecture)) or "none"
        raise InputError(
            f"Say which weights: open_clip:{architecture}@TAG or @FILE. Its tags: {tags}."
        )
    network, transform = _network(library, architecture, place)
    tokenizer = library.get_tokenizer(architecture)
    words = tokenizer.tokenizer if hasattr(tokenizer, "tokenizer") else Words(tokenizer)
    return Model(
        network=settle(network, device, dtype),
        name=f"open_clip:{name}",
        prepare=partial(_prepare, network, transform, tokenizer),
        tokenizer=words,
        processor=transform,
        special_ids=frozenset(words.all_special_ids),
    )


def _open_clip() -> Any:
    try:
        import open_clip
    except ImportError as error:
        raise MissingExtraError("openclip") from error
    except RuntimeError as error:  # a torchvision that was built for another torch
        raise InputError(f"open_clip is installed, but its import fails: {error}") from error
    return open_clip


def _network(library: Any, architecture: str, place: str) -> tuple[nn.Module, Any]:
    file = Path(place)
    local = bool(place) and (file.is_file() or file.suffix in (".safetensors", ".pt", ".bin"))
    if local:
        read_weights(file)  # says what is wrong with it before open_clip does
    try:
        network, _, transform = library.create_model_and_transforms(
            architecture, pretrained=place or None, weights_only=True
        )
    except Exception as error:  # the Hub, the disk and open_clip have different ones
        said = " ".join(str(error).split())[:300]
        way_out = "" if local else " If this machine is offline, name a local file after the @."
        raise InputError(
            f"open_clip:{architecture} cannot be loaded with {place or 'its weights'}: "
            f"{said}{way_out}"
        ) from error
    return network, transform


def _prepare(
    network: nn.Module,
    transform: Any,
    tokenizer: Any,
    *,
    image: Any = None,
    text: Any = None,
    audio: Any = None,
) -> dict[str, Any]:
    kinds = {"image": image, "text": text, "audio": audio}
    given = {kind: value for kind, value in kinds.items() if value is not None}
    check_kinds(given, {"image": True, "text": True})
    if len(given) < 2:
        raise InputError("The model compares an image with a text: give both image= and text=.")
    examples = same_length({"image": _images(image, transform), "text": _texts(text, tokenizer)})
    return complete(network, {kind: torch.stack(items) for kind, items in examples.items()})


def _images(image: Any, transform: Any) -> list[Tensor]:
    if isinstance(image, Tensor):
        return list(image) if image.ndim == 4 else [image]
    items = to_list(image, "image")
    return [one if isinstance(one, Tensor) else transform(read_image(one)) for one in items]


def _texts(text: Any, tokenizer: Any) -> list[Tensor]:
    if isinstance(text, Tensor):
        return list(text) if text.ndim == 2 else [text]
    texts = read_texts(text)
    limit = tokenizer.context_length
    for one in texts:
        length = _length(one, tokenizer)
        if limit is not None and length > limit:
            raise InputError(
                f"The text has {length} tokens, but the model takes at most {limit}: shorten it or "
                f"split it up."
            )
    return list(tokenizer(texts))


def _length(text: str, tokenizer: Any) -> int:
    if hasattr(tokenizer, "tokenizer"):
        return len(tokenizer.tokenizer(text)["input_ids"])
    return len(tokenizer.encode(text)) + 2  # and the tokens that open and close it
