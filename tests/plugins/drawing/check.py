"""What holds of the plug-in once it is installed."""

import tempfile
from pathlib import Path

import pytest
import torch

import relmap

none = torch.zeros(1, 3, dtype=torch.bool)
words = relmap.Layout(("input_ids",), "text", none, none, tokens=(("a", "red", "cat"),))
scores = {"input_ids": torch.tensor([[0.0, 0.25, 0.75]])}
result = relmap.Attribution(scores, {"input_ids": words}, ("cat",), ("cat",))

with tempfile.TemporaryDirectory() as folder:
    result.save(Path(folder) / "map.txt")
    assert (Path(folder) / "map.txt").read_text() == "cat\tinput_ids\tcat red a\n"
    figure = relmap.draw(result, Path(folder) / "words.png", drawing="top-words")
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["a", "red", "cat"]
    assert (Path(folder) / "words.png").stat().st_size > 1000
    relmap.draw(result, Path(folder) / "page.png")  # relmap's own drawing is still there
with pytest.raises(relmap.InputError, match=r"\.txt"):
    result.save("map.docx")
