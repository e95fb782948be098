"""CLIPmapper: frozen CLIP encoders, a linear map of their tokens, and a mapper (section 3.2).

The image enters as CLIP's grid features with the class token, the text as CLIP's causal states.
CLIP is frozen, yet gradients pass through it: explanations begin at CLIP's own inputs.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPConfig, CLIPModel, PreTrainedModel, initialization
from transformers.utils.generic import ModelOutput, can_return_tuple

from .blocks import norm
from .configuration import CLIPmapperConfig
from .mapper_a import MapperA
from .mapper_b import MapperB

__all__ = ["CLIPmapperModel", "CLIPmapperOutput", "CLIPmapperPreTrainedModel"]

PASSED_ON = ("cache_dir", "force_download", "local_files_only", "token")


@dataclass
class CLIPmapperOutput(ModelOutput):
    """Image tokens [b, 1 + patches, d] and text tokens [b, t, d] after mapper and normalisation."""

    image_states: Tensor | None = None
    text_states: Tensor | None = None


class PatchPlace(nn.Linear):
    """A linear function of a patch's centre, with first weights of its own."""


class CLIPmapperPreTrainedModel(PreTrainedModel):
    """What all CLIPmappers share: initial weights, and files that leave CLIP's weights out."""

    config: CLIPmapperConfig
    config_class = CLIPmapperConfig
    base_model_prefix = "model"
    input_modalities = ["image", "text"]  # noqa: RUF012
    _supports_sdpa = True
    _no_split_modules = ["JointLayer", "ExchangeLayer", "CLIPEncoderLayer"]  # noqa: RUF012

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if not isinstance(module, PatchPlace):
            super()._init_weights(module)
            return
        # Twice what normalised features arrive with: a place that whispers beside them goes
        # unheard, and questions of "where" stay at chance for long.
        width = self.config.vision.hidden_size
        initialization.normal_(module.weight, std=2 * self.config.initializer_range * width**0.5)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """A trained model from a folder or Hub name, in evaluation mode.

        CLIP's weights come from where the config's `clip_checkpoint` says, if it says so.

        Raises:
            ValueError: There is no CLIP at that place, or one of another shape.
        """
        found = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        model = found[0] if isinstance(found, tuple) else found
        model.base_model.clip.requires_grad_(False)  # loaded weights are thawed
        if model.config.clip_checkpoint is not None:
            folder = Path(str(model.name_or_path), kwargs.get("subfolder", ""))
            options = {name: kwargs[name] for name in PASSED_ON if name in kwargs}
            model.load_clip(_resolve(model.config.clip_checkpoint, folder), **options)
        return found

    def load_clip(self, checkpoint: str | os.PathLike[str], **options: Any) -> None:
        """Read the frozen encoders from a CLIP's folder or Hub name, as a training starts.

        Raises:
            ValueError: It is no CLIP, or one of another shape than `clip_config` says.
        """
        loaded: Any = CLIPModel.from_pretrained(checkpoint, output_loading_info=True, **options)
        clip, found = loaded
        if found["missing_keys"]:
            raise ValueError(f"{checkpoint} holds no CLIP: {min(found['missing_keys'])} is missing")
        try:
            self.base_model.get_submodule("clip").load_state_dict(clip.state_dict())
        except RuntimeError as error:
            raise ValueError(f"{checkpoint} is another CLIP than clip_config: {error}") from error

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """Write config and weights; a relative `clip_checkpoint` is kept pointing to its folder."""
        written = self.config.clip_checkpoint
        self.config.clip_checkpoint = _moved(self.config, Path(save_directory))
        try:
            super().save_pretrained(save_directory, *args, **kwargs)
        finally:
            self.config.clip_checkpoint = written


def _resolve(checkpoint: str, folder: Path) -> str | Path:
    """The place that a config in a folder means by its `clip_checkpoint`."""
    beside = folder / checkpoint  # an absolute path stays what it is
    if beside.is_dir():
        return beside
    if checkpoint.startswith((".", "/")) or Path(checkpoint).is_absolute():
        raise ValueError(f"clip_checkpoint={checkpoint!r}: there is no folder {beside}")
    return checkpoint


def _moved(config: CLIPmapperConfig, target: Path) -> str | None:
    """What `clip_checkpoint` has to be in another folder than the one it was loaded from."""
    checkpoint, folder = config.clip_checkpoint, config.name_or_path
    if checkpoint is None or not folder or Path(checkpoint).is_absolute():
        return checkpoint
    beside = Path(folder, checkpoint)
    if not beside.is_dir() or (target / checkpoint).is_dir():
        return checkpoint
    return Path(os.path.relpath(beside, target)).as_posix()


