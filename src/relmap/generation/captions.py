"""captions: why a network wrote each word, and why it wrote the whole.

A caption is written word by word, and each word is a classification of its own: the logit of the
word w_i at the position before it, read from the network as it had all earlier words before it.
One teacher-forced forward pass holds every one of these numbers, so a caption of T words costs one
pass and T gradients. The caption as a whole is their weighted sum,

    R^S = sum_i lambda_i R^{w_i},   lambda_i = Metric(S) - Metric(S without w_i)    (WRA, eq. 20-21)

so that words count by how much the caption is worse without them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from relmap import files
from relmap.drawing.word_maps import word_maps
from relmap.errors import InputError
from relmap.explanation import explain_each
from relmap.generation.continuation import (
    Continuation,
    check_causal,
    continued,
    scores_before,
    spelled,
    whole_text,
)
from relmap.request.request import Request, read_request
from relmap.result.attribution import Attribution
from relmap.scoring import find_score
from relmap.scoring.captions import tokenise
from relmap.targets import Target
from relmap.targets.answers import TargetContext, token_logits

__all__ = [
    "CaptionExplanation",
    "CaptionWords",
    "caption_score",
    "caption_words",
    "explain_caption",
]

Score = Callable[[str, Sequence[str]], float]
"""(candidate, references) -> how good a caption is; higher is better."""


@dataclass(frozen=True, eq=False)
class CaptionExplanation:
    """A caption explained: one attribution for every word, and what each word is worth.

    Attributes:
        caption: The text.
        words: The words' attributions, each an example of its own: `words[2].image.scores`.
        weights: lambda, never negative and summing to 1.
        drops: lambda as eq. 21 has it, neither clamped nor normalised.
    """

    caption: str
    words: Attribution
    weights: Float[Tensor, " word"]
    drops: Float[Tensor, " word"]

    def __post_init__(self) -> None:
        """Refuse weights that are not one for each word."""
        if not len(self.words) == len(self.weights) == len(self.drops):
            raise InputError(
                f"{len(self.words)} words with {len(self.weights)} weights and {len(self.drops)} "
                "drops: give one each"
            )

    def __repr__(self) -> str:
        """Say the caption; the numbers are in `words`."""
        return f"CaptionExplanation({self.caption!r}; method={self.words.meta.get('method')!r})"

    @property
    def whole(self) -> Attribution:
        """The relevance for the whole caption, R^S = sum_i lambda_i R^{w_i}."""
        return self.combined(self.weights)

    def combined(self, weights: Sequence[float] | Float[Tensor, " word"]) -> Attribution:
        """The words' attributions summed with other weights, `drops` for instance.

        Raises:
            InputError: When there is not one weight for each word.
        """
        if len(weights) != len(self.words):
            raise InputError(f"{len(weights)} weights for {len(self.words)} words: give one each")
        first = self.words[0]
        return replace(
            first,
            scores={
                name: torch.as_tensor(weights).to(scores)[None] @ scores
                for name, scores in self.words.scores.items()
            },
            pixels={
                name: torch.einsum("w,whc->hc", torch.as_tensor(weights).to(found), found)[None]
                for name, found in self.words.pixels.items()
            },
            target=(self.caption,),
            prediction=(self.caption,),
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a picture with a map for every word (.png), everything (.safetensors), or .json.

        Raises:
            InputError: For another ending or a missing folder.
            MissingExtraError: For .png without matplotlib.
        """
        files.save(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> CaptionExplanation:
        """Read an explanation that `save` wrote as .safetensors; pictures are not kept in it.

        Raises:
            InputError: When the file is missing, corrupt, or holds something else.
        """
        words = Attribution.load(path)
        known = words.meta.get("caption")
        if not isinstance(known, dict):
            raise InputError(f"{str(path)!r} holds an attribution, but of no caption")
        meta = {name: value for name, value in words.meta.items() if name != "caption"}
        weights, drops = (
            torch.tensor(known[name], dtype=torch.float64) for name in ("weights", "drops")
        )
        return cls(known["text"], replace(words, meta=meta), weights, drops)


def explain_caption(
    model: Any,
    *,
    caption: str | Sequence[int] | Tensor | None = None,
    method: str = "wra",
    words: Sequence[str | int] | None = None,
    weighting: str | Score = "equal",
    references: str | Sequence[str] = (),
    max_new_tokens: int = 40,
    **inputs: Any,
) -> CaptionExplanation:
    """The relevance of every input token for every word of one caption, and for the whole of it.

    R^{w_i} explains the logit of w_i at the position before it, in one teacher-forced pass.
    `caption` is a text, or its token numbers, or None: greedily generated. `inputs` are one picture
    (`image=`), a prompt, or the forward's own arguments, and options of the method; `words` picks
    some, by number or as they are written. `weighting` says what a token is worth: "equal" (1/T),
    or how much a score of the caption drops without it, clamped at 0 and normalised (equal where
    nothing drops). A score is named as `relmap list scoring` does ("bleu-4", "meteor") or is a
    function (candidate, references) -> float; CIDEr has to know a data set, see `caption_score`.
    Use it for models that write from left to right; `explain` explains one word of it the same.

    Raises:
        InputError: there is more than one example, no word, or no reference to score against.
        TraceError: the network cannot be explained exactly, or sees later words.

    Reference: Huang et al., MM Asia 2023 (WRA), eq. 20-21.

    Example:
        >>> import torch, relmap, transformers
        >>> config = transformers.GPT2Config(vocab_size=9, n_embd=8, n_layer=1, n_head=1)
        >>> network = transformers.GPT2LMHeadModel(config)
        >>> prompt = torch.tensor([[3, 5]])
        >>> found = relmap.explain_caption(network, input_ids=prompt, caption=[2, 7, 4])
        >>> found.words.scores["input_ids"].shape, found.whole.scores["input_ids"].shape
        (torch.Size([3, 5]), torch.Size([1, 5]))
    """
    explained = caption_words(
        model, caption=caption, method=method, words=words, max_new_tokens=max_new_tokens, **inputs
    )
    return explained.weighed(weighting, references)


@dataclass(frozen=True, eq=False)
class CaptionWords:
    """A caption whose words are explained once, however many ways they are weighed in.

    Attributes:
        asked: The model and the method, with the arguments before the caption.
        written: The caption among the arguments.
        chosen: Which of its words are explained.
    """

    asked: Request
    written: Continuation
    chosen: tuple[int, ...]

    @cached_property
    def words(self) -> Attribution:
        """One attribution for every word, as the examples of one; computed when first asked for.

        Raises:
            TraceError: the network cannot be explained exactly, or sees later words.
        """
        asked = replace(self.asked, arguments=self.written.arguments)
        scores: dict[int, Tensor] = {}
        found = explain_each(asked, [_target(self.written, at, scores) for at in self.chosen])
        check_causal(asked, self.written, scores)
        return _side_by_side(asked, found, scores)

    def weighed(
        self, weighting: str | Score = "equal", references: str | Sequence[str] = ()
    ) -> CaptionExplanation:
        """The explanation with the words weighed as `explain_caption` says.

        Raises:
            InputError: there is no reference to score against, or the score is no number.
            TraceError: the network cannot be explained exactly, or sees later words.
        """
        # weights come first: a weighting that cannot be used is refused before the costly part
        drops = _drops(self.asked, self.written, weighting, references)[list(self.chosen)]
        return CaptionExplanation(
            caption=whole_text(self.asked, self.written.ids),
            words=self.words,
            weights=_normalised(drops),
            drops=drops,
        )


def caption_words(
    model: Any,
    *,
    caption: str | Sequence[int] | Tensor | None = None,
    method: str = "wra",
    words: Sequence[str | int] | None = None,
    max_new_tokens: int = 40,
    **inputs: Any,
) -> CaptionWords:
    """The words of one caption, to be weighed in several ways; arguments as of `explain_caption`.

    Raises:
        InputError: there is more than one example, or no word.
    """
    backward = inputs.pop("backward", None)
    asked = read_request(model, method, inputs, backward)
    written = continued(asked, caption, max_new_tokens)
    return CaptionWords(asked, written, tuple(_chosen(written, words)))


def _chosen(written: Continuation, words: Sequence[str | int] | None) -> list[int]:
    """Which content tokens are explained; a written word may be several tokens."""
    if words is None:
        return list(range(len(written.labels)))
    if isinstance(words, str):
        raise InputError(f"words={words!r} is one text: give a list of words, as [{words!r}] is")
    spans = _spans(written)
    found: set[int] = set()
    for word in words:
        if isinstance(word, str):
            same = [at for text, span in spans if text.casefold() == word.casefold() for at in span]
        else:
            same = [word] if -len(written.labels) <= word < len(written.labels) else []
        if not same:
            raise InputError(f"there is no word {word!r} in {' '.join(written.labels)!r}")
        found |= {at % len(written.labels) for at in same}
    return sorted(found)


def _spans(written: Continuation) -> list[tuple[str, list[int]]]:
    """Every token, and every word of several tokens, with where it stands."""
    spans = [(label, [at]) for at, label in enumerate(written.labels)]
    start = 0
    for at in range(1, len(written.labels) + 1):
        if at == len(written.labels) or written.opens[at]:
            if at - start > 1:
                spans.append(("".join(written.labels[start:at]), list(range(start, at))))
            start = at
    return spans


def _target(written: Continuation, index: int, seen: dict[int, Tensor]) -> Target:
    """The logit of a word at the position before it; leaves the scores there in `seen`."""
    place, token, label = written.places[index], int(written.ids[index]), written.labels[index]

    def read(output: Any, context: TargetContext) -> tuple[Float[Tensor, " batch"], list[str]]:
        scores = scores_before(token_logits(output, context), written, place)
        seen.setdefault(place, scores.detach())  # methods that run parts again read it twice
        return scores[None, token], [label]

    return Target(f"the word {label!r}", read)


def caption_score(name: str, *, tokeniser: str = "plain", **options: Any) -> Score:
    """One of `relmap list scoring` as a function of one caption, with options of its own.

    CIDEr weighs words by how rare they are in a data set, so it takes the document frequencies of
    one: `weighting=caption_score("cider", documents=documents)`.

    Raises:
        InputError: the score is unknown, or needs a program that is not here.
        MissingExtraError: it needs the extra `captions`.

    Example:
        >>> round(caption_score("rouge-l")("a cat", ["a cat", "a dog"]), 2)
        1.0
    """
    entry = find_score(name)

    def score(candidate: str, references: Sequence[str]) -> float:
        said, *known = tokenise([candidate, *references], tokeniser)
        return float(entry.function([said], [tuple(known)], **options).each[0])

    return score


def _drops(
    asked: Request, written: Continuation, weighting: str | Score, references: str | Sequence[str]
) -> Float[Tensor, " word"]:
    """How much the score drops without each token (eq. 21); 1/T for equal weights."""
    count = len(written.labels)
    if weighting == "equal":
        return torch.full((count,), 1 / count, dtype=torch.float64)
    score = caption_score(weighting) if isinstance(weighting, str) else weighting
    if asked.model.tokenizer is None:
        raise InputError("A caption is scored as text, which takes a tokenizer: use 'equal'.")
    known = [references] if isinstance(references, str) else list(references)
    if not known:
        raise InputError("a score compares with captions by people: give them as references=[...]")
    ids = written.ids
    whole = score(whole_text(asked, ids), known)
    without = [torch.cat([ids[:at], ids[at + 1 :]]) for at in range(count)]
    drops = [whole - score(whole_text(asked, rest), known) for rest in without]
    found = torch.tensor(drops, dtype=torch.float64)
    if not found.isfinite().all():
        raise InputError(f"the score is no number for some words: its drops are {drops}")
    return found


def _normalised(drops: Tensor) -> Float[Tensor, " word"]:
    """Only what lowers the score counts, and all of it is 1; equal where nothing does."""
    kept = drops.clamp_min(0)
    total = kept.sum()
    return kept / total if total > 0 else torch.full_like(drops, 1 / len(drops))


def _side_by_side(
    asked: Request, found: Sequence[Attribution], scores: dict[int, Tensor]
) -> Attribution:
    """The words' attributions as the examples of one, with what the network would have said."""
    first, count = found[0], len(found)
    said = [spelled(asked, [int(row.argmax())])[0][0] for row in scores.values()]
    return replace(
        first,
        scores={name: torch.cat([one.scores[name] for one in found]) for name in first.scores},
        pixels={name: torch.cat([one.pixels[name] for one in found]) for name in first.pixels},
        layout={name: layout.repeat(count) for name, layout in first.layout.items()},
        target=tuple(one.target[0] for one in found),
        prediction=tuple(said),
        inputs={
            name: [value[0]] * count if isinstance(value, list) and len(value) == 1 else value
            for name, value in first.inputs.items()
        },
    )


@files.draws(CaptionExplanation)
def _draw(explanation: CaptionExplanation, path: Path | None = None) -> Any:
    """A map over the picture for every word, and one for all."""
    return word_maps([(explanation.words, explanation.whole)], path)


@files.writes(CaptionExplanation, ".safetensors", ".json")
def _write(explanation: CaptionExplanation, path: Path) -> None:
    numbers = {"weights": explanation.weights.tolist(), "drops": explanation.drops.tolist()}
    meta = explanation.words.meta | {"caption": {"text": explanation.caption, **numbers}}
    files.save(replace(explanation.words, meta=meta), path)
