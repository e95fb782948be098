"""What relmap installed without any extra says: run by `make test` on the wheel itself.

Not a pytest module, since the environment it runs in holds relmap and its core alone.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
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


OFFLINE = """
import socket, sys

def refuse(*_, **__):
    raise SystemExit("the demo tried to reach another machine")

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
from relmap.cli import main
sys.argv[0] = "relmap"
main()
"""


def wheel_size(folder: Path) -> str:
    """How large the wheel is that was installed, and what of it are weights."""
    import clipmapper

    wheels = sorted(folder.glob("relmap-*.whl"))
    if not wheels:
        return "the wheel is not beside the environment: its size is not known"
    weights = Path(clipmapper.__file__).parent.glob("weights/*/*.safetensors")
    share = sum(file.stat().st_size for file in weights)
    size = wheels[-1].stat().st_size
    return f"the wheel: {size / 1e6:.2f} MB, with {share / 1e6:.2f} MB of weights"


def run_demo() -> str:
    """What the demo prints where no other machine can be reached; why not, if it has no model."""
    import clipmapper

    if not (Path(clipmapper.__file__).parent / "weights" / "a-vqa").is_dir():
        return "the demo is skipped: the wheel holds no weights/a-vqa yet"
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    with tempfile.TemporaryDirectory() as folder:
        words = ["demo", "--count", "3", "--output", str(Path(folder) / "pictures")]
        command = [sys.executable, "-I", "-c", OFFLINE, *words]
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
    if done.returncode or "of 3 answers are right" not in done.stdout:
        raise SystemExit(f"the demo failed ({done.returncode}):\n{done.stdout}{done.stderr}")
    return done.stdout


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
    print(wheel_size(Path(sys.prefix) / "wheel"))
    print(run_demo())
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
