"""The models that come with relmap: small ones, trained on scenes, that work offline.

`demo` is the CLIPmapper with one stream that answers questions; the others are `demo:b-vqa`,
`demo:a-captions`, `demo:b-captions` and `demo:clip`.
"""

from pathlib import Path

import torch

from relmap.errors import InputError
from relmap.models import SOURCES, Model

__all__ = ["WEIGHTS", "demo"]

WEIGHTS = Path(__file__).parent / "weights"


@SOURCES.register("demo", usage="demo, which needs no download")
def demo(
    name: str,
    *,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
    trust_remote_code: bool = False,
) -> Model:
    """A model that comes with relmap; without a name, the CLIPmapper-A for questions.

    Raises:
        InputError: There is none of that name.
    """
    found = {path.parent.name: path.parent for path in sorted(WEIGHTS.glob("*/model.safetensors"))}
    chosen = name if name and name != "demo" else "a-vqa"
    if chosen not in found:
        listed = ", ".join(f"demo:{one}" for one in found)
        raise InputError(f"There is no demo model {chosen!r}; there are {listed or 'none'}.")
    load = SOURCES.get("huggingface").function
    return load(str(found[chosen]), device=device, dtype=dtype, trust_remote_code=False)
