"""A run: what is trained on what, into which folder, and what that folder then holds.

    output/model.safetensors, config.json, tokenizer, processor     the model
    output/README.md, results.json                                  what it is and what it can do
    output/run.json, log.jsonl, vocabulary.json, reserved.json      how it came to be
    output/checkpoints/                                             only while it trains

The settings in run.json are compared when a run goes on after it was killed, so that one run never
continues another. What data and models hold is part of them, not only what they are called.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from clipmapper.model import CLIPmapperConfig
from clipmapper.training.contents import mark_data, mark_file, mark_model
from clipmapper.training.examples import Blind, FeatureSource
from clipmapper.training.features import Encoders
from clipmapper.training.recipe import Recipe, read_recipe
from relmap.errors import InputError, MissingExtraError
from relmap.files import fingerprint, write_whole

__all__ = [
    "Run",
    "build_model",
    "check_device",
    "check_samples",
    "encoders_of",
    "feature_source",
    "last_checkpoint",
    "open_output",
    "quietly",
    "require_extra",
    "save_model",
]


@dataclass(frozen=True, kw_only=True)
class Run:
    """What `relmap train` is told.

    Attributes:
        data: Folder of the data.
        clip: Folder or hub id of the frozen CLIP, with tokenizer and image processor.
        mapper: "a" or "b".
        recipe: Name of a shipped recipe or path of a TOML file.
        output: Folder that the model is written to.
        format: Data format, if it is not the recipe's.
        seed: Of the weights, the order of examples, and dropout.
        cache: Folder of the features; by default in the user's cache folder.
        samples: Length of the run, if it is not the recipe's; stages, their warm-up and where they
            begin to decay shrink in proportion.
        init: Folder of a model whose mapper and head are the start.
        answers: File with the answers that become classes.
        blind: What a control does not see: "image" or "question".
        device: "cpu", or "cuda"; by default the accelerator if there is one.
        workers: Processes that open pictures.
    """

    data: Path
    clip: str
    mapper: str
    recipe: str
    output: Path
    format: str | None = None
    seed: int = 0
    cache: Path | None = None
    samples: int | None = None
    init: Path | None = None
    answers: Path | None = None
    blind: Blind | None = None
    device: str | None = None
    workers: int = 0

    def read_recipe(self, task: str) -> Recipe:
        """The recipe, for this task, once everything that can be checked at once is checked.

        Raises:
            InputError: A setting cannot be used.
            MissingExtraError: accelerate is not installed.
        """
        require_extra()
        if self.mapper not in ("a", "b"):
            raise InputError(f"there is no mapper {self.mapper!r}; there are 'a' and 'b'")
        if self.blind not in (None, "image", "question"):
            raise InputError(f"blind is 'image' or 'question', not {self.blind!r}")
        check_samples(self.samples)
        recipe = read_recipe(self.recipe, task)
        known = {field.name for field in dataclasses.fields(CLIPmapperConfig)}
        settable = known - {"clip_config", "clip_checkpoint", "mapper", "captioning"}
        unknown = sorted(recipe.model.keys() - settable)
        if unknown:
            raise InputError(
                f"recipe {recipe.name}, [model]: CLIPmapperConfig has no {', '.join(unknown)} that "
                "a recipe could set"
            )
        return recipe

    @property
    def cache_folder(self) -> Path:
        """Where features are kept."""
        if self.cache is not None:
            return self.cache
        root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        return Path(root) / "relmap" / "features"

    def settings(self, recipe: Recipe) -> dict[str, Any]:
        """All that decides about the weights, as JSON.

        Data and CLIP stand there by the name of their folder, since that may move, and by the marks
        of what is in it.

        Raises:
            InputError: The data is not there, or a file cannot be read.
        """
        form = self.format or recipe.data.format
        splits = {*recipe.data.train, *recipe.data.test, *filter(None, [recipe.data.watch])}
        return {
            "task": recipe.task,
            "data": self.data.absolute().name,
            "clip": _clip_mark(self.clip),
            "mapper": self.mapper,
            "seed": self.seed,
            "samples": self.samples,
            "blind": self.blind,
            "format": form,
            "init": str(self.init) if self.init else None,
            "answers": str(self.answers) if self.answers else None,
            "data_files": mark_data(form, self.data, splits - {"reserved"}),
            "clip_files": mark_model(Path(self.clip), weights=False),
            "init_files": mark_model(self.init) if self.init else None,
            "answers_file": mark_file(self.answers) if self.answers else None,
            "recipe": json.loads(json.dumps(dataclasses.asdict(recipe))),
        }


def open_output(output: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """Makes the output folder a run's own; returns the results, if it was finished before.

    Raises:
        InputError: Another run lives there, or something else does.
    """
    told = _settings_there(output)
    if told is not None:
        # what an earlier version of relmap did not write down cannot be compared
        differing = [key for key in settings if key in told and told[key] != settings[key]]
        if differing:
            shown = (_difference(key, told[key], settings[key]) for key in differing)
            raise InputError(
                f"{output} holds a run with another {', '.join(shown)}: choose another "
                "--output, or remove it to start anew"
            )
        results = output / "results.json"
        return json.loads(results.read_text(encoding="utf-8")) if results.is_file() else None
    if output.is_dir() and any(output.iterdir()) and os.environ.get("RANK", "0") == "0":
        raise InputError(f"{output} is not empty and holds no run: choose another --output")
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write to {output}: {error.strerror or error}") from error
    if os.environ.get("RANK", "0") == "0":  # of several processes one writes
        write_whole(output / "run.json", json.dumps(settings, indent=1).encode())
    return None


def _settings_there(output: Path) -> dict[str, Any] | None:
    """The settings of the run in a folder; a CLIP of an earlier version has them elsewhere."""
    found = (output / name for name in ("run.json", "training.json"))
    path = next((path for path in found if path.is_file()), None)
    if path is None:
        return None
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}") from error
    if not isinstance(told, dict):
        raise InputError(f"{path} must be a JSON object")
    return told


def _difference(key: str, before: Any, now: Any) -> str:
    """A setting's name and, of one that has parts, the parts that differ."""
    name = key.replace("_", " ")
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return name
    parts = (one for one in before | now if before.get(one) != now.get(one))
    return f"{name} ({', '.join(parts)})"


