"""CLIPScore: does a caption fit the picture, asked of CLIP instead of people.

It needs no references; with them, RefCLIPScore also asks whether the caption is like one of them.
The two steps are apart, since a picture is embedded once and then meets many captions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from relmap.errors import InputError
from relmap.request.readers import read_image

__all__ = ["CLIP_SCORES", "ClipScorer", "clip_score", "ref_clip_score"]

CLIP_SCORES = ("clip-score", "ref-clip-score")
"""Their names among the scores of captions; they take the pictures and a CLIP besides."""

PROMPT = "A photo depicts "


def clip_score(
    images: Float[Tensor, "pairs width"],
    captions: Float[Tensor, "pairs width"],
    *,
    weight: int | float = 2.5,
) -> Float[Tensor, " pairs"]:
    """Fit of captions to pictures: w max(cos(c, v), 0), with w = 2.5.

    The weight spreads the values over about 0 to 1 and orders nothing anew. Values of different
    CLIP models do not compare. (Hessel et al., CLIPScore, EMNLP 2021, section 3.)

    Args:
        images: Embeddings v of the pictures.
        captions: Embeddings c of one caption for each.

    Example:
        >>> clip_score(torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 1.0]]))  # cos = 0.8
        tensor([2.])
    """
    return weight * torch.cosine_similarity(images, captions, dim=-1).clamp(min=0)


def ref_clip_score(
    images: Float[Tensor, "pairs width"],
    captions: Float[Tensor, "pairs width"],
    references: Sequence[Float[Tensor, "_ width"]],
    *,
    weight: int | float = 2.5,
) -> Float[Tensor, " pairs"]:
    """Harmonic mean of a caption's fit to the picture and its likeness to the best reference.

    2 a b / (a + b), a = CLIPScore(c, v), b = max(max over r of cos(c, r), 0); 0 where both are.
    (Hessel et al., CLIPScore, EMNLP 2021, section 3.)

    Args:
        references: For each picture the embeddings r of its references.

    Raises:
        InputError: If a picture has no references, or not every picture has its own.

    Example:
        >>> one = torch.tensor([[3.0, 4.0]])
        >>> ref_clip_score(one, torch.tensor([[0.0, 1.0]]), [one])  # a = 2, b = 0.8
        tensor([1.1429])
    """
    if len(references) != len(captions) or any(len(each) == 0 for each in references):
        raise InputError(
            f"RefCLIPScore needs references for each of {len(captions)} captions; got lists of "
            f"{[len(each) for each in references][:8]}"
        )
    fit = clip_score(images, captions, weight=weight)
    likeness = torch.stack(
        [
            torch.cosine_similarity(caption, each, dim=-1).max().clamp(min=0)
            for caption, each in zip(captions, references, strict=True)
        ]
    )
    total = fit + likeness
    return torch.where(total > 0, 2 * fit * likeness / total.where(total > 0, 1), 0.0)


@dataclass(frozen=True)
class ClipScorer:
    """A CLIP model that judges captions.

    `processor` is the model's own: a CLIPProcessor, or anything with an `image_processor` and a
    `tokenizer`. The paper's values are those of CLIP ViT-B/32.
    """

    model: Any
    processor: Any
    prompt: str = PROMPT
    batch_size: int = 64

    @torch.no_grad()
    def embed_images(self, images: Sequence[Any]) -> Float[Tensor, "images width"]:
        """Embeddings of pictures: PIL images, paths, or whatever `relmap.request.readers` reads."""

        def embed(batch: Sequence[Any]) -> Any:
            pictures = [read_image(image) for image in batch]
            prepared = self.processor.image_processor(images=pictures, return_tensors="pt")
            pixels = prepared["pixel_values"].to(self._device, self._dtype)
            return self.model.get_image_features(pixel_values=pixels)

        return self._in_batches(images, embed)

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Float[Tensor, "texts width"]:
        """Embeddings of texts after the prompt, cut where the model's longest text ends."""
        longest = self.model.config.text_config.max_position_embeddings

        def embed(batch: Sequence[str]) -> Any:
            prepared = self.processor.tokenizer(
                [self.prompt + text for text in batch],
                padding=True,
                truncation=True,
                max_length=longest,
                return_tensors="pt",
            ).to(self._device)
            return self.model.get_text_features(
                input_ids=prepared["input_ids"], attention_mask=prepared["attention_mask"]
            )

        return self._in_batches(texts, embed)

    def score(
        self,
        images: Sequence[Any],
        captions: Sequence[str],
        references: Sequence[Sequence[str]] | None = None,
    ) -> Float[Tensor, " pairs"]:
        """CLIPScore of a caption for each picture; with references, RefCLIPScore.

        Raises:
            InputError: If pictures, captions and references do not fit, or one cannot be read.
        """
        seen, said = self._embed_pairs(images, captions)
        if references is None:
            return clip_score(seen, said)
        return ref_clip_score(seen, said, self._embed_each(references, said))

    def score_both(
        self, images: Sequence[Any], captions: Sequence[str], references: Sequence[Sequence[str]]
    ) -> dict[str, Float[Tensor, " pairs"]]:
        """CLIPScore and RefCLIPScore of a caption for each picture, which is looked at once.

        Raises:
            InputError: As in `score`.
        """
        seen, said = self._embed_pairs(images, captions)
        known = self._embed_each(references, said)
        values = (clip_score(seen, said), ref_clip_score(seen, said, known))
        return dict(zip(CLIP_SCORES, values, strict=True))

    def _embed_pairs(
        self, images: Sequence[Any], captions: Sequence[str]
    ) -> tuple[Float[Tensor, "pairs width"], Float[Tensor, "pairs width"]]:
        if len(images) != len(captions) or not captions:
            raise InputError(f"{len(captions)} captions of {len(images)} pictures")
        return self.embed_images(images), self.embed_texts(captions)

    def _embed_each(
        self, references: Sequence[Sequence[str]], like: Float[Tensor, "_ width"]
    ) -> Sequence[Float[Tensor, "_ width"]]:
        """The embeddings of each list of texts, as wide as those that they are compared with."""
        flat = [text for texts in references for text in texts]
        found = self.embed_texts(flat) if flat else like[:0]
        return found.split([len(texts) for texts in references])

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.model.parameters()).dtype

    def _in_batches(self, items: Sequence[Any], embed: Any) -> Float[Tensor, "items width"]:
        if self.model.training:
            raise InputError("the CLIP model is in training mode: call model.eval() first")
        if not items:
            raise InputError("nothing to embed")
        parts = []
        for start in range(0, len(items), self.batch_size):
            features = embed(items[start : start + self.batch_size])
            parts.append(getattr(features, "pooler_output", features).float())
        return torch.cat(parts)
