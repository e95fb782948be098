"""What a CLIPmapper is made of: which CLIP, which mapper, and all that the paper leaves open.

The paper (Huang et al., MM Asia 2023, section 3.2) names the encoders (CLIP ViT-B/32), the depth of
the mappers (8 layers and 3), the masks of captions and the 3,129 answers of VQA v2. Width, heads,
normalisation, activation and how CLIP's tokens enter the mapper are fields, with our defaults.
"""

from __future__ import annotations

import copy
from typing import Any

from transformers import CLIPConfig, CLIPTextConfig, CLIPVisionConfig, PreTrainedConfig
from transformers.activations import ACT2FN

__all__ = ["ANSWERS", "DEPTHS", "READOUTS", "CLIPmapperConfig"]

ANSWERS = 3129
"""Answers of VQA v2 that occur more than eight times: the usual vocabulary."""

DEPTHS = {"a": 8, "b": 3}
"""Layers of each mapper; both then have 96 d² weights."""

READOUTS = ("class", "mean", "text-end")
"""Tokens that an answer can be read from."""

SIZES = ("hidden_size", "num_attention_heads", "num_hidden_layers", "intermediate_size")
SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id")


class CLIPmapperConfig(PreTrainedConfig):
    """The configuration of a CLIPmapper: frozen CLIP encoders, and the mapper that joins them.

    Args:
        clip_config: A `CLIPConfig` or its fields; ViT-B/32 if None.
        clip_checkpoint: The folder or Hub name that the frozen encoders come from; a relative path
            is relative to the folder of this config. If it is set, CLIP's weights are left out of
            the saved file and read from there; if None, everything is in one file.
        mapper: "a" is one stream of joint self-attention, "b" two streams that exchange keys and
            values.
        hidden_size: Width d of the mapper.
        num_attention_heads: Heads of each attention of the mapper.
        num_hidden_layers: 8 for "a" and 3 for "b" if None.
        intermediate_size: Inner width of the feed-forward layers, 4 d if None.
        hidden_act: Their activation, by transformers' name.
        dropout: Rate on attentions, on what every sub-layer adds, and on what enters the mapper.
        layer_norm_eps: Of the mapper's normalisations.
        initializer_range: Standard deviation of fresh weights.
        patch_coordinates: Add a learned linear function of the patch's place to each patch.
        modality_embeddings: Add a learned vector to all tokens of a modality.
        readout: What an answer is read from: the class token of the image, the mean of all tokens
            without padding, or the last word.
        captioning: Text is causal and the image blind to it; the model classes set this.
        bos_token_id: Begins a caption; like the next two, CLIP's own if None.
        eos_token_id: Ends a caption.
        pad_token_id: Fills up a batch of captions; the end token if None, as CLIP's tokenizer does.

    Raises:
        ValueError: A size, name or rate cannot be used; the message says what can.

    Example:
        >>> config = CLIPmapperConfig(mapper="b", hidden_size=64, num_attention_heads=4)
        >>> config.num_hidden_layers, config.intermediate_size, config.num_labels
        (3, 256, 3129)
    """

    model_type = "clipmapper"
    sub_configs = {"clip_config": CLIPConfig}  # type: ignore[assignment]  # noqa: RUF012
    # The constructor takes more than its signature says (num_labels): no checker may bind it.
    __no_type_check__ = True

    clip_config: dict[str, Any] | CLIPConfig | None = None
    clip_checkpoint: str | None = None
    mapper: str = "a"
    hidden_size: int = 512
    num_attention_heads: int = 8
    num_hidden_layers: int | None = None
    intermediate_size: int | None = None
    hidden_act: str = "gelu"
    dropout: float = 0.0
    layer_norm_eps: float = 1e-5
    initializer_range: float = 0.02
    patch_coordinates: bool = True
    modality_embeddings: bool = True
    readout: str = "class"
    captioning: bool = False
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        """Fill in what was left to a default, and check the rest."""
        if self.clip_config is None:
            self.clip_config = CLIPConfig()
        elif isinstance(self.clip_config, dict):
            self.clip_config = CLIPConfig(**self.clip_config)
        if self.mapper not in DEPTHS:
            raise ValueError(f"mapper={self.mapper!r} is not one of {', '.join(DEPTHS)}")
        if self.num_hidden_layers is None:
            self.num_hidden_layers = DEPTHS[self.mapper]
        if self.intermediate_size is None:
            self.intermediate_size = 4 * self.hidden_size
        for name, token in zip(SPECIAL, _special_tokens(self.text), strict=True):
            if getattr(self, name) is None:
                setattr(self, name, token)
        if self.id2label is None and not self.captioning:
            kwargs.setdefault("num_labels", ANSWERS)
        super().__post_init__(**kwargs)
        self._check()

    def _check(self) -> None:
        for name in SIZES:
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name}={value!r} must be a whole number above 0")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size={self.hidden_size} cannot be shared out among "
                f"num_attention_heads={self.num_attention_heads}"
            )
        if self.readout not in READOUTS:
            raise ValueError(f"readout={self.readout!r} is not one of {', '.join(READOUTS)}")
        if self.hidden_act not in ACT2FN:
            raise ValueError(f"hidden_act={self.hidden_act!r} is no activation of transformers")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout!r} must be at least 0 and below 1")
        if self.layer_norm_eps <= 0 or self.initializer_range <= 0:
            raise ValueError("layer_norm_eps and initializer_range must be above 0")
        if self.num_labels == 0:
            raise ValueError("num_labels=0: an answer needs something to choose from")

    @property
    def vision(self) -> CLIPVisionConfig:
        """CLIP's image encoder."""
        assert isinstance(self.clip_config, CLIPConfig)
        assert isinstance(self.clip_config.vision_config, CLIPVisionConfig)
        return self.clip_config.vision_config

    @property
    def text(self) -> CLIPTextConfig:
        """CLIP's text encoder."""
        assert isinstance(self.clip_config, CLIPConfig)
        assert isinstance(self.clip_config.text_config, CLIPTextConfig)
        return self.clip_config.text_config

    @property
    def grid(self) -> int:
        """Patches along each side of the image."""
        size, patch = self.vision.image_size, self.vision.patch_size
        if not isinstance(size, int) or not isinstance(patch, int):
            raise ValueError(f"image_size={size} and patch_size={patch} of CLIP must be numbers")
        return size // patch

    @property
    def vocab_size(self) -> int:
        """Tokens of CLIP's tokenizer, which captions are written in."""
        return self.text.vocab_size

    def for_task(self, captioning: bool) -> CLIPmapperConfig:
        """This config, or a copy of it for the other task."""
        if captioning == self.captioning:
            return self
        other = copy.deepcopy(self)
        other.captioning = captioning
        if captioning and self.num_labels == ANSWERS:
            other.num_labels = 2  # what transformers does not write down: captions have no answers
        return other


def _special_tokens(text: CLIPTextConfig) -> tuple[Any, Any, Any]:
    """The tokens that begin, end and fill up a text of CLIP."""
    begin, end = text.bos_token_id, text.eos_token_id
    if end == 2:  # the first configs of CLIP name wrong tokens; the true ones are the last two
        begin, end = text.vocab_size - 2, text.vocab_size - 1
    return begin, end, end[0] if isinstance(end, list) else end
