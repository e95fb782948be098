"""Models of transformers: by Hub name, from a local folder, or inside a pipeline.

The config's architecture names the class; where it does not, the model type is looked up in the
tables of the Auto classes, the most particular first. The processor, tokenizer, image processor
and feature extractor are loaded as far as they are there: a folder with weights alone is a model
all the same, fed by its forward's own arguments.
"""

from __future__ import annotations

import importlib.metadata
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import torch
from torch import nn

from relmap._torch_private import auto_classes
from relmap.errors import InputError, MissingExtraError, RelmapError
from relmap.models import SOURCES, Model, class_labels, settle
from relmap.request.processors import Parts, prepare

__all__ = ["huggingface", "pipeline"]

# The most particular task first; a network of none of them has no scores of its own.
_TASKS = (
    "ZeroShotObjectDetection",
    "ObjectDetection",
    "ZeroShotImageClassification",
    "VisualQuestionAnswering",
    "ImageClassification",
    "VideoClassification",
    "SpeechSeq2Seq",
    "AudioClassification",
    "ImageTextToText",
    "Seq2SeqLM",
    "CausalLM",
    "SequenceClassification",
    "PreTraining",
)
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "tokenizer.model",
    "sentencepiece.bpe.model",
)


def pipeline(one: Any) -> Model:
    """The model inside a transformers pipeline, prepared as the pipeline prepares."""
    parts = Parts(
        processor=getattr(one, "processor", None),
        tokenizer=getattr(one, "tokenizer", None),
        image_processor=getattr(one, "image_processor", None),
        feature_extractor=getattr(one, "feature_extractor", None),
    )
    name = getattr(getattr(one.model, "config", None), "name_or_path", "")
    return _model(one.model, name or f"a {one.task} pipeline", parts)


@SOURCES.register(
    "huggingface", aliases=("hf", "transformers"), usage="a name on the Hub", pipeline=pipeline
)
def huggingface(
    name: str,
    *,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
    trust_remote_code: bool = False,
) -> Model:
    """A transformers model, by Hub name or local folder.

    Raises:
        InputError: It is not there, is damaged, or needs code of its own.
    """
    if not name:
        raise InputError(
            "Name the model: a local folder, or a name on the Hub such as 'owner/name'."
        )
    with _explained(name):
        config = _config(name, trust_remote_code)
        network, missing = _network(name, config, dtype, trust_remote_code)
    if missing:
        some = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        warnings.warn(
            f"{name!r} has no weights for {len(missing)} parts of {type(network).__name__} "
            f"({some}): they are random, and so is what they say.",
            UserWarning,
            stacklevel=3,
        )
    return _model(settle(network, device, None), name, _parts(name, trust_remote_code))


def _model(network: nn.Module, name: str, parts: Parts) -> Model:
    tokenizer = parts.tokenizer
    return Model(
        network=network,
        name=name,
        prepare=partial(prepare, network, parts),
        labels=class_labels(getattr(network, "config", None)),
        tokenizer=tokenizer,
        processor=parts.processor or parts.image_processor or parts.feature_extractor,
        special_ids=frozenset(getattr(tokenizer, "all_special_ids", ())),
    )


def _config(name: str, trust_remote_code: bool) -> Any:
    from transformers import AutoConfig

    if os.path.isdir(name) and not os.path.isfile(os.path.join(name, "config.json")):
        raise InputError(
            f"The folder {name!r} holds no config.json: give a folder that save_pretrained wrote."
        )
    if os.path.isfile(name):
        raise InputError(f"{name!r} is a file: give the folder that holds it and its config.json.")
    _register_classes(name)
    return AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code)


def _register_classes(name: str) -> None:
    """Import what an installed package brings for the model type of a folder.

    The entry points of the group `relmap.transformers` are named by model types; importing one
    registers its classes with the Auto classes of transformers.
    """
    from transformers import PreTrainedConfig

    with suppress(OSError):
        config, _ = PreTrainedConfig.get_config_dict(name)
        kind = config.get("model_type")
        for point in importlib.metadata.entry_points(group="relmap.transformers"):
            if point.name == kind:
                point.load()


def _network(
    name: str, config: Any, dtype: torch.dtype | None, trust_remote_code: bool
) -> tuple[nn.Module, list[str]]:
    loader = _class(config, trust_remote_code)
    options: dict[str, Any] = {} if dtype is None else {"dtype": dtype}
    is_auto = not issubclass(loader, nn.Module)  # an Auto class makes networks and is none
    if trust_remote_code and is_auto:
        options["trust_remote_code"] = True
    network, report = loader.from_pretrained(
        name, config=config, weights_only=True, output_loading_info=True, **options
    )
    return network, sorted(report.get("missing_keys", ()))


