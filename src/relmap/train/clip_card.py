"""What a small CLIP can do, measured on the splits of its data, and the card that says so."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from relmap.data import DATA
from relmap.disk import write_whole
from relmap.errors import InputError
from relmap.train.card import command, markdown_table, versions
from relmap.train.clip import measure_clip
from relmap.train.regions import read_regions

__all__ = ["measure_folder", "write_clip_card"]

SPLITS = ("val", "test")
_SAID = {
    "image_to_text": "image to text, rank 1",
    "text_to_image": "text to image, rank 1",
    "among_siblings": "image to text among four siblings",
    "patches": "object patches nearest to their object's name",
}


def measure_folder(model: Path, data: Path, format: str = "coco-captions") -> dict[str, Any]:
    """The measures of a CLIP on every split of a folder beside the training one."""
    found: dict[str, Any] = {}
    for split in SPLITS:
        try:
            captions = DATA.get(format).function(data, split=split)
        except InputError:  # the folder has no such split
            continue
        instances = data / "annotations" / f"instances_{split}.json"
        regions = None
        if instances.is_file():
            side = json.loads((model / "config.json").read_text(encoding="utf-8"))["vision_config"]
            grid = side["image_size"] // side["patch_size"]
            regions = read_regions(instances, [int(one.image_id) for one in captions], grid)
        found[split] = {"pictures": min(len(captions), 1024)}
        found[split] |= measure_clip(model, captions, regions)
    return found


def write_clip_card(model: Path, data: Path, format: str = "coco-captions") -> dict[str, Any]:
    """Writes results.json and README.md beside the weights; returns the results."""
    training = json.loads((model / "training.json").read_text(encoding="utf-8"))
    results = {
        "command": command(),
        "minutes": training["minutes"],
        "seed": training["seed"],
        "machine": platform.machine(),
        "versions": versions(),
        "scores": measure_folder(model, data, format),
    }
    write_whole(model / "results.json", (json.dumps(results, indent=1) + "\n").encode())
    write_whole(model / "README.md", _card(results, training["recipe"], data.name).encode())
    return results


def _card(results: Mapping[str, Any], recipe: Mapping[str, Any], data: str) -> str:
    facts = {
        "data": data,
        "pictures seen": f"{recipe['samples']:,}",
        "seed": str(results["seed"]),
        "minutes of training": f"{results['minutes']:.1f}",
        "versions": ", ".join(f"{name} {one}" for name, one in results["versions"].items()),
    }
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: zero-shot-image-classification",
        "tags: [clip, relmap]",
        "---",
        "# A small CLIP",
        "",
        f"{recipe['about'][0].upper()}{recipe['about'][1:]}.",
        "",
        "```",
        results["command"],
        "```",
        "",
        *markdown_table(("", ""), iter(facts.items())),
        "",
    ]
    for split, found in results["scores"].items():
        shown = ((_SAID[name], f"{found[name]:.3f}") for name in _SAID if name in found)
        heads = ("measure", f"{found['pictures']} pictures")
        lines += [f"## Split {split}", "", *markdown_table(heads, shown), ""]
    return "\n".join(lines)
