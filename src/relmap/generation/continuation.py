"""The text that a network went on with, given or generated, put back among its arguments.

A caption model starts from its own first token, a language model from a prompt, an encoder-decoder
from its decoder's start. What comes after is the continuation; with it among the arguments, one
forward pass holds the scores of each of its tokens, at the position before the token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from relmap.errors import InputError, TraceError
from relmap.request.forward_arguments import (
    check_length,
    count_examples,
    home,
    start_token,
    text_limit,
)
from relmap.request.layouts import special_ids
from relmap.request.request import Request
from relmap.result.token_text import pieces
from relmap.targets.answers import TargetContext, decoded, token_logits
from relmap.trace.argument_roles import BESIDE_TEXT, ids_name
from relmap.trace.tracing import evaluating


@dataclass(frozen=True, eq=False)
class Continuation:
    """The tokens that a text goes on with.

    `arguments` are the forward's with the whole text under `name`; `places` are the positions in it
    of the continuation's content tokens, `labels` these as people read them, `opens` whether they
    begin a word.
    """

    arguments: dict[str, Any]
    name: str
    places: tuple[int, ...]
    labels: tuple[str, ...]
    opens: tuple[bool, ...]

    @property
    def ids(self) -> Int[Tensor, " word"]:
        """The numbers of the content tokens."""
        return self.arguments[self.name][0, list(self.places)]


def continued(asked: Request, text: str | Sequence[int] | Tensor | None, most: int) -> Continuation:
    """The continuation of a request's text: as given, or greedily generated up to `most` tokens.

    Fewer are generated where the network has no room for more.
    `text` is written out, or the numbers of its tokens (what `generate` returned works).

    Raises:
        InputError: there are several examples, nothing to start from, or no word in the text.
    """
    network = asked.model.network
    if count_examples(network, asked.arguments) != 1:
        raise InputError("one caption is explained at a time: give one picture, or one prompt")
    name = ids_name(asked.arguments)
    prompt = _prompt(asked, name)
    limit = text_limit(network, asked.model.tokenizer)
    if text is None:
        if limit is not None:  # a text that would not fit is left off where the room ends
            most = min(most, max(limit - prompt.shape[1], 1))
        added = _without(prompt, _generated(asked, name, prompt, most))
    elif isinstance(text, str):
        added = _numbers(asked, text)
    else:
        added = _without(prompt, torch.as_tensor(text, dtype=torch.long).flatten())
    special = special_ids(asked.model)
    content = [at for at, token in enumerate(added.tolist()) if token not in special]
    if not content:
        raise InputError("there is no word to explain: the text is empty, or special tokens alone")
    added = added[: content[-1] + 1].to(prompt.device)
    arguments = _longer(asked, name, prompt, added)
    check_length({"input_ids": arguments[name]}, limit)
    labels, opens = spelled(asked, added[content].tolist())
    places = tuple(prompt.shape[1] + at for at in content)
    return Continuation(arguments, name, places, labels, opens)


def _prompt(asked: Request, name: str) -> Int[Tensor, "1 token"]:
    found = asked.arguments.get(name)
    if isinstance(found, Tensor):
        return found
    start = start_token(asked.model.network)
    if start is None:
        raise InputError(
            f"{asked.model.name} does not say which token its texts start with: give {name}="
        )
    return torch.tensor([[start]], device=home(asked.model.network)[0])


def _generated(asked: Request, name: str, prompt: Tensor, most: int) -> Int[Tensor, " token"]:
    """What the network writes, one likeliest token after the other.

    Its own `generate` does it where there is one and it goes on from the prompt (BLIP's leaves the
    last token of a prompt out).
    """
    network: Any = asked.model.network
    with torch.no_grad(), evaluating(list(network.modules())):
        if hasattr(network, "generate") and network.can_generate():
            arguments = dict(asked.arguments)
            if name not in asked.given and ("text" not in asked.given or "decoder" in name):
                for own in (name, name.replace("input_ids", "attention_mask")):
                    arguments.pop(own, None)  # each network starts in its own way
            found = network.generate(**arguments, do_sample=False, num_beams=1, max_new_tokens=most)
            found = getattr(found, "sequences", found)[0]
            if found[: prompt.shape[1]].tolist() == prompt[0].tolist():
                return found
        return _step_by_step(asked, name, prompt, most)


def _step_by_step(asked: Request, name: str, prompt: Tensor, most: int) -> Int[Tensor, " token"]:
    added, special = prompt[0, :0], special_ids(asked.model)
    while len(added) < most:
        output = asked.model.network(**_longer(asked, name, prompt, added))
        logits = token_logits(output, TargetContext(1, asked.arguments))
        token = logits[0, -1].argmax()
        if int(token) in special:
            break
        added = torch.cat([added, token[None]])
    return torch.cat([prompt[0], added])


def _without(prompt: Tensor, ids: Tensor) -> Int[Tensor, " token"]:
    size = prompt.shape[1]
    return ids[size:] if ids[:size].tolist() == prompt[0].tolist() else ids


def _numbers(asked: Request, text: str) -> Int[Tensor, " token"]:
    tokenizer = asked.model.tokenizer
    if tokenizer is None:
        raise InputError("Without a tokenizer a caption is given by the numbers of its tokens.")
    found = tokenizer(text, add_special_tokens=False)["input_ids"]
    return torch.tensor(found, dtype=torch.long)


def _longer(asked: Request, name: str, prompt: Tensor, added: Tensor) -> dict[str, Any]:
    """The arguments with the text gone on."""
    arguments = dict(asked.arguments)
    prefix = name.removesuffix("input_ids")
    arguments.pop(f"{prefix}position_ids", None)
    arguments[name] = torch.cat([prompt, added[None]], dim=1)
    for key, value in BESIDE_TEXT.items():
        known = arguments.get(prefix + key)
        if isinstance(known, Tensor) and known.shape[:2] == prompt.shape:
            last = known[:, -1:] if value is None else torch.full_like(known[:, -1:], value)
            arguments[prefix + key] = torch.cat([known, *[last] * len(added)], dim=1)
    return arguments


def spelled(asked: Request, ids: list[int]) -> tuple[tuple[str, ...], tuple[bool, ...]]:
    """Tokens as people read them, and whether each begins a word."""
    convert = getattr(asked.model.tokenizer, "convert_ids_to_tokens", None)
    numbers = [f"token {token}" for token in ids]
    if convert is None:
        return tuple(numbers), (True,) * len(ids)
    # A network may know more numbers than its tokenizer has tokens.
    tokens = [
        number if one is None else str(one)
        for one, number in zip(convert(ids), numbers, strict=True)
    ]
    found = pieces(tokens)
    return tuple(one.text for one in found), tuple(one.opens for one in found)


def whole_text(asked: Request, ids: Tensor) -> str:
    """Tokens as one text; without a tokenizer, their numbers."""
    tokenizer = asked.model.tokenizer
    return " ".join(map(str, ids.tolist())) if tokenizer is None else decoded(ids, tokenizer)


def scores_before(logits: Tensor, written: Continuation, place: int) -> Float[Tensor, " word"]:
    """Scores over the vocabulary that predict the token at a place of the text.

    Raises:
        InputError: the network computed the scores of the last positions only.
    """
    ahead = logits.shape[1] - written.arguments[written.name].shape[1]  # patches before the words
    if ahead + place < 1:
        raise InputError(
            "the output has no scores for the first words: let the network return those of all"
        )
    return logits[0, ahead + place - 1]


def check_causal(asked: Request, written: Continuation, scores: Mapping[int, Tensor]) -> None:
    """Refuse a network whose scores before a word change with the last word of the text.

    Raises:
        TraceError: such a network has seen the word that it is asked to predict.
    """
    network, ids = asked.model.network, written.arguments[written.name].clone()
    vocabulary = next(iter(scores.values())).shape[-1]
    taken = special_ids(asked.model) | set(ids[0].tolist())
    ids[0, -1] = next((one for one in range(vocabulary) if one not in taken), 0)
    with torch.no_grad(), evaluating(list(network.modules())):
        output = network(**written.arguments | {written.name: ids})
    logits = token_logits(output, TargetContext(1, asked.arguments))
    for place, before in scores.items():
        after = scores_before(logits, written, place)
        close = torch.finfo(after.dtype).eps ** 0.5 * before.abs().max()
        if bool(((after - before).abs() > close).any()):
            raise TraceError(
                f"what {asked.model.name} says before a word depends on words after it, so its "
                "words cannot be explained in one pass; only models that write from left to right "
                "can be explained so"
            )