def _class(config: Any, trust_remote_code: bool) -> Any:
    import transformers

    names = getattr(config, "architectures", None) or ()
    remote = getattr(config, "auto_map", None) or {}
    if trust_remote_code and remote:
        tasks = [key for key in remote if key.startswith("AutoModel")]
        # The plain AutoModel has no head, so it is the last choice.
        for key in sorted(tasks, key=lambda key: key == "AutoModel"):
            return getattr(transformers, key)
    for name in names:
        found = getattr(transformers, name, None)
        if isinstance(found, type) and issubclass(found, nn.Module):
            return found
    for task in _TASKS:  # a class that was registered from outside is found by its name as well
        for known in auto_classes(getattr(transformers, f"AutoModelFor{task}"), config):
            if known.__name__ in names:
                return known
    for task in _TASKS:
        auto = getattr(transformers, f"AutoModelFor{task}")
        # BERT's family can write from left to right as well, but is seldom meant to.
        masked = bool(auto_classes(transformers.AutoModelForMaskedLM, config))
        if auto_classes(auto, config) and not (task == "CausalLM" and masked):
            return auto
    return transformers.AutoModel


def _parts(name: str, trust_remote_code: bool) -> Parts:
    import transformers

    problems: dict[str, str] = {}

    def attempt(part: str, auto: Any) -> Any:
        try:
            return auto.from_pretrained(name, trust_remote_code=trust_remote_code)
        except Exception as error:  # what a part may lack is told when somebody needs the part
            problems[part] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            return None

    found = attempt("processor", transformers.AutoProcessor)
    loaded = _sorted(found)
    if "tokenizer" not in loaded and _may_have_tokenizer(name):
        tokenizer = attempt("tokenizer", transformers.AutoTokenizer)
        # Without files some classes come with special tokens and no word at all.
        if tokenizer is not None and len(tokenizer) > len(tokenizer.all_special_ids):
            loaded["tokenizer"] = tokenizer
    if "image_processor" not in loaded and "feature_extractor" not in loaded:
        # Its short name hides it where torchvision is missing, though it does without (5.17).
        from transformers.models.auto.image_processing_auto import AutoImageProcessor

        loaded["image_processor"] = attempt("image_processor", AutoImageProcessor)
        if loaded["image_processor"] is None:
            extractor = attempt("feature_extractor", transformers.AutoFeatureExtractor)
            loaded["feature_extractor"] = extractor
    return Parts(**loaded, problems=problems)


def _sorted(found: Any) -> dict[str, Any]:
    # AutoProcessor gives a whole processor or, where there is none, the only part it finds.
    names = ("tokenizer", "image_processor", "feature_extractor")
    parts = {name: getattr(found, name, None) for name in names}
    parts = {name: part for name, part in parts.items() if part is not None}
    if parts:
        return {"processor": found, **parts}
    if hasattr(found, "convert_ids_to_tokens"):
        return {"tokenizer": found} if len(found) > len(found.all_special_ids) else {}
    if hasattr(found, "sampling_rate"):
        return {"feature_extractor": found}
    return {} if found is None or not hasattr(found, "preprocess") else {"image_processor": found}


def _may_have_tokenizer(name: str) -> bool:
    if not os.path.isdir(name):
        return True
    return any(os.path.isfile(os.path.join(name, file)) for file in _TOKENIZER_FILES)


@contextmanager
def _explained(name: str) -> Iterator[None]:
    # What transformers says about a name or a file is long and comes in many exceptions.
    try:
        yield
    except RelmapError:
        raise
    except Exception as error:
        raise _reason(name, error) from error


def _reason(name: str, error: Exception) -> Exception:
    said = " ".join(str(error).split())
    if isinstance(error, ImportError) and "timm" in said:
        return MissingExtraError("timm")
    if "trust_remote_code" in said:
        return InputError(
            f"{name!r} brings code of its own, which runs on this machine when it is loaded. "
            f"Read it, and if you trust it pass trust_remote_code=True."
        )
    if os.path.isdir(name):
        return InputError(f"The model in {name!r} cannot be loaded: {said[:300]}")
    if isinstance(error, OSError):
        return InputError(
            f"{name!r} is neither a folder here nor a model that the Hub gives out: check the "
            f"name, and if this machine is offline, download the model first and give its "
            f"folder. ({said[:200]})"
        )
    return InputError(f"{name!r} cannot be loaded: {said[:300]}")
