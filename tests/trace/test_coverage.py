"""Every architecture of the zoo is explained, with all its attentions, or refused with a reason."""

import pytest
from architectures import ARCHITECTURES
from reference.architecture_checks import check_architecture

CASES = [
    (name, implementation)
    for name, architecture in sorted(ARCHITECTURES.items())
    for implementation in architecture.implementations
]


@pytest.mark.parametrize(("name", "implementation"), CASES)
@pytest.mark.filterwarnings("default")  # some models warn about their own arguments
def test_architecture(name, implementation):
    check_architecture(name, implementation)


def test_enough_architectures_are_explained():
    explained = [one for one in ARCHITECTURES.values() if one.refused is None]
    assert len(explained) >= 120
