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
        check_sources(built, expected.sources)
        return
    result = relmap.explain(built.network, target=built.target, **built.inputs)
    hidden = expected.sdpa_mixers if implementation == "sdpa" else 0
    assert result.meta["attentions"] == (0 if hidden else expected.attentions)
    assert result.meta["explained_attentions"] <= expected.attentions
    assert len(result.meta["mixers"]) == (hidden or expected.mixers)
    if expected.approximate:
        assert result.meta["approximate"]
    elif not expected.local:
        assert not result.meta["approximate"]
    for scores in result.scores.values():
        assert torch.isfinite(scores).all()
    assert any(bool(scores.any()) for scores in result.scores.values())


def check_sources(built, known: bool) -> None:
    """A method that reads no attention explains the network although the trace is lost."""
    asked = {"target": built.target, "method": "input-x-gradient", **built.inputs}
    if not known:
        with pytest.raises(relmap.RelmapError):
            relmap.explain(built.network, **asked)
        return
    result = relmap.explain(built.network, **asked)
    assert result.meta["trace"] == "sources only"
    assert any(bool(scores.any()) for scores in result.scores.values())
    for scores in result.scores.values():
        assert torch.isfinite(scores).all()


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
