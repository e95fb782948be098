"""The same model and method, asked about more than the batch's own explanation.

Some metrics judge explanations that one call does not give: of each object that a detector found,
of a whole caption, of a picture beside every class name. They ask here, in words that need no
knowledge of how a model is called; `relmap.metrics.trial.Again` says what may be asked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from relmap.data import read_json
from relmap.data.example import Example
from relmap.data.geometry import masks_as_seen
from relmap.errors import InputError
from relmap.evaluation.specification import CENTRE, Specification
from relmap.explanation import explain_each
from relmap.generation.captions import CaptionWords, caption_score, caption_words
from relmap.models import Model, load
from relmap.request.forward_arguments import text_limit
from relmap.request.request import read_request
from relmap.result.attribution import Attribution
from relmap.scoring.captions import tokenise
from relmap.scoring.cider import Documents, count_documents
from relmap.scoring.clip_score import ClipScorer, ref_clip_score
from relmap.targets.answers import decoded
from relmap.trace.tracing import evaluating

__all__ = ["Asker"]


@dataclass(eq=False)
class Asker:
    """Asks the model, and explains it by one method, about single examples of a batch.

    Attributes:
        model: What is explained.
        method: By what.
        examples: The batch, its pictures opened.
        attribution: Of the batch by this method; a control is the same for every question.
        prepared: The forward's arguments of one example alone, by its number.
    """

    model: Model
    method: Specification
    examples: Sequence[Example]
    attribution: Attribution
    prepared: Callable[[int], dict[str, Any]]
    _pictures: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    _captions: dict[tuple[int, int], CaptionWords] = field(default_factory=dict)

    def arguments(self, example: int) -> dict[str, Any]:
        """The forward's arguments of one example."""
        return self.prepared(example)

    def targets(self, example: int, targets: Sequence[Any]) -> list[Attribution]:
        """The attribution of one example for each of several targets, from one forward pass."""
        if self.method.name == CENTRE:
            return [self.attribution[example]] * len(targets)
        return self._explained(self.prepared(example), targets)

    def texts(self, example: int, texts: Sequence[str]) -> Attribution:
        """The attribution of its picture beside each of several texts, as one batch.

        Raises:
            InputError: The model does not prepare texts, or the example has no picture.
        """
        picture = self.examples[example].image
        if self.model.processor is None or picture is None:
            raise InputError("texts beside a picture take a picture, and a model with a processor")
        if self.method.name == CENTRE:
            return _repeated(self.attribution[example], len(texts))
        prepared = self.model.prepare(image=[picture] * len(texts), text=list(texts))
        device = next(self.model.network.parameters()).device
        arguments = {
            name: value.to(device) if isinstance(value, Tensor) else value
            for name, value in prepared.items()
        }
        return self._explained(arguments, [None])[0]

    def caption(self, example: int, weighting: str, documents: str, most: int) -> Attribution:
        """The attribution of the whole caption, its words weighed equally or by a score."""
        if self.method.name == CENTRE:
            return self.attribution[example]
        score: Any = weighting
        if documents:
            score = caption_score(weighting, documents=_documents(documents))
        explained = self._caption_words(example, most)
        return explained.weighed(score, self.examples[example].captions).whole

    def _caption_words(self, example: int, most: int) -> CaptionWords:
        """The caption that is written of an example; its words serve every weighting."""
        if (example, most) not in self._captions:
            whole = self.model.processor is not None or self.model.tokenizer is not None
            given = self.examples[example].inputs() if whole else self.prepared(example)
            options = dict(self.method.options)
            self._captions[example, most] = caption_words(
                self.model, method=self.method.name, max_new_tokens=most, **given, **options
            )
        return self._captions[example, most]

    def write(self, arguments: Mapping[str, Any], example: int, most: int) -> list[str]:
        """What the model writes, the likeliest token each time, of rows that differ in a picture.

        Raises:
            InputError: The network has no `generate`.
        """
        network: Any = self.model.network
        if not (hasattr(network, "generate") and network.can_generate()):
            raise InputError(f"{self.model.name} writes no captions: it has no `generate`")
        given = dict(arguments)
        prompt = given.get("input_ids")
        if self.examples[example].text is None and self.model.processor is not None:
            for name in ("input_ids", "attention_mask"):  # each network starts in its own way
                given.pop(name, None)
        length = prompt.shape[1] if isinstance(prompt, Tensor) else 1
        limit = text_limit(network, self.model.tokenizer)
        if limit is not None:
            most = min(most, max(limit - length, 1))
        with torch.no_grad(), evaluating(list(network.modules())):
            found = network.generate(**given, do_sample=False, num_beams=1, max_new_tokens=most)
        rows = getattr(found, "sequences", found)
        if isinstance(prompt, Tensor) and torch.equal(rows[:, :length], prompt.to(rows.device)):
            rows = rows[:, length:]
        return [self._text(row) for row in rows]

    def _text(self, row: Tensor) -> str:
        if self.model.tokenizer is not None:
            return decoded(row, self.model.tokenizer)
        words = [one for one in row.tolist() if one not in self.model.special_ids]
        return " ".join(map(str, words))

    def fit(self, example: int, captions: Sequence[str], clip: str) -> Float[Tensor, " caption"]:
        """RefCLIPScore of captions of one example, with a CLIP by its name or folder.

        Raises:
            InputError: The example has no captions by people, or there is no such CLIP.
        """
        one = self.examples[example]
        if not one.captions:
            raise InputError(f"example '{one.name}' has no captions to compare with")
        scorer = _scorer(clip, str(next(self.model.network.parameters()).device))
        if (clip, example) not in self._pictures:
            self._pictures[clip, example] = scorer.embed_images([one.image])
        seen = self._pictures[clip, example].expand(len(captions), -1)
        said = scorer.embed_texts(captions)
        known = scorer.embed_texts(one.captions)
        return ref_clip_score(seen, said, [known] * len(captions)).double().cpu()

    def mask(self, example: int, source: str) -> Bool[Tensor, "1 height width"] | None:
        """The example's mask as the model sees the picture; None where it has or shows none."""
        one = self.examples[example]
        mask = None if one.mask is None else one.mask()
        if mask is None:
            return None
        _check_mask(mask, one)
        if not mask.any():
            return None
        seen = self._seen([mask], example, source)
        return seen if seen.any() else None

    def regions(self, example: int, source: str) -> dict[int, Bool[Tensor, "height width"]]:
        """The pixels of every class in the example, by number, as the model sees the picture."""
        one = self.examples[example]
        known = {} if one.regions is None else dict(one.regions())
        if not known:
            return {}
        for mask in known.values():
            _check_mask(mask, one)
        seen = self._seen(list(known.values()), example, source)
        return {number: mask for number, mask in zip(known, seen, strict=True) if mask.any()}

    def _seen(
        self, masks: Sequence[Bool[Tensor, "height width"]], example: int, source: str
    ) -> Bool[Tensor, "mask rows columns"]:
        """Masks of a picture in the geometry of the model's input; as they are where it fits."""
        if self.model.processor is None:
            size = self.prepared(example)[source].shape[-2:]
            if masks[0].shape == size:
                return torch.stack(list(masks))
        return masks_as_seen(masks, self.model.processor)

    def _explained(self, arguments: Mapping[str, Any], targets: Sequence[Any]) -> list[Attribution]:
        options = dict(self.method.options)
        backward = options.pop("backward", None)
        asked = read_request(self.model, self.method.name, {**arguments, **options}, backward)
        return explain_each(asked, targets)


