"""What holds of the plug-in once it is installed."""

import tempfile
from pathlib import Path

import pytest

from relmap.data import DATA
from relmap.errors import InputError

read = DATA.get("table-of-texts").function
with tempfile.TemporaryDirectory() as folder:
    file = Path(folder, "texts.csv")
    file.write_text("text;label\na fine film;positive\n", encoding="utf-8")
    (example,) = read(file, delimiter=";")
    assert (example.text, example.label) == ("a fine film", "positive")
    with pytest.raises(InputError, match="no column label and no column text"):
        read(file)
