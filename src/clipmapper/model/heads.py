"""The paper's two tasks on top of a mapper: answering questions, and writing captions (4.1)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import GenerationMixin
from transformers.modeling_outputs import CausalLMOutput, SequenceClassifierOutput
from transformers.utils.generic import can_return_tuple

from .configuration import CLIPmapperConfig
from .modeling import CLIPmapperModel, CLIPmapperPreTrainedModel

__all__ = [
    "CLIPmapperForCaptioning",
    "CLIPmapperForQuestionAnswering",
    "answer_loss",
    "next_word_loss",
]


class CLIPmapperForQuestionAnswering(CLIPmapperPreTrainedModel):
    """Answers to questions about pictures, by soft classification over a fixed vocabulary.

    Huang et al., MM Asia 2023, section 4.1.1: 3,129 answers with soft labels (Teney et al., 2018),
    read from one token by a linear layer. Inputs are those of `CLIPmapperModel`; `labels` are soft
    targets [b, answers] in [0, 1] or answers by number [b].
    """

    # Trainer would count the entries of soft labels and have the loss divided by them.
    accepts_loss_kwargs = False

    def __init__(self, config: CLIPmapperConfig) -> None:
        config = config.for_task(captioning=False)
        super().__init__(config)
        assert config.num_labels is not None
        self.model = CLIPmapperModel(config)
        self.head = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_states: Tensor | None = None,
        text_states: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> SequenceClassifierOutput:
        """`logits` [b, answers] and, given labels, `loss`.

        Raises:
            ValueError: As in `CLIPmapperModel.forward`.
        """
        states = self.model(
            pixel_values, input_ids, attention_mask, image_states, text_states, return_dict=True
        )
        logits = self.head(self._read(states.image_states, states.text_states, attention_mask))
        loss = None if labels is None else answer_loss(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)

    def _read(self, image: Tensor, text: Tensor, attention_mask: Tensor | None) -> Tensor:
        """The state [b, d] that the config's `readout` names."""
        if self.config.readout == "class":
            return image[:, 0]
        if attention_mask is None:
            attention_mask = torch.ones(text.shape[:2], dtype=torch.long, device=text.device)
        if self.config.readout == "mean":
            real = attention_mask.to(text.dtype)
            total = image.sum(1) + (text * real[..., None]).sum(1)
            return total / (image.shape[1] + real.sum(1, keepdim=True))
        places = torch.arange(text.shape[1], device=text.device)
        last = (attention_mask * places).argmax(1)
        return text[torch.arange(len(text), device=text.device), last]


def answer_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy −Σ_a [y_a log σ(z_a) + (1 − y_a) log(1 − σ(z_a))], mean over the batch.

    Logits z are [b, answers]; labels y are soft targets of that shape, or answers by number [b].
    """
    if labels.ndim == 1:
        labels = functional.one_hot(labels, logits.shape[-1])
    total = functional.binary_cross_entropy_with_logits(
        logits.float(), labels.float(), reduction="sum"
    )
    return total / len(logits)


class CLIPmapperForCaptioning(CLIPmapperPreTrainedModel, GenerationMixin):
    """Captions of pictures, word by word; a word sees the image and the words before it.

    Huang et al., MM Asia 2023, sections 3.2 and 4.1.2. The image sees no word, so no later word
    can reach an earlier one. Inputs are those of `CLIPmapperModel`, where the text is the caption
    so far; `labels` [b, t] are the same caption with -100 at padding, shifted inside.
    """

    accepts_loss_kwargs = True

    def __init__(self, config: CLIPmapperConfig) -> None:
        config = config.for_task(captioning=True)
        super().__init__(config)
        self.loss_type = "ForCausalLM"  # how Trainer counts words: all but the first
        self.model = CLIPmapperModel(config)
        self.head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_states: Tensor | None = None,
        text_states: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
    ) -> CausalLMOutput:
        """`logits` [b, t, vocabulary] of the word after each word and, given labels, `loss`.

        The loss is divided by `num_items_in_batch`, if Trainer counted the words of a batch that
        is spread over steps or machines.

        Raises:
            ValueError: As in `CLIPmapperModel.forward`.
        """
        states = self.model(
            pixel_values, input_ids, attention_mask, image_states, text_states, return_dict=True
        )
        logits = self.head(states.text_states)
        loss = None if labels is None else next_word_loss(logits, labels, num_items_in_batch)
        return CausalLMOutput(loss=loss, logits=logits)

    @torch.no_grad()
    def generate(self, inputs: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        """Captions [b, t] with their begin token, as transformers' `generate` writes them.

        Give `pixel_values` or `image_states`, perhaps beginnings of the captions (`input_ids`, all
        of one length), and any option of `generate` (`num_beams=5`, `max_new_tokens=20`); without a
        length, captions end where CLIP's positions do. The image is encoded once.

        Raises:
            ValueError: There is no image, or not one for each beginning.
        """
        pixel_values, image = kwargs.pop("pixel_values", None), kwargs.pop("image_states", None)
        if image is None:
            if pixel_values is None:
                raise ValueError("Give pixel_values or image_states to write captions for.")
            image = self.model.encode_images(pixel_values)
        begin = kwargs.pop("input_ids", None) if inputs is None else inputs
        if begin is None:
            begin = torch.tensor([[self.config.bos_token_id]] * len(image), device=image.device)
        if len(begin) != len(image):
            raise ValueError(f"There are {len(image)} images for {len(begin)} captions.")
        given = kwargs.get("generation_config") or (args[0] if args else None)
        if given is None and not kwargs.keys() & {"max_length", "max_new_tokens"}:
            kwargs["max_length"] = self.config.text.max_position_embeddings
        kwargs = {"attention_mask": torch.ones_like(begin), **kwargs, "use_cache": False}
        return super().generate(begin, *args, image_states=image, **kwargs)  # type: ignore[misc]

    def prepare_inputs_for_generation(  # type: ignore[override]
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """The forward's arguments for the next word."""
        image_states = kwargs["image_states"]
        return {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "image_states": image_states,
        }


def next_word_loss(logits: Tensor, labels: Tensor, words: Tensor | int | None = None) -> Tensor:
    """Cross-entropy of the word after each word, averaged over words or divided by `words`.

    Logits are [b, t, vocabulary]; labels [b, t] are -100 where nothing is to be learnt.
    """
    scores, wanted = logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten()
    if words is None:
        return functional.cross_entropy(scores, wanted)
    return functional.cross_entropy(scores, wanted, reduction="sum") / words
