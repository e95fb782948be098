"""What holds of the plug-in once it is installed."""

from relmap.scoring import find_score, scores_here

score = find_score("word-overlap").function
assert score([("a", "red", "star")], [[("a", "star"), ("the", "moon")]]).overall == 2 / 3
assert "word-overlap" in scores_here()
