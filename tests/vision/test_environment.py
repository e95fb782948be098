"""The environment of timm and open_clip: both run, whatever torchvision lacks."""

from __future__ import annotations

import pytest
import torch


def test_timm_runs():
    timm = pytest.importorskip("timm", reason="only the vision environment has timm")
    network = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, embed_dim=32, depth=1, num_heads=2, num_classes=3
    )
    assert network.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 3)


def test_open_clip_is_there():
    open_clip = pytest.importorskip("open_clip", reason="only the vision environment has open_clip")
    assert "ViT-B-32" in open_clip.list_models()
