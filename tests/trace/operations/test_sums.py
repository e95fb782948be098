"""`trace.operations.sums`: every legal spelling gives one graph and the literal map."""

import pytest
from tiny.spelled import check_spelling, table
from tiny.spellings import SUMS


@pytest.mark.parametrize(("name", "place"), table(SUMS))
def test_every_spelling_gives_the_literal_map(name, place):
    check_spelling(SUMS[name], place)