def check_samples(samples: int | None) -> None:
    """Checks that a length can be one.

    Raises:
        InputError: It is below 1.
    """
    if samples is not None and samples < 1:
        raise InputError(f"samples must be above 0, not {samples}")


def check_device(name: str | None) -> None:
    """Checks that there is such a device here.

    Raises:
        InputError: It is neither "cpu" nor "cuda", or there is no GPU.
    """
    if name not in (None, "cpu", "cuda"):
        raise InputError(
            f"the device is 'cpu' or 'cuda', not {name!r}; CUDA_VISIBLE_DEVICES chooses one of "
            "several"
        )
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("the device 'cuda' is not to be had here")


def require_extra() -> None:
    """Checks that accelerate is there, which shares work among processes and drives Trainer.

    Raises:
        MissingExtraError: It is not.
    """
    if importlib.util.find_spec("accelerate") is None:
        raise MissingExtraError("train")


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Without transformers' bars for files of a moment, and its remarks on weights left out.

    A checkpoint holds no weights of CLIP, since those never change.
    """
    from transformers.utils import logging

    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()


def build_model(kind: type[Any], run: Run, recipe: Recipe, labels: Mapping[int, str] | None) -> Any:
    """A CLIPmapper as the recipe has it: new weights, or those of `run.init`, and CLIP's.

    Raises:
        InputError: CLIP or the model to start from cannot be read, or does not fit.
    """
    from transformers import CLIPConfig

    settings: dict[str, Any] = dict(recipe.model)
    if labels is not None:
        settings |= {"id2label": dict(labels), "label2id": {v: k for k, v in labels.items()}}
    place = str(Path(run.clip).absolute()) if Path(run.clip).is_dir() else run.clip
    try:
        clip_config = CLIPConfig.from_pretrained(place)
        config = CLIPmapperConfig(
            clip_config=clip_config, clip_checkpoint=place, mapper=run.mapper, **settings
        )
        model = kind(config)
        with quietly():
            model.load_clip(place)
    except (OSError, ValueError) as error:
        raise InputError(f"no CLIPmapper can be built on {run.clip!r}: {error}") from error
    if run.init is not None:
        _start_from(model, run.init)
    return model


def encoders_of(model: Any, clip: str) -> Encoders:
    """The frozen encoders inside a CLIPmapper, with the processor and tokenizer beside them.

    Raises:
        InputError: The folder has no tokenizer or no image processor.
    """
    from transformers import AutoTokenizer

    # the top-level name insists on torchvision in older versions, without needing it
    from transformers.models.auto.image_processing_auto import AutoImageProcessor

    try:
        processor, tokenizer = (
            kind.from_pretrained(clip) for kind in (AutoImageProcessor, AutoTokenizer)
        )
    except (OSError, ValueError) as error:
        raise InputError(f"{clip!r} lacks a tokenizer or an image processor: {error}") from error
    longest = model.config.clip_config.text_config.max_position_embeddings
    base = model.base_model
    return Encoders(base.clip, base.encode_images, base.encode_text, processor, tokenizer, longest)


def feature_source(model: Any, run: Run) -> FeatureSource:
    """The features of a run: its encoders, its cache, and what it must not see."""
    vision = model.config.clip_config.vision_config
    patches = (vision.image_size // vision.patch_size) ** 2
    return FeatureSource(
        encoders_of(model, run.clip),
        run.cache_folder,
        (1 + patches, vision.hidden_size),
        run.workers,
        run.blind,
    )


def save_model(model: Any, encoders: Encoders | None, folder: Path) -> None:
    """Writes a model, with CLIP's folder named as seen from there, and what prepares its inputs."""
    config, place = model.config, model.config.clip_checkpoint
    try:
        if place is not None and Path(place).is_dir():
            config.clip_checkpoint = os.path.relpath(place, folder)
        with quietly():
            model.save_pretrained(folder)
    finally:
        config.clip_checkpoint = place
    if encoders is not None:
        # The length that texts were cut to is the CLIP's; said here, every later call would warn.
        encoders.tokenizer.init_kwargs["max_length"] = None
        encoders.tokenizer.save_pretrained(folder)
        encoders.processor.save_pretrained(folder)


def last_checkpoint(output: Path) -> Path | None:
    """The newest checkpoint that was written to its end."""
    done = [mark.parent for mark in output.glob("checkpoints/checkpoint-*/complete.json")]
    return max(done, key=lambda folder: int(folder.name.rpartition("-")[2]), default=None)


def _clip_mark(clip: str) -> str:
    """A Hub id, or a folder's name with a mark of the weights in it."""
    files = sorted(Path(clip).glob("*.safetensors"))
    if not files:
        return clip
    return f"{Path(clip).absolute().name} {fingerprint(*files)}"


def _start_from(model: Any, folder: Path) -> None:
    try:
        with quietly():
            other = type(model).from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot start from {folder}: {error}") from error
    if other.config.id2label != model.config.id2label:
        raise InputError(f"cannot start from {folder}: it knows other answers; see --answers")
    try:
        model.load_state_dict(other.state_dict())
    except RuntimeError as error:
        raise InputError(f"cannot start from {folder}: it has another shape: {error}") from error
