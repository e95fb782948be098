"""What every test stands on: no network, fixed seeds, one thread, and the reference data if there.

Environment variables are set at import, since libraries read them when they are imported.
"""

from __future__ import annotations

import importlib.util
import os
import random
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("MPLBACKEND", "agg")

import numpy as np
import pytest
import torch

torch.set_num_threads(1)

ROOT = Path(__file__).resolve().parent.parent
LOCAL_HOSTS = frozenset({"", "127.0.0.1", "::1", "localhost"})

# tests/vision needs timm and open_clip, which have an environment of their own (see the Makefile).
collect_ignore = [] if importlib.util.find_spec("timm") else ["vision"]
# Packages of strangers are imported where they are installed, and register nothing here.
collect_ignore += ["plugins"]


class NetworkForbidden(RuntimeError):
    """No OSError, since libraries swallow those and fall back to something else."""


def _forbid(host: Any) -> None:
    if isinstance(host, bytes):
        host = host.decode("ascii", "replace")
    if host is not None and host not in LOCAL_HOSTS:
        raise NetworkForbidden(
            f"A test tried to reach {host!r}. Tests talk to 127.0.0.1 alone: make a tiny model, "
            f"a file under tmp_path or a local server instead."
        )


@pytest.fixture(scope="session", autouse=True)
def no_network() -> Iterator[None]:
    """Refuses every look-up of and every connection to another machine."""
    connect, connect_ex = socket.socket.connect, socket.socket.connect_ex
    sendto, getaddrinfo = socket.socket.sendto, socket.getaddrinfo

    def host_of(address: Any) -> Any:
        return address[0] if isinstance(address, tuple) else None  # a path is a local socket

    def guarded_connect(self: socket.socket, address: Any) -> None:
        _forbid(host_of(address))
        connect(self, address)

    def guarded_connect_ex(self: socket.socket, address: Any) -> int:
        _forbid(host_of(address))
        return connect_ex(self, address)

    def guarded_sendto(self: socket.socket, data: Any, *rest: Any) -> int:
        _forbid(host_of(rest[-1]))
        return sendto(self, data, *rest)

    def guarded_getaddrinfo(host: Any, *rest: Any, **options: Any) -> Any:
        _forbid(host)
        return getaddrinfo(host, *rest, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded_connect)
        patch.setattr(socket.socket, "connect_ex", guarded_connect_ex)
        patch.setattr(socket.socket, "sendto", guarded_sendto)
        patch.setattr(socket, "getaddrinfo", guarded_getaddrinfo)
        yield


@pytest.fixture(autouse=True)
def seeds() -> None:
    """The same random numbers in every test, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - libraries under test still draw from the global generator
    torch.manual_seed(0)


@pytest.fixture
def no_fast_path() -> Iterator[None]:
    """The fused encoder layers give other last digits."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(enabled)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference data beside the checkout, or the one that RELMAP_SHARED names."""
    folder = Path(os.environ.get("RELMAP_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip("reference data is not here: no folder 'shared' beside the checkout")
    return folder


def _torchvision_operators() -> torch.library.Library | None:
    """Declares the operators that torchvision names at import, where its own library cannot load.

    Its compiled part is linked against CUDA, and beside a CPU build of torch the import then fails
    with "operator torchvision::nms does not exist". Declared operators let it be imported; calling
    one still fails, which no test does.
    """
    found = importlib.util.find_spec("torchvision")
    if found is None or found.origin is None:
        return None
    try:
        for library in Path(found.origin).parent.glob("_C*"):
            torch.ops.load_library(str(library))
    except OSError:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return library
    return None


TORCHVISION = _torchvision_operators()  # the declarations live as long as this object does
