"""What is explained: one number for every example of a batch.

A target reads the model's output and returns a tensor of shape (batch,), whose gradient is then
followed back. Without a target the model's own choice is explained: the predicted class, the next
token, the given text of an image, the surest detection. `resolve` turns whatever the user wrote
into these numbers and into words for the reader. Each registered function makes a `Target`; a new
one is a new file beside this.

Example:
    >>> from relmap.targets import contrast
    >>> contrast("cat", "dog").about
    "contrast of 'cat' with 'dog'"
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from relmap.errors import InputError
from relmap.registry import Entry, Registry
from relmap.targets.answers import Answer, TargetContext, fields, read_answer

__all__ = [
    "TARGETS",
    "Resolved",
    "Target",
    "TargetContext",
    "TargetEntry",
    "choose",
    "choose_one",
    "find_token",
    "resolve",
]


@dataclass(frozen=True)
class Target:
    """What is explained, in words, and how it is read from an output.

    `read(output, context)` returns the numbers, one per example, and a name for each.
    """

    about: str
    read: Callable[[Any, TargetContext], tuple[Float[Tensor, " batch"], Sequence[str]]]


@dataclass(frozen=True, kw_only=True)
class TargetEntry(Entry[Callable[..., Target]]):
    """A target: a function of what is asked for, in any form of arguments, that makes a `Target`.

    The command line gives its arguments by position, as in `contrast:cat,dog`.
    """


TARGETS = Registry("target", "relmap.targets", TargetEntry)


@dataclass(frozen=True)
class Resolved:
    """The numbers that are explained, and in words what they are and what the model said.

    `answer` holds all scores that the model chose from, `columns` which of them are explained;
    None where the output has no such scores, or the target is no choice among them.
    """

    values: Float[Tensor, " batch"]
    names: tuple[str, ...]
    prediction: tuple[str, ...]
    answer: Answer | None = None
    columns: Int[Tensor, " batch"] | None = None

    def detached(self) -> Resolved:
        """The same without the graph of the pass that computed it."""
        answer = self.answer
        if answer is not None:
            answer = replace(answer, scores=answer.scores.detach())
        return replace(self, values=self.values.detach(), answer=answer)


def resolve(target: Any, output: Any, context: TargetContext) -> Resolved:
    """The numbers that a target asks for, read from a network's output.

    `target` is None (the model's own choice), a class by number or label, a list with one of
    these per example, a registered target, or a function from the output to a tensor of shape
    (batch,).

    Raises:
        InputError: The target does not fit the output, or its numbers are not finite.
    """
    try:
        answer, unreadable = read_answer(output, context), None
    except InputError as error:
        answer, unreadable = None, error
    columns: Tensor | None = None
    made = _made(target, answer, context)
    if made is not None:
        values, names = made.read(output, context)
    elif callable(target):
        values, names = _called(target, output, context), [_title(target)] * context.batch
    elif answer is None:
        assert unreadable is not None
        raise unreadable
    else:
        columns = choose(target, answer, context)
        values = answer.scores.gather(1, columns[:, None]).squeeze(1)
        names = [answer.name(example, int(index)) for example, index in enumerate(columns)]
    _check_values(values, context)
    said = _said(answer) if answer else [f"{value:.3g}" for value in values.tolist()]
    return Resolved(values, tuple(names), tuple(said), answer, columns)


def choose(target: Any, answer: Answer, context: TargetContext) -> Int[Tensor, " batch"]:
    """The column of an answer that each example's target means; None is the model's own choice.

    Raises:
        InputError: A class that is not there, or a list of the wrong length.
    """
    if target is None:
        return answer.chosen
    if isinstance(target, Tensor | np.ndarray):
        target = target.tolist()
    several = isinstance(target, Sequence) and not isinstance(target, str)
    targets = list(target) if several else [target] * context.batch
    if len(targets) != context.batch:
        raise InputError(
            f"The list of targets has {len(targets)} entries for {context.batch} examples: give "
            f"one for each, or a single target for all."
        )
    own = answer.chosen.tolist()
    columns = [
        own[example] if item is None else _column(item, answer, context)
        for example, item in enumerate(targets)
    ]
    if answer.kind == "pair" and columns != own:
        raise InputError(
            "An image-text score has no classes to choose from: the i-th text is scored for the "
            "i-th image. Give the texts that you want explained, with one image or as many."
        )
    return torch.tensor(columns, device=answer.scores.device)


def choose_one(wanted: int | str, answer: Answer, context: TargetContext) -> int:
    """The column of an answer that a class or token means, by number or name.

    Raises:
        InputError: There is no such class or token, or several have the name.
    """
    return _column(wanted, answer, context)


def find_token(token: Any, vocabulary: int, context: TargetContext) -> int:
    """The number of a token that is given by number or as it is written.

    A word is tried as written and, failing that, with the space that stands before it in a
    sentence.

    Raises:
        InputError: The text is no single token, or the number is outside the vocabulary.
    """
    if isinstance(token, str):
        tokenizer = context.tokenizer
        if tokenizer is None:
            raise InputError(f"Without a tokenizer a token is named by its number, not {token!r}.")
        tries = [tokenizer.encode(text, add_special_tokens=False) for text in (token, " " + token)]
        single = [ids[0] for ids in tries if len(ids) == 1]
        if not single or single[0] == getattr(tokenizer, "unk_token_id", None):
            pieces = ", ".join(map(repr, tokenizer.convert_ids_to_tokens(tries[0])))
            raise InputError(f"{token!r} is no single token of this model, but {pieces or 'none'}.")
        return single[0]
    return _number(token, vocabulary, "token")


def __getattr__(name: str) -> Callable[..., Target]:
    # `relmap.targets.contrast` without a line here for every file of the room
    if name.startswith("_") or name not in TARGETS:
        raise AttributeError(f"module 'relmap.targets' has no attribute {name!r}")
    return TARGETS.get(name).function


def _made(target: Any, answer: Answer | None, context: TargetContext) -> Target | None:
    if isinstance(target, list | tuple) and any(
        isinstance(one, Target) or callable(one) for one in target
    ):
        return _one_each(target)
    if isinstance(target, Target):
        return target
    if not isinstance(target, str):
        return None
    # The command line writes `contrast:cat,dog`; a label of that spelling is the label.
    name, _, rest = target.partition(":")
    if name not in TARGETS or (answer is not None and _is_label(target, answer, context)):
        return None
    words = [word.strip() for word in rest.split(",")] if rest else []
    arguments = [int(word) if _is_whole(word) else word for word in words]
    function = TARGETS.get(name).function
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError as error:
        usage = f"{TARGETS.get(name).name}{inspect.signature(function)}"
        raise InputError(f"The target {target!r} does not fit {usage}: {error}.") from error
    return function(*arguments)


def _one_each(targets: Sequence[Any]) -> Target:
    def read(output: Any, context: TargetContext) -> tuple[Tensor, list[str]]:
        if len(targets) != context.batch:
            raise InputError(
                f"The list of targets has {len(targets)} entries for {context.batch} examples."
            )
        results = []
        for target in targets:
            resolved = resolve(target, output, context)
            results.append((resolved.values, resolved.names))
        values = torch.stack([numbers[index] for index, (numbers, _) in enumerate(results)])
        return values, [names[index] for index, (_, names) in enumerate(results)]

    return Target("a target for every example", read)


def _called(target: Callable[[Any], Any], output: Any, context: TargetContext) -> Tensor:
    values = target(output)
    if not isinstance(values, Tensor) or values.shape != (context.batch,):
        shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise InputError(
            f"The target function must return a tensor of shape (batch,), here ({context.batch},), "
            f"but returned {shape}: keep the batch axis and sum or index the others."
        )
    if not values.is_floating_point():
        raise InputError(f"The target function returned {values.dtype}: return floating scores.")
    tensors = [part for part in fields(output).values() if isinstance(part, Tensor)]
    if (
        torch.is_grad_enabled()
        and not values.requires_grad
        and any(t.requires_grad for t in tensors)
    ):
        raise InputError(
            "The target function returned a tensor without gradient: compute it from the output by "
            "differentiable operations, without item(), detach(), argmax() or no_grad()."
        )
    return values


def _title(target: Callable[..., Any]) -> str:
    name = getattr(target, "__name__", type(target).__name__)
    return "a function of the output" if name == "<lambda>" else name.replace("_", " ")


def _check_values(values: Tensor, context: TargetContext) -> None:
    if values.shape != (context.batch,):
        raise InputError(
            f"The target gave the shape {tuple(values.shape)}, not ({context.batch},)."
        )
    bad = ~values.detach().isfinite()
    if bad.any():
        raise InputError(
            f"The target is not finite in example {int(bad.nonzero()[0])}: the model's output "
            f"holds NaN or infinite numbers there. Weights that are not finite or half precision "
            f"that overflows do this: check the weights, or load with dtype='float32'."
        )


def _said(answer: Answer) -> list[str]:
    scores = answer.scores.detach().gather(1, answer.chosen[:, None]).squeeze(1).tolist()
    return [
        f"{answer.name(example, int(index))}, logit {score:.3g}"
        for example, (index, score) in enumerate(zip(answer.chosen, scores, strict=True))
    ]


def _column(item: Any, answer: Answer, context: TargetContext) -> int:
    count = answer.scores.shape[1]
    if answer.kind == "token":
        return find_token(item, count, context)
    if isinstance(item, str):
        if _is_whole(item) and not _is_label(item, answer, context):
            return _number(int(item), count, "class")  # as the command line writes it
        return _by_label(item, _labels(answer, context))
    return _number(item, count, "class")


def _number(item: Any, count: int, what: str) -> int:
    if isinstance(item, bool) or not isinstance(item, int | np.integer):
        raise InputError(
            f"A target cannot be a {type(item).__name__}: give a {what} by number or name."
        )
    if not 0 <= item < count:
        raise InputError(
            f"The target {item} is outside the model's {count} choices, 0 to {count - 1}."
        )
    return int(item)


def _labels(answer: Answer, context: TargetContext) -> Mapping[int, str]:
    count = answer.scores.shape[1]
    return {index: label for index, label in (context.labels or {}).items() if index < count}


def _spellings(label: str) -> set[str]:
    # ImageNet's labels are lists of synonyms: "tench, Tinca tinca"
    return {part.strip().casefold() for part in (label, *label.split(","))}


def _is_label(text: str, answer: Answer, context: TargetContext) -> bool:
    wanted = text.strip().casefold()
    return any(wanted in _spellings(label) for label in _labels(answer, context).values())


def _is_whole(word: str) -> bool:
    return word.removeprefix("-").isdecimal()


def _by_label(text: str, labels: Mapping[int, str]) -> int:
    wanted = text.strip().casefold()
    exact = [index for index, label in labels.items() if label.strip().casefold() == wanted]
    found = exact or [index for index, label in labels.items() if wanted in _spellings(label)]
    if len(found) == 1:
        return found[0]
    if found:
        several = ", ".join(f"{labels[index]} ({index})" for index in found)
        raise InputError(f"Several classes are called {text!r}: {several}. Give the number.")
    if not labels:
        raise InputError(f"This model has no class names, so {text!r} is unknown: give the number.")
    known = {spelling: label for label in labels.values() for spelling in _spellings(label)}
    close = dict.fromkeys(known[match] for match in difflib.get_close_matches(wanted, known, n=3))
    meant = " or ".join(repr(label) for label in close)
    some = ", ".join(repr(label) for label in list(labels.values())[:5])
    hint = f"Did you mean {meant}?" if meant else f"There are {len(labels)}, such as {some}."
    raise InputError(f"The model has no class {text!r}. {hint}")