class CLIPmapperModel(CLIPmapperPreTrainedModel):
    """CLIP's image and text tokens, and what a mapper makes of them; no head.

    Huang et al., MM Asia 2023, section 3.2. Inputs are `pixel_values` [b, 3, h, w] and `input_ids`
    [b, t] with an `attention_mask` [b, t] that is 0 at padding; or, computed before, `image_states`
    [b, 1 + patches, width] of `encode_images` and `text_states` [b, t, width] of `encode_text`, in
    any floating type.

    Example:
        >>> import torch
        >>> from transformers import CLIPConfig
        >>> tower = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
        >>> vision = {**tower, "image_size": 16, "patch_size": 8}
        >>> clip = CLIPConfig(text_config=tower, vision_config=vision)
        >>> model = CLIPmapperModel(CLIPmapperConfig(clip_config=clip, hidden_size=16)).eval()
        >>> pixels, words = torch.zeros(2, 3, 16, 16), torch.ones(2, 7, dtype=torch.long)
        >>> model(pixel_values=pixels, input_ids=words).image_states.shape
        torch.Size([2, 5, 16])
    """

    def __init__(self, config: CLIPmapperConfig) -> None:
        super().__init__(config)
        assert isinstance(config.clip_config, CLIPConfig)
        width = config.hidden_size
        self.clip = CLIPModel(config.clip_config).requires_grad_(False)
        self.image_projection = nn.Linear(config.vision.hidden_size, width)
        self.text_projection = nn.Linear(config.text.hidden_size, width)
        self.place = PatchPlace(2, width, bias=False) if config.patch_coordinates else None
        self.modality = nn.Embedding(2, width) if config.modality_embeddings else None
        self.dropout = nn.Dropout(config.dropout)
        self.mapper = (MapperA if config.mapper == "a" else MapperB)(config)
        self.norm = norm(config)
        if config.clip_checkpoint is not None:
            self._keys_to_ignore_on_save = {f"clip.{name}" for name in self.clip.state_dict()}
            self._keys_to_ignore_on_load_missing = {r"(^|\.)clip\."}
        self.post_init()

    def train(self, mode: bool = True) -> CLIPmapperModel:
        """Training mode for the mapper alone: CLIP always evaluates."""
        super().train(mode)
        self.clip.eval()
        return self

    def encode_images(self, pixel_values: Tensor) -> Tensor:
        """CLIP's image tokens [b, 1 + patches, width], the class token first, all normalised."""
        vision = self.clip.vision_model
        return vision.post_layernorm(vision(pixel_values=pixel_values).last_hidden_state)

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """CLIP's text tokens [b, t, width], causal and normalised, before CLIP's projection.

        Raises:
            ValueError: The text is longer than CLIP has positions for.
        """
        limit = self.config.text.max_position_embeddings
        if input_ids.shape[-1] > limit:
            raise ValueError(
                f"The text has {input_ids.shape[-1]} tokens, but this CLIP has positions for "
                f"{limit}: shorten the text."
            )
        text = self.clip.text_model(input_ids=input_ids, attention_mask=attention_mask)
        return text.last_hidden_state

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_states: Tensor | None = None,
        text_states: Tensor | None = None,
    ) -> CLIPmapperOutput:
        """Tokens of both modalities after the mapper and the last normalisation.

        Raises:
            ValueError: A modality is missing, too long, or of another shape than the model.
        """
        if image_states is None:
            if pixel_values is None:
                raise ValueError("Give pixel_values, or image_states made by encode_images.")
            image_states = self.encode_images(pixel_values)
        if text_states is None:
            if input_ids is None:
                raise ValueError("Give input_ids, or text_states made by encode_text.")
            text_states = self.encode_text(input_ids, attention_mask)
        self._check(image_states, text_states, attention_mask)
        image, text = self._enter(image_states, text_states)
        image, text = self.mapper(image, text, attention_mask)
        return CLIPmapperOutput(image_states=self.norm(image), text_states=self.norm(text))

    def _check(self, image: Tensor, text: Tensor, attention_mask: Tensor | None) -> None:
        grid, length = self.config.grid, text.shape[1]
        if image.shape[1] != 1 + grid**2:
            raise ValueError(
                f"image_states have {image.shape[1]} tokens; this CLIP makes {1 + grid**2}: a "
                f"class token and {grid} x {grid} patches."
            )
        if len(image) != len(text):
            raise ValueError(f"There are {len(image)} images for {len(text)} texts.")
        if attention_mask is not None and attention_mask.shape != (len(text), length):
            raise ValueError(
                f"attention_mask has the shape {tuple(attention_mask.shape)}, the text "
                f"{(len(text), length)}."
            )

    def _enter(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """CLIP's tokens as the mapper's: projected, with their place and modality added."""
        kind = self.image_projection.weight.dtype
        image, text = self.image_projection(image.to(kind)), self.text_projection(text.to(kind))
        if self.place is not None:
            centres = patch_centres(self.config.grid, self.place.weight)
            image = image + functional.pad(self.place(centres), (0, 0, 1, 0))  # the class token: 0
        if self.modality is not None:
            image, text = image + self.modality.weight[0], text + self.modality.weight[1]
        return self.dropout(image), self.dropout(text)


def patch_centres(grid: int, like: Tensor) -> Tensor:
    """Patch centres (x, y) in [-1, 1], [grid², 2], row by row as CLIP's patches are."""
    steps = (torch.arange(grid, device=like.device, dtype=like.dtype) * 2 + 1) / grid - 1
    rows, columns = torch.meshgrid(steps, steps, indexing="ij")
    return torch.stack([columns, rows], dim=-1).flatten(0, 1)
