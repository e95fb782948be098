"""COCO captions in the split of Karpathy and Fei-Fei, which captioning papers report on.

    folder/dataset_coco.json
    folder/train2014/COCO_train2014_000000000009.jpg
    folder/val2014/COCO_val2014_000000391895.jpg

The picture folders may also lie in `images/`. The files for Flickr8k and Flickr30k, which name no
folder, have their pictures in `images/` or beside the json.
"""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from relmap.data import DATA, CaptionedImage, first_three, read_json, require_images
from relmap.errors import InputError

SPLITS = {
    "train": ("train", "restval"),
    "restval": ("restval",),
    "val": ("val",),
    "test": ("test",),
}


def _files(path: Path, split: str) -> list[Path]:
    file = _split_file(path)
    names = "|".join(SPLITS.get(split, ())).encode()
    there = names and re.search(rb'"split"\s*:\s*"(?:%b)"' % names, file.read_bytes())
    return [file] if there else []


@DATA.register(
    "karpathy",
    reference="Karpathy and Fei-Fei, Deep Visual-Semantic Alignments, 2015",
    files=_files,
)
def karpathy(path: str | Path, split: str = "train") -> list[CaptionedImage]:
    """Pictures of a split with their captions, in the order of the split file.

    Args:
        path: The folder, or the json file itself.
        split: "train" (with the restval pictures, as papers train on them), "restval", "val" or
            "test".

    Raises:
        InputError: If a file is missing or broken, the split is unknown or empty, or pictures are
            missing; with their number and the first three.

    Example:
        >>> karpathy("no/such/folder")
        Traceback (most recent call last):
        relmap.errors.InputError: there is no folder no/such/folder
    """
    if split not in SPLITS:
        raise InputError(f"a Karpathy split is {', '.join(SPLITS)}; got {split!r}")
    file = _split_file(Path(path))
    entries = read_json(file, ["images"])["images"]
    wrong = [at for at, entry in enumerate(entries) if not _is_whole(entry)]
    if wrong:
        raise InputError(
            f'{len(wrong)} of {len(entries)} images of {file} have no "filename", "split", or '
            f'"sentences" with a "raw" text each: entry {first_three(wrong)}'
        )
    entries = [entry for entry in entries if entry["split"] in SPLITS[split]]
    if not entries:
        raise InputError(f"no image of {file} is in the split {split!r}")
    images = _find(file.parent, entries, split)
    return [
        CaptionedImage(
            name=image.stem,
            image=image,
            captions=tuple(sentence["raw"].strip() for sentence in entry["sentences"]),
            image_id=entry.get("cocoid", entry.get("imgid", image.stem)),
            about={key: value for key, value in entry.items() if key != "sentences"},
        )
        for entry, image in zip(entries, images, strict=True)
    ]


def _split_file(path: Path) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise InputError(f"there is no folder {path}")
    found = sorted([*path.glob("dataset*.json"), *path.glob("annotations/dataset*.json")])
    if len(found) != 1:
        names = f"{len(found)}: {first_three(found)}" if found else "none"
        raise InputError(f"{path} must hold one dataset_coco.json, and holds {names}")
    return found[0]


def _is_whole(entry: Mapping[str, Any]) -> bool:
    sentences = entry.get("sentences")
    return (
        isinstance(entry.get("filename"), str)
        and isinstance(entry.get("split"), str)
        and isinstance(sentences, list)
        and len(sentences) > 0
        and all(isinstance(each, dict) and isinstance(each.get("raw"), str) for each in sentences)
    )


def _find(folder: Path, entries: Sequence[Mapping[str, Any]], split: str) -> list[Path]:
    """The picture of every entry; each folder that is named is listed once."""
    roots = [folder, folder / "images"]
    if folder.name == "annotations":
        roots += [folder.parent, folder.parent / "images"]
    named = dict.fromkeys(entry.get("filepath", "") for entry in entries)
    places = {name: [root / name for root in roots if (root / name).is_dir()] for name in named}
    listed = {place: set(os.listdir(place)) for found in places.values() for place in found}
    images, missing = [], []
    for entry in entries:
        name = entry["filename"]
        found = [place for place in places[entry.get("filepath", "")] if name in listed[place]]
        images += [place / name for place in found[:1]]
        if not found:
            missing.append(Path(entry.get("filepath", "")) / name)
    require_images(missing, len(entries), f"the split {split!r}", roots[-2:])
    return images