def _check_mask(mask: Any, example: Example) -> None:
    """Refuse a mask that is not drawn on the pixels of its picture.

    Raises:
        InputError: It is no boolean matrix, or not of the picture's size.
    """
    if not isinstance(mask, Tensor) or mask.ndim != 2 or mask.dtype != torch.bool:
        kind = f"{mask.dtype} {tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask)
        raise InputError(
            f"the mask of example '{example.name}' is {kind}: give a boolean tensor (height, width)"
        )
    image = example.image
    if isinstance(image, Tensor):
        size = tuple(image.shape[-2:])
    elif image is not None:
        size = (image.height, image.width)
    else:
        return
    if tuple(mask.shape) != size:
        raise InputError(
            f"the mask of example '{example.name}' has {mask.shape[1]} x {mask.shape[0]} pixels, "
            f"its picture {size[1]} x {size[0]}: they must be equal"
        )


def _repeated(one: Attribution, count: int) -> Attribution:
    return replace(
        one,
        scores={name: scores.expand(count, -1) for name, scores in one.scores.items()},
        layout={name: layout.repeat(count) for name, layout in one.layout.items()},
        target=one.target * count,
        prediction=one.prediction * count,
        inputs={},
        pixels={},
    )


@lru_cache(maxsize=2)
def _scorer(clip: str, device: str) -> ClipScorer:
    """A CLIP that judges captions."""
    model = load(clip, device=device)
    if model.tokenizer is None or not hasattr(model.network, "get_text_features"):
        raise InputError(f"{clip!r} is no CLIP of transformers, which RefCLIPScore takes")
    images = getattr(model.processor, "image_processor", model.processor)
    return ClipScorer(
        model.network, SimpleNamespace(image_processor=images, tokenizer=model.tokenizer)
    )


@lru_cache(maxsize=2)
def _documents(path: str) -> Documents:
    """In how many pictures of a file of COCO captions a word sequence is."""
    file = Path(path)
    content = read_json(file, ["annotations"])
    pictures: dict[Any, list[str]] = {}
    for entry in content["annotations"]:
        pictures.setdefault(entry.get("image_id"), []).append(str(entry.get("caption", "")))
    words = iter(tokenise([text for texts in pictures.values() for text in texts]))
    return count_documents([[next(words) for _ in texts] for texts in pictures.values()])
