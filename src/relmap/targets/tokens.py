"""Targets of language models: how likely one token is, or a passage that was generated.

A language model's scores at a position are about the token that follows it; a masked language
model's are about the position itself. `token_log_probability` reads a position as it is,
`generated_tokens` goes along a passage that is already among the inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from relmap.errors import InputError
from relmap.targets import TARGETS, Target, TargetContext, find_token
from relmap.targets.answers import last_token, token_logits
from relmap.trace.argument_roles import ids_name, padding_masks

__all__ = ["generated_tokens", "token_log_probability"]


@TARGETS.register("token-log-probability")
def token_log_probability(
    token: int | str | Sequence[int | str] | None = None, position: int | None = None
) -> Target:
    """The log-probability of a token where it is predicted: log softmax(y_p)_t.

    `position` is that of the scores, so a causal model's token number 5 is read at 4 and a masked
    one at its mask; negative ones count back from the last real token, None is that one. A
    `token` of None is the likeliest.

    Example:
        >>> token_log_probability("Paris").about
        "log-probability of 'Paris'"
    """

    def read(output: Any, context: TargetContext) -> tuple[Float[Tensor, " batch"], list[str]]:
        logits = token_logits(output, context)
        rows = torch.arange(context.batch, device=logits.device)
        scores = logits[rows, _position(position, logits, context)].log_softmax(-1)
        chosen = _chosen(token, scores, context)
        names = [f"log-probability of {_written(int(index), context)}" for index in chosen]
        return scores[rows, chosen], names

    place = "" if position is None else f" at position {position}"
    words = "the likeliest token" if token is None else repr(token)
    return Target(f"log-probability of {words}{place}", read)


@TARGETS.register("generated-tokens")
def generated_tokens(
    tokens: int | Sequence[int] | Sequence[Sequence[int]] | Tensor | None = None,
    index: int | None = None,
) -> Target:
    """The log-probability of a generated passage: the sum of log p(t_i | all before) over it.

    The passage must be among the inputs: prompt and answer together for a causal model, the
    decoder's inputs for an encoder-decoder; its last token may be missing there. `tokens` are its
    numbers, one list for all or one per example, or how many of the last tokens it has; None is
    all that the decoder was given. `index` takes one token of the passage alone.

    Example:
        >>> generated_tokens(3, index=0).about
        'generated token 0'
    """

    def read(output: Any, context: TargetContext) -> tuple[Float[Tensor, " batch"], list[str]]:
        logits = token_logits(output, context)
        values, names = [], []
        for example, (passage, first) in enumerate(_passages(tokens, logits, context)):
            scores = logits[example, first : first + len(passage)].log_softmax(-1)
            each = scores.gather(1, passage[:, None]).squeeze(1)
            values.append(each.sum() if index is None else each[_inside(index, len(passage))])
            said = passage if index is None else passage[_inside(index, len(passage))][None]
            names.append(f"generated {_written(said.tolist(), context)}")
        return torch.stack(values), names

    return Target("generated tokens" if index is None else f"generated token {index}", read)


def _chosen(token: Any, scores: Tensor, context: TargetContext) -> Int[Tensor, " batch"]:
    if token is None:
        return scores.detach().argmax(dim=1)
    several = isinstance(token, Sequence) and not isinstance(token, str)
    tokens = list(token) if several else [token] * context.batch
    if len(tokens) != context.batch:
        raise InputError(f"There are {len(tokens)} tokens for {context.batch} examples.")
    found = [find_token(item, scores.shape[1], context) for item in tokens]
    return torch.tensor(found, device=scores.device)


def _position(
    position: int | None, logits: Tensor, context: TargetContext
) -> Int[Tensor, " batch"]:
    last = last_token(logits, context)
    places = last if position is None else torch.full_like(last, position)
    places = torch.where(places < 0, last + 1 + places, places)
    if ((places < 0) | (places > last)).any():
        raise InputError(
            f"There is no position {position}: the shortest text of the batch has "
            f"{int(last.min()) + 1} positions."
        )
    return places


def _passages(tokens: Any, logits: Tensor, context: TargetContext) -> list[tuple[Tensor, int]]:
    """For every example its passage and the position whose scores predict the first token."""
    name = ids_name(context.inputs)
    ids = context.inputs.get(name)
    if not isinstance(ids, Tensor) or len(ids) != context.batch:
        raise InputError("A generated passage is found in `input_ids` or `decoder_input_ids`.")
    if tokens is None and name == "input_ids":
        raise InputError("Say which tokens were generated: their numbers, or how many there are.")
    ends = (last_token(logits, context) + 1).tolist()
    shift = logits.shape[1] - ids.shape[1]  # patches before the words
    mask = context.inputs.get(padding_masks(name)[0])
    passages = []
    for example, end in enumerate(ends):
        row = ids[example].to(logits.device)
        real = row[: end - shift]
        start = 0
        if isinstance(mask, Tensor) and mask.shape == ids.shape:
            start = int(mask[example].to(torch.int64).argmax())
        passage = _passage(tokens, example, real[start:], context)
        held = bool(len(passage) <= len(real) and (real[-len(passage) :] == passage).all())
        passages.append((passage, end - len(passage) - (1 if held else 0)))
        fits = held or _ends_with(real, passage[:-1])
        if not fits or passages[-1][1] < 0:
            raise InputError(
                f"The tokens of example {example} are not the end of `{name}`: pass the prompt "
                f"followed by the generated tokens as `{name}`."
            )
    return passages


def _passage(
    tokens: Any, example: int, real: Tensor, context: TargetContext
) -> Int[Tensor, " token"]:
    if tokens is None:
        passage = real[1:]
    elif isinstance(tokens, int):
        if not 0 < tokens < len(real):
            raise InputError(f"{tokens} of {len(real)} tokens cannot have been generated.")
        passage = real[-tokens:]
    else:
        listed = tokens.tolist() if isinstance(tokens, Tensor) else list(tokens)
        each = bool(listed) and not isinstance(listed[0], int)
        if each and len(listed) != context.batch:
            raise InputError(f"There are {len(listed)} passages for {context.batch} examples.")
        passage = torch.tensor(
            listed[example] if each else listed, device=real.device, dtype=torch.long
        )
    if len(passage) == 0:
        raise InputError(f"No token was generated in example {example}.")
    return passage


def _ends_with(row: Tensor, end: Tensor) -> bool:
    return len(end) == 0 or (len(end) < len(row) and bool((row[-len(end) :] == end).all()))


def _inside(index: int, length: int) -> int:
    if not -length <= index < length:
        raise InputError(f"There is no generated token {index}: there are {length}.")
    return index


def _written(ids: int | list[int], context: TargetContext) -> str:
    if context.tokenizer is None:
        return f"token {ids}" if isinstance(ids, int) else f"tokens {ids}"
    return repr(context.tokenizer.decode([ids] if isinstance(ids, int) else ids))
