"""`trace.operations.multi_head`: every legal spelling gives one graph and the literal map."""

import pytest
from tiny.spelled import check_spelling, table
from tiny.spellings import MULTI_HEAD


@pytest.mark.parametrize(("name", "place"), table(MULTI_HEAD))
def test_every_spelling_gives_the_literal_map(name, place):
    check_spelling(MULTI_HEAD[name], place)
