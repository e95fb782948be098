"""What a small CLIP can do, measured on the splits of its data, and the card that says so."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clipmapper.training.card import (
    command,
    make_card,
    markdown_table,
    minutes_of_training,
    name_versions,
    versions,
    write_results,
)
from clipmapper.training.contrast import Contrast
from clipmapper.training.pixels import Pixels
from clipmapper.training.regions import GROUND, Regions, read_regions
from clipmapper.training.session import machine
from clipmapper.training.tokenizer import tokens_of
from relmap.data import DATA, CaptionedImage, files_of

__all__ = ["measure_clip", "measure_folder", "write_clip_card"]

SPLITS = ("val", "test")
_SAID = {
    "image_to_text": "image to text, rank 1",
    "text_to_image": "text to image, rank 1",
    "among_siblings": "image to text among siblings",
    "patches": "object patches nearest to their object's name",
}


def measure_folder(
    model: Path, data: Path, format: str = "coco-captions", **options: Any
) -> dict[str, Any]:
    """The measures of a CLIP on every split that a folder has beside the training one.

    Raises:
        InputError: A split is there and cannot be read.
    """
    found: dict[str, Any] = {}
    for split in SPLITS:
        if not files_of(format, data, split):
            continue
        captions = DATA.get(format).function(data, split=split)
        instances = data / "annotations" / f"instances_{split}.json"
        regions = None
        if instances.is_file():
            side = json.loads((model / "config.json").read_text(encoding="utf-8"))["vision_config"]
            grid = side["image_size"] // side["patch_size"]
            regions = read_regions(instances, [int(one.image_id) for one in captions], grid)
        found[split] = {"pictures": min(len(captions), 1024)}
        found[split] |= measure_clip(model, captions, regions, **options)
    return found


@torch.no_grad()
def measure_clip(
    folder: str | Path,
    captions: Sequence[CaptionedImage],
    regions: Regions | None = None,
    *,
    among: int = 1024,
    siblings: int = 4,
    equal_texts: bool = False,
) -> dict[str, float]:
    """How well a CLIP matches pictures and texts.

    Retrieval at rank 1 among `among` pictures and among siblings, with the first caption of each,
    and the share of object patches that are nearest to their category's name. With `equal_texts` a
    caption is right for every picture that has an equal one.
    """
    from transformers import AutoTokenizer, CLIPModel
    from transformers.models.auto.image_processing_auto import AutoImageProcessor

    folder = Path(folder)
    clip = CLIPModel.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    processor = AutoImageProcessor.from_pretrained(folder)
    captions = list(captions[:among])
    pixels = Pixels.read([one.image for one in captions], processor, None)
    model = Contrast(clip, []).eval()
    images, patches = _encode_images(clip, pixels)
    said = [one.captions[0] for one in captions]
    texts = model.text_vectors(tokens_of(tokenizer, said))
    similarity = images @ texts.T
    own = torch.arange(len(captions))
    alike = torch.tensor([said.index(text) for text in said]) if equal_texts else own
    found = {
        "image_to_text": (alike[similarity.argmax(1)] == alike).double().mean().item(),
        "text_to_image": (alike[similarity.argmax(0)] == alike).double().mean().item(),
    }
    if siblings > 1:
        groups = own // siblings
        close = similarity.masked_fill(groups[:, None] != groups[None], -torch.inf)
        right = alike[close.argmax(1)] == alike
        found["among_siblings"] = right.double().mean().item()
    if regions is not None:
        texts = model.text_vectors(tokens_of(tokenizer, [*regions.names, GROUND]))
        shown = torch.from_numpy(regions.categories[: len(captions)].astype(np.int64))
        hit = (patches @ texts.T).argmax(-1) == shown
        found["patches"] = hit[shown >= 0].double().mean().item()
    return found


def _encode_images(clip: Any, pixels: Pixels) -> tuple[Any, Any]:
    images, patches = [], []
    for rows in np.array_split(np.arange(len(pixels)), max(len(pixels) // 128, 1)):
        vision = clip.vision_model
        hidden = vision.post_layernorm(vision(pixels.take(rows)).last_hidden_state)
        projected = torch.nn.functional.normalize(clip.visual_projection(hidden), dim=-1)
        images.append(projected[:, 0])
        patches.append(projected[:, 1:])
    return torch.cat(images), torch.cat(patches)


def write_clip_card(model: Path, data: Path, format: str = "coco-captions") -> dict[str, Any]:
    """Writes README.md and results.json beside the weights; returns the results.

    Raises:
        InputError: A split of the data cannot be read.
    """
    training = json.loads((model / "training.json").read_text(encoding="utf-8"))
    recipe = training["recipe"]
    alike = {name: recipe[name] for name in ("siblings", "equal_texts")}
    results = {
        "command": command(),
        "minutes": training["minutes"],
        "seed": training["seed"],
        "machine": machine(),
        "versions": versions(),
        "scores": measure_folder(model, data, format, **alike),
    }
    write_results(model, _card(results, recipe, data.absolute().name), results)
    return results


def _card(results: Mapping[str, Any], recipe: Mapping[str, Any], data: str) -> str:
    facts = {
        "data": data,
        "pictures seen": f"{recipe['samples']:,}",
        "seed": str(results["seed"]),
        "minutes of training": minutes_of_training(results),
        "versions": name_versions(results),
    }
    tables = [*markdown_table(("", ""), iter(facts.items())), ""]
    for split, found in results["scores"].items():
        shown = ((_SAID[name], f"{found[name]:.3f}") for name in _SAID if name in found)
        heads = ("measure", f"{found['pictures']} pictures")
        tables += [f"## Split {split}", "", *markdown_table(heads, shown), ""]
    return make_card(
        "A small CLIP",
        [f"{recipe['about'][0].upper()}{recipe['about'][1:]}."],
        results["command"],
        tables,
        {"pipeline_tag": "zero-shot-image-classification", "tags": ["clip", "relmap"]},
    )
