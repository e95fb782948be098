"""Every architecture of the zoo is explained, with all its attentions, or refused with a reason."""

import pytest
import torch
import transformers
from architectures import ARCHITECTURES, build

import relmap

CASES = [
    (name, implementation)
    for name, architecture in sorted(ARCHITECTURES.items())
    for implementation in architecture.implementations
]


@pytest.mark.parametrize(("name", "implementation"), CASES)
@pytest.mark.filterwarnings("default")  # some models warn about their own arguments
def test_architecture(name, implementation):
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


def test_enough_architectures_are_explained():
    explained = [one for one in ARCHITECTURES.values() if one.refused is None]
    assert len(explained) >= 120
