"""SPICE: objects, attributes and relations that caption and references have in common."""

import subprocess
from collections.abc import Sequence

import torch

from relmap.errors import InputError
from relmap.scoring import SCORES, Score, Words, check_captions, java

_JAR = "spice/spice-1.0.jar"
_PARSER = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")


def _ready() -> None:
    _, jar = java("SPICE", _JAR)
    if not all((jar.parent / "lib" / name).is_file() for name in _PARSER):
        raise InputError(
            "SPICE needs the parser Stanford CoreNLP 3.6.0, which is not installed: fetch it once "
            "(about 400 MB) by `python -m pycocoevalcap.spice.get_stanford_models`"
        )


@SCORES.register(
    "spice",
    reference="Anderson et al., SPICE, ECCV 2016",
    needs=("java", "Stanford CoreNLP 3.6.0"),
    ready=_ready,
)
def spice(captions: Sequence[Words], references: Sequence[Sequence[Words]]) -> Score:
    """F-measure of the tuples in the scene graphs parsed from a caption and from its references.

    SPICE = 2 P R / (P + R) over tuples (object), (object, attribute) and (object, relation,
    object), with synonyms taken as equal. Overall is the mean; a caption without tuples counts 0.

    It takes up to 8 GB of memory and seconds for each caption: it is no score to weigh words by.

    Raises:
        InputError: If captions and references do not fit, there is no Java or no parser, or the
            program fails.
        MissingExtraError: If the extra `captions` is not installed.
    """
    check_captions(captions, references)
    _ready()
    from pycocoevalcap.spice.spice import Spice

    numbers = range(len(captions))
    found = {at: [" ".join(words)] for at, words in enumerate(captions)}
    given = {at: [" ".join(text) for text in references[at]] for at in numbers}
    try:
        _, scores = Spice().compute_score(given, found)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise InputError(
            f"SPICE's Java program failed, as it does on Java 16 and later: {error}"
        ) from error
    each = torch.tensor([entry["All"]["f"] for entry in scores], dtype=torch.float64).nan_to_num(0)
    return Score(each.mean().item(), each)
