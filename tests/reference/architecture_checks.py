"""What is asked of every architecture of the zoo."""

from __future__ import annotations

import pytest
import torch
import transformers
from architectures import ARCHITECTURES, build

import relmap


def check_architecture(name: str, implementation: str | None) -> None:
    """Explained with all its attentions, or refused with a reason."""
    expected = ARCHITECTURES[name]
    built = build_or_skip(name, implementation)
    if expected.refused is not None:
        with pytest.raises(relmap.RelmapError) as refusal:
            relmap.explain(built.network, target=built.target, **built.inputs)
        assert len(str(refusal.value)) > 40
        return
    result = relmap.explain(built.network, target=built.target, **built.inputs)
    assert result.meta["attentions"] == expected.attentions
    assert result.meta["explained_attentions"] <= expected.attentions
    if expected.approximate:
        assert result.meta["approximate"]
    elif not expected.local:
        assert not result.meta["approximate"]
    for scores in result.scores.values():
        assert torch.isfinite(scores).all()
    assert any(bool(scores.any()) for scores in result.scores.values())


def build_or_skip(name, implementation):
    """Build and run a network; older releases of transformers lack some of them."""
    try:
        built = build(name, implementation)
        with torch.no_grad():
            built.network(**built.inputs)
    except (ValueError, IndexError) as error:
        if tuple(int(part) for part in transformers.__version__.split(".")[:2]) >= (5, 23):
            raise
        pytest.skip(f"{name} does not run on transformers {transformers.__version__}: {error}")
    return built
