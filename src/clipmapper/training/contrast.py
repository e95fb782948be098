"""The losses of the small CLIP: regions against words, then pictures against captions.

*Region-word contrast* compares every patch that shows an object with the texts that could name it
and asks for the right one; patches of the ground are to be nearest to "plain background".
*Image-text contrast* is CLIP's own (Radford et al. 2021): in a batch, a picture is to be nearest
to its own caption and the other way round. Both at once from the start drown the first in the
second; one after the other, both are learned. Where many pictures have the same caption, it is
right for all of them in a batch (Yang et al., Unified Contrastive Learning, CVPR 2022).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["Contrast", "PhraseTable"]

_GROUND_WEIGHT = 0.3  # the ground is most of a picture, and easy


@dataclass(frozen=True)
class PhraseTable:
    """Texts that patches are compared with: tokens, and the text's number for every category.

    `ground` is the number of the text for the ground, or None where the table has none;
    `colours` says that its texts speak of colour, which a recoloured picture has another of.
    """

    tokens: Mapping[str, Tensor]
    of_category: Tensor
    ground: int | None
    colours: bool = False


class Contrast(nn.Module):
    """A CLIP with the losses that train it; `share` of the image-text loss is set from outside.

    With `equal_texts`, a text is right for every picture of the batch that has an equal one.
    """

    def __init__(self, clip: Any, tables: list[PhraseTable], *, equal_texts: bool = False) -> None:
        super().__init__()
        self.clip = clip
        self.tables = tables
        self.equal_texts = equal_texts
        self.share = 1.0
        self.region_scale = nn.Parameter(torch.tensor(2.5))

    def forward(
        self,
        pixel_values: Float[Tensor, "batch 3 height width"],
        categories: Int[Tensor, "batch patches"] | None = None,
        input_ids: Int[Tensor, "batch length"] | None = None,
        attention_mask: Int[Tensor, "batch length"] | None = None,
        recoloured: Bool[Tensor, " batch"] | None = None,
    ) -> dict[str, Tensor]:
        """The loss of a batch; of `recoloured` pictures nothing is asked that speaks of colour."""
        vision = self.clip.vision_model
        hidden = vision.post_layernorm(vision(pixel_values).last_hidden_state)
        image = functional.normalize(self.clip.visual_projection(hidden), dim=-1)
        loss = image.new_zeros(())
        if categories is not None and self.tables:
            loss = loss + self._regions(image[:, 1:], categories, recoloured)
        if input_ids is not None and self.share > 0:
            assert attention_mask is not None
            if recoloured is not None:  # captions name colours
                kept = ~recoloured
                image, input_ids = image[kept], input_ids[kept]
                attention_mask = attention_mask[kept]
            text = self.text_vectors({"input_ids": input_ids, "attention_mask": attention_mask})
            loss = loss + self.share * self._pairs(
                image[:, 0], text, input_ids if self.equal_texts else None
            )
        return {"loss": loss}

    def text_vectors(self, tokens: Mapping[str, Any]) -> Float[Tensor, "texts width"]:
        """The vectors of texts, of length 1."""
        device = self.region_scale.device
        tokens = {name: value.to(device) for name, value in tokens.items()}
        pooled = self.clip.text_model(**tokens).pooler_output
        return functional.normalize(self.clip.text_projection(pooled), dim=-1)

    def _regions(
        self,
        patches: Float[Tensor, "batch patches width"],
        categories: Int[Tensor, "batch patches"],
        recoloured: Bool[Tensor, " batch"] | None,
    ) -> Float[Tensor, ""]:
        scale = self.region_scale.exp()
        total = patches.new_zeros(())
        for table in self.tables:
            skip = recoloured is not None and table.colours
            seen = ~recoloured if skip and recoloured is not None else slice(None)
            logits = scale * patches[seen] @ self.text_vectors(table.tokens).T
            shown = categories[seen] >= 0
            right = table.of_category.to(patches.device)[categories[seen].clamp(min=0)]
            total = total + functional.cross_entropy(logits[shown], right[shown])
            if table.ground is not None:
                ground = torch.full_like(right[~shown], table.ground)
                total = total + _GROUND_WEIGHT * functional.cross_entropy(logits[~shown], ground)
        return total / len(self.tables)

    def _pairs(
        self,
        image: Float[Tensor, "batch width"],
        text: Float[Tensor, "batch width"],
        tokens: Int[Tensor, "batch length"] | None = None,
    ) -> Float[Tensor, ""]:
        logits = self.clip.logit_scale.exp().clamp(max=100) * image @ text.T
        right = torch.arange(len(logits), device=logits.device)
        if tokens is not None:
            equal = (tokens[:, None] == tokens).all(-1).to(logits.dtype)
            right = equal / equal.sum(-1, keepdim=True)
        both = functional.cross_entropy(logits, right) + functional.cross_entropy(logits.T, right)
        return both / 2
