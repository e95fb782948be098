"""What a network's output says, whatever class it is wrapped in.

A classifier, a scorer of image-text pairs, a language model and a detector all come down to one
table, `Answer`: for every example of the batch a row of scores, and the column that was chosen.
Targets read this table; a network whose output is none of these is explained by a function of the
user's own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
from jaxtyping import Float, Int
from torch import Tensor

from relmap._torch_private import has_head
from relmap.errors import InputError
from relmap.trace.argument_roles import decodes

__all__ = ["Answer", "TargetContext", "fields", "last_token", "read_answer", "token_logits"]

_PAIRS = (("image_features", "text_features"), ("image_embeds", "text_embeds"))
_FEATURES = ("pooler", "pooled", "embed", "feature", "hidden", "attention", "state")


@dataclass(frozen=True)
class TargetContext:
    """What a target may know beside the output.

    `batch` examples went in as `inputs`; `config`, class `labels` and `tokenizer` are those of the
    model, where it has them.
    """

    batch: int
    inputs: Mapping[str, Any]
    config: Any | None = None
    labels: Mapping[int, str] | None = None
    tokenizer: Any | None = None


@dataclass(frozen=True)
class Answer:
    """A row of scores for every example, and the choice that was made.

    `kind` is "class", "pair", "token" or "detection"; `name(example, choice)` says a choice in
    words; `exclusive` choices share one softmax, others have a sigmoid each.
    """

    kind: str
    scores: Float[Tensor, "batch choice"]
    chosen: Int[Tensor, "batch"]
    name: Callable[[int, int], str]
    exclusive: bool = True


def read_answer(output: Any, context: TargetContext) -> Answer:
    """The scores in a network's output.

    Raises:
        InputError: The output is of no known kind, or its scores are not finite.
    """
    found = fields(output)
    for read in (_pairs, _detections, _embeddings, _tokens, _classes):
        answer = read(output, found, context)
        if answer is not None:
            _check_scores(answer)
            return answer
    raise InputError(_unreadable(output, found, context))


def fields(output: Any) -> dict[str, Any]:
    """The parts of an output by name; the parts of a tuple are named by their numbers."""
    if isinstance(output, Tensor):
        return {"0": output}
    if isinstance(output, Mapping):
        return {str(key): value for key, value in output.items() if value is not None}
    if dataclasses.is_dataclass(output) and not isinstance(output, type):
        names = [field.name for field in dataclasses.fields(output)]
        return {name: value for name in names if (value := getattr(output, name)) is not None}
    if isinstance(output, tuple | list):
        names = getattr(output, "_fields", None)
        if names:
            return {name: one for name, one in zip(names, output, strict=True) if one is not None}
        return {str(index): value for index, value in enumerate(output) if value is not None}
    return {}


def token_logits(output: Any, context: TargetContext) -> Float[Tensor, "batch token vocabulary"]:
    """The scores over the vocabulary at every position, of any language model.

    Raises:
        InputError: The output has no such scores.
    """
    found = fields(output)
    for name in ("logits", "prediction_logits", "0"):
        value = found.get(name)
        if _is_float(value, 3) and len(value) == context.batch:
            return value
    raise InputError(
        f"A token is the target, but the output has no scores of shape (batch, token, vocabulary): "
        f"{_describe(found)}."
    )


def last_token(
    logits: Float[Tensor, "batch token vocabulary"], context: TargetContext
) -> Int[Tensor, "batch"]:
    """The position of the last real token of every example, padding on either side.

    Raises:
        InputError: The scores were computed for the last few positions only, and it is not among
            them.
    """
    length = logits.shape[1]
    begin = "decoder_" if decodes(context.inputs) else ""
    mask = context.inputs.get(f"{begin}attention_mask")
    if not isinstance(mask, Tensor) or mask.ndim != 2 or len(mask) != context.batch:
        return torch.full((context.batch,), length - 1, device=logits.device)
    places = torch.arange(mask.shape[1], device=mask.device)
    last = torch.where(mask > 0, places, -1).amax(dim=1).to(logits.device)
    # Counted from the end: patches may come first, and only the last scores may be kept.
    last = last + (length - mask.shape[1])
    if (last < 0).any():
        raise InputError(
            "The last real token of an example has no score in the output: its attention_mask is "
            "all zero, or too few positions were kept (logits_to_keep)."
        )
    return last


def _pairs(output: Any, found: dict[str, Any], context: TargetContext) -> Answer | None:
    names = [name for name in found if "logits_per_" in name and not name.endswith("_per_text")]
    if not names or not _is_float(found[names[0]], 2):
        return None
    scores = found[names[0]]
    if context.inputs.get("use_image_text_matching_head"):  # BLIP-2: two classes under this name
        return _class_answer(scores, context)
    if scores.shape != (context.batch, context.batch):
        raise InputError(
            f"`{names[0]}` has the shape {tuple(scores.shape)} for {context.batch} examples: "
            f"give as many texts as images (the i-th text is explained for the i-th image), or "
            f"one of either."
        )
    return _pair_answer(scores, context)


def _embeddings(output: Any, found: dict[str, Any], context: TargetContext) -> Answer | None:
    pairs = [(found[a], found[b]) for a, b in _PAIRS if a in found and b in found]
    scale = found.get("logit_scale", 1.0)
    if not pairs and isinstance(output, tuple) and len(output) >= 3:
        image, text, scale = output[:3]
        if isinstance(scale, Tensor) and scale.numel() == 1:
            pairs = [(image, text)]
    if not pairs or not all(_is_float(one, 2) for one in pairs[0]):
        return None
    image, text = pairs[0]
    if image.shape[1] != text.shape[1] or context.batch != max(len(image), len(text)):
        return None
    image, text = (
        torch.nn.functional.normalize(image, dim=-1),
        torch.nn.functional.normalize(text, dim=-1),
    )
    image, text = image.expand(context.batch, -1), text.expand(context.batch, -1)
    return _pair_answer(scale * (image @ text.T), context)


def _detections(output: Any, found: dict[str, Any], context: TargetContext) -> Answer | None:
    logits = found.get("logits")
    if "pred_boxes" not in found or not _is_float(logits, 3):
        return None
    exclusive = _has_no_object_class(found, logits, context)
    real = logits.shape[-1] - 1 if exclusive else logits.shape[-1]
    confidence = logits.detach().softmax(-1)[..., :real] if exclusive else logits.detach()
    best, query = confidence.max(dim=1)  # for every class the query that is surest of it
    chosen = best.argmax(dim=1)
    scores = logits[..., :real].gather(1, query[:, None]).squeeze(1)

    def name(example: int, choice: int) -> str:
        label = _query_word(example, choice, context) or _label(choice, context)
        return f"{label} in query {int(query[example, choice])}"

    # Scores of different queries share no softmax: each is its own yes or no here.
    return Answer("detection", scores, chosen, name, exclusive=False)


def _tokens(output: Any, found: dict[str, Any], context: TargetContext) -> Answer | None:
    logits = found.get("logits")
    if (
        not _is_float(logits, 3)
        or len(logits) != context.batch
        or not _predicts_tokens(output, context)
    ):
        return None
    last = last_token(logits, context)
    scores = logits[torch.arange(len(logits), device=logits.device), last]
    return Answer("token", scores, scores.detach().argmax(dim=1), _token_namer(context))


def _classes(output: Any, found: dict[str, Any], context: TargetContext) -> Answer | None:
    if _is_score(found.get("logits"), context):
        return _class_answer(found["logits"], context)
    if "logits" in found:
        return None
    if isinstance(output, tuple | list) and _is_score(found.get("0"), context):
        return _class_answer(found["0"], context)
    scores = _score_fields(found, context)
    return _class_answer(found[scores[0]], context) if len(scores) == 1 else None


def _score_fields(found: dict[str, Any], context: TargetContext) -> list[str]:
    # A pooled feature vector has the same shape, but its numbers are no classes.
    return [
        name
        for name, value in found.items()
        if _is_score(value, context) and not any(word in name for word in _FEATURES)
    ]


def _class_answer(scores: Tensor, context: TargetContext) -> Answer:
    problem = getattr(context.config, "problem_type", None)
    exclusive = scores.shape[1] > 1 and problem != "multi_label_classification"
    chosen = scores.detach().argmax(dim=1)
    return Answer("class", scores, chosen, lambda _, choice: _label(choice, context), exclusive)


def _pair_answer(scores: Tensor, context: TargetContext) -> Answer:
    def name(example: int, choice: int) -> str:
        ids = context.inputs.get("input_ids", context.inputs.get("text"))
        if context.tokenizer is None or not isinstance(ids, Tensor) or len(ids) <= choice:
            return f"text {choice}"
        return decoded(ids[choice], context.tokenizer)

    return Answer("pair", scores, torch.arange(context.batch, device=scores.device), name)


def decoded(ids: Tensor, tokenizer: Any) -> str:
    """A text from its token numbers, special tokens left out."""
    return str(tokenizer.decode(ids.tolist(), skip_special_tokens=True)).strip()


def _token_namer(context: TargetContext) -> Callable[[int, int], str]:
    def name(_: int, choice: int) -> str:
        if context.tokenizer is None:
            return f"token {choice}"
        return f"{context.tokenizer.decode([choice])!r} ({choice})"

    return name


def _label(choice: int, context: TargetContext) -> str:
    label = (context.labels or {}).get(choice)
    return f"class {choice}" if label is None else f"{label.partition(',')[0]} ({choice})"


def _query_word(example: int, choice: int, context: TargetContext) -> str | None:
    ids = context.inputs.get("input_ids")  # of open-vocabulary detectors: one text for every class
    if context.tokenizer is None or not _is_ids(ids) or len(ids) % context.batch:
        return None
    each = len(ids) // context.batch
    return decoded(ids[example * each + choice], context.tokenizer) if choice < each else None


def _has_no_object_class(found: dict[str, Any], logits: Tensor, context: TargetContext) -> bool:
    words = any(name in context.inputs for name in ("input_ids", "query_pixel_values"))
    if words or "text_embeds" in found:  # open vocabulary: the classes are words, each yes or no
        return False
    known = getattr(context.config, "num_labels", None) or len(context.labels or {})
    return logits.shape[-1] == known + 1 if known else True


def _predicts_tokens(output: Any, context: TargetContext) -> bool:
    decoding = decodes(context.inputs)
    spoken = decoding or "input_ids" in context.inputs or "inputs_embeds" in context.inputs
    if not spoken or has_head(output, "masked", "token classes"):
        return False
    architectures = getattr(context.config, "architectures", None) or ()
    text = getattr(context.config, "get_text_config", lambda: context.config)()
    vocabulary = getattr(text, "vocab_size", None)
    decoder = "decoder_input_ids" in context.inputs or getattr(text, "is_decoder", False)
    named = any(has_head(speaks, "language") for speaks in (output, *architectures))
    return named or bool(decoder and vocabulary == fields(output)["logits"].shape[-1])


def _is_float(value: Any, axes: int) -> TypeGuard[Tensor]:
    return isinstance(value, Tensor) and value.is_floating_point() and value.ndim == axes


def _is_ids(value: Any) -> TypeGuard[Tensor]:
    return isinstance(value, Tensor) and not value.is_floating_point() and value.ndim == 2


def _is_score(value: Any, context: TargetContext) -> TypeGuard[Tensor]:
    return _is_float(value, 2) and len(value) == context.batch


def _check_scores(answer: Answer) -> None:
    bad = answer.scores.detach().isnan() | (answer.scores.detach() == torch.inf)
    if bad.any():
        example = int(bad.any(dim=1).nonzero()[0])
        raise InputError(
            f"The model's output is not finite: {int(bad.sum())} of {bad.numel()} scores are NaN "
            f"or infinite, first in example {example}. Weights that are not finite or half "
            f"precision that overflows do this: check the weights, or load with dtype='float32'."
        )


def _describe(found: Mapping[str, Any]) -> str:
    shapes = [
        f"{name} {tuple(value.shape)}" for name, value in found.items() if isinstance(value, Tensor)
    ]
    return ", ".join(shapes) or "no tensors"


def _unreadable(output: Any, found: dict[str, Any], context: TargetContext) -> str:
    several = _score_fields(found, context)
    why = "it is none of class scores, image-text scores, token scores or detections"
    if len(several) > 1:
        why = f"several of its fields may be class scores: {', '.join(several)}"
    elif _is_float(found.get("logits"), 3):
        why = "it has one score for every token and class, and which token is meant must be said"
    return (
        f"relmap cannot tell what to explain in the output {type(output).__name__} "
        f"({_describe(found)}): {why}. Pass target=a function from the output to a tensor of shape "
        f"(batch,), such as target=lambda output: output.{next(iter(found), 'logits')}[:, 0, 5]."
    )
