"""The architectures of timm, open_clip and torchvision (see `tests/test_coverage.py`)."""

import pytest
from architectures import ARCHITECTURES
from test_coverage import test_architecture as check_architecture

OTHERS = ("timm", "open_clip", "torchvision")
CASES = sorted(name for name, one in ARCHITECTURES.items() if one.family in OTHERS)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("default")
def test_architecture(name):
    check_architecture(name, None)


def test_there_are_many():
    assert len(CASES) >= 60
