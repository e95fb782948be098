"""What relmap installed without any extra says: run by `make test` on the wheel itself.

Not a pytest module, since the environment it runs in holds relmap and its core alone.
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import metadata
from pathlib import Path

OPTIONAL = ("matplotlib", "timm", "open_clip", "torchvision")


def sentence(action: Callable[[], object]) -> str:
    """The message of the MissingExtraError that an action must end in."""
    from relmap.errors import MissingExtraError

    try:
        action()
    except MissingExtraError as error:
        return str(error)
    raise SystemExit("an extra is missing, and nothing said so")


def main() -> None:
    present = [name for name in OPTIONAL if importlib.util.find_spec(name)]
    if present:
        raise SystemExit(f"not a bare environment: {', '.join(present)}")

    import relmap
    from relmap.errors import EXTRAS, MissingExtraError

    where = Path(relmap.__file__).parent
    print(f"relmap {relmap.__version__}, {'typed' if (where / 'py.typed').exists() else 'untyped'}")
    print("imported with it:", *sorted({"numpy", "torch", "transformers"} & sys.modules.keys()))

    declared = set(metadata("relmap").get_all("Provides-Extra") or ())
    if declared != EXTRAS.keys() | {"all"}:
        raise SystemExit(f"the wheel declares other extras than relmap knows: {sorted(declared)}")
    for extra in EXTRAS:
        print(MissingExtraError(extra))

    # And through the doors that users take:
    print(sentence(lambda: relmap.load("timm:vit_tiny_patch16_224")))
    print(sentence(lambda: relmap.load("open_clip:ViT-B-32")))
    print(sentence(lambda: small_attribution().save(Path(tempfile.gettempdir()) / "relmap.png")))


def small_attribution():
    """One picture of two by two patches, explained by hand."""
    import torch
    from PIL import Image

    from relmap import Attribution, Layout

    none = torch.zeros(1, 4, dtype=torch.bool)
    layout = Layout(("pixel_values",), "image", none, none, None, (2, 2), torch.arange(4))
    return Attribution(
        scores={"pixel_values": torch.rand(1, 4)},
        layout={"pixel_values": layout},
        target=("one",),
        prediction=("one",),
        meta={},
        inputs={"image": [Image.new("RGB", (32, 32))]},
    )


if __name__ == "__main__":
    main()
