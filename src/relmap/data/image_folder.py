"""A folder of images, with labels if a manifest gives them.

Without a `manifest.json` every picture in the folder and below it is a sample, in the order of
the paths. With one, its entries are: [{"image": "1.jpg", "label": 7, "name": "cock"}, ...], where
label and name are optional.
"""

from pathlib import Path

from relmap.data import DATA, Sample, read_manifest, require_files
from relmap.errors import InputError

ENDINGS = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})


@DATA.register("image-folder")
def image_folder(path: str | Path) -> list[Sample]:
    """Images of a folder, in the order of its manifest or, without one, of their paths.

    Raises:
        InputError: If the folder is missing or holds no image, or the manifest names a missing one.

    Example:
        >>> image_folder("no/such/folder")
        Traceback (most recent call last):
        relmap.errors.InputError: there is no folder no/such/folder
    """
    folder = Path(path)
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}")
    if (folder / "manifest.json").is_file():
        samples = [
            Sample(
                name=Path(entry["image"]).stem,
                image=folder / entry["image"],
                label=entry.get("label"),
                label_name=entry.get("name"),
                about=entry,
            )
            for entry in read_manifest(folder)
        ]
        require_files([sample.image for sample in samples], "images", folder)
        return samples
    images = sorted(file for file in folder.rglob("*") if file.suffix.lower() in ENDINGS)
    if not images:
        raise InputError(f"{folder} holds no image ({', '.join(sorted(ENDINGS))})")
    return [
        Sample(name=file.relative_to(folder).with_suffix("").as_posix(), image=file)
        for file in images
    ]
