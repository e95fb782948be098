"""`trace.operations.reductions`: every legal spelling gives one graph and the literal map."""

import pytest
from tiny.spelled import check_spelling, table
from tiny.spellings import REDUCTIONS


@pytest.mark.parametrize(("name", "place"), table(REDUCTIONS))
def test_every_spelling_gives_the_literal_map(name, place):
    check_spelling(REDUCTIONS[name], place)
