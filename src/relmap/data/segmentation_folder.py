"""A folder of images with one mask each: what the localisation metrics are measured on.

    folder/manifest.json     [{"image": "images/1.jpg", "mask": "masks/1.png", ...}, ...]
    folder/images/           pictures
    folder/masks/            pictures of the same size, zero outside the object

Further keys are optional: `label` and `name` (or `imagenet_class` and `imagenet_name`) say which
class the mask shows; everything else is kept in the sample's `about`.
"""

from pathlib import Path

from relmap.data import DATA, Sample, read_manifest, require_files
from relmap.errors import InputError


@DATA.register("segmentation-folder")
def segmentation_folder(path: str | Path) -> list[Sample]:
    """Images with masks, in the order of the folder's manifest.

    Raises:
        InputError: If the folder, its manifest, or a file that it names is missing.

    Example:
        >>> segmentation_folder("no/such/folder")
        Traceback (most recent call last):
        relmap.errors.InputError: there is no folder no/such/folder
    """
    folder = Path(path)
    entries = read_manifest(folder)
    for number, entry in enumerate(entries):
        if not isinstance(entry.get("mask"), str):
            raise InputError(f'entry {number} of {folder / "manifest.json"} has no "mask"')
    samples = [
        Sample(
            name=Path(entry["image"]).stem,
            image=folder / entry["image"],
            mask=folder / entry["mask"],
            label=entry.get("label", entry.get("imagenet_class")),
            label_name=entry.get("name", entry.get("imagenet_name")),
            about=entry,
        )
        for entry in entries
    ]
    require_files([sample.image for sample in samples], "images", folder)
    require_files([sample.mask for sample in samples if sample.mask], "masks", folder)
    return samples
