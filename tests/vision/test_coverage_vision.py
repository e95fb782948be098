"""The architectures of timm, open_clip and torchvision (see `tests/trace/test_coverage.py`)."""

import pytest
from architectures import ARCHITECTURES
from reference.architecture_checks import check_architecture

OTHERS = ("timm", "open_clip", "torchvision")
CASES = sorted(name for name, one in ARCHITECTURES.items() if one.family in OTHERS)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("default")
def test_architecture(name):
    check_architecture(name, None)


def test_there_are_many():
    assert len(CASES) >= 60
