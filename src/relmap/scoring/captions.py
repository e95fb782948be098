"""Captions against what people wrote: texts in, scores out.

Sentences become words by the Penn Treebank's rules, as in all of COCO's published numbers: lower
case, clitics cut off ("it 's"), punctuation left out. Where Java is, the original program does it;
elsewhere, and wherever speed counts, the plain rules below do, which part from it in about one
sentence of a thousand (they leave the full stop off "St.").
"""

import re
import subprocess
from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from relmap.errors import InputError, MissingExtraError
from relmap.scoring import Score, Words, find_score, java

__all__ = ["default_tokeniser", "score_captions", "tokenise", "word_drops"]

_JAR = "tokenizer/stanford-corenlp-3.4.1.jar"
LEFT_OUT = {*"'`\".?!,:-;", "''", "``", "--", "..."}
_CLITIC = r"n't\b|'(?:s|m|d|re|ve|ll)\b"
_TOKEN = re.compile(
    rf"{_CLITIC}"
    r"|\d+(?:[.,:/]\d+)+"  # numbers and times
    rf"|[\w&]+?(?:[-./'][\w&]+)*?(?={_CLITIC})"  # a word before its clitic
    r"|[\w&]+(?:[-./'][\w&]+)*"  # a word, perhaps with marks inside
    r"|[^\w\s]"
)


def score_captions(
    captions: Sequence[str],
    references: Sequence[Sequence[str]],
    scores: Sequence[str] = ("bleu-4", "cider", "rouge-l"),
    *,
    tokeniser: str = "auto",
) -> dict[str, Score]:
    """Caption scores of a data set: one caption for each picture, and its references.

    CIDEr takes its document frequencies from the references, so pass the whole data set at once.

    Args:
        captions: What the model says of each picture.
        references: What people say of each.
        scores: Names in `SCORES`; `scores_here()` lists those that this machine can compute.
        tokeniser: "ptb", the Java program of published numbers; "plain", the same without Java; or
            "auto", the first of the two that is there.

    Raises:
        InputError: If a name is unknown, captions and references do not fit, or a score needs Java
            and there is none.
        MissingExtraError: If a score needs the extra `captions`.

    Example:
        >>> found = score_captions(["A cat.", "A dog."], [["A cat!"], ["a puppy"]])
        >>> {name: round(score.overall, 2) for name, score in found.items()}
        {'bleu-4': 0.0, 'cider': 2.5, 'rouge-l': 0.75}
    """
    entries = [find_score(name) for name in scores]  # refuse before the long part, not after it
    flat = [*captions, *(text for texts in references for text in texts)]
    words = iter(tokenise(flat, tokeniser))
    said = [next(words) for _ in captions]
    given = [tuple(next(words) for _ in texts) for texts in references]
    return {entry.name: entry.function(said, given) for entry in entries}


def word_drops(
    caption: str,
    without: Sequence[str],
    references: Sequence[str],
    *,
    score: str = "cider",
    tokeniser: str = "plain",
    **options: Any,
) -> Float[Tensor, " words"]:
    r"""How far a caption's score falls when one of its words is left out.

    λ_i = Metric(S) - Metric(S \ w_i), negative where the caption is better without the word.
    (WRA, eq. 21, with BLEU-4, CIDEr or METEOR.)

    Args:
        caption: The whole caption S.
        without: S without each of its words in turn, as texts: only the model's tokenizer knows
            what a caption reads like without a subword.
        references: What people say of the picture.
        options: Options of the score. CIDEr needs `documents`: `count_documents` of tokenised
            references of a whole data set.

    Raises:
        InputError: If the score is unknown or cannot judge the caption.
        MissingExtraError: If the score needs the extra `captions`.

    Example:
        >>> drops = word_drops("a red star", ["red star", "a star", "a red"], ["one red star"],
        ...     score="rouge-l")
        >>> [round(value, 2) for value in drops.tolist()]
        [-0.11, 0.28, 0.28]
    """
    entry = find_score(score)
    words = tokenise([caption, *without, *references], tokeniser)
    variants, given = words[: len(without) + 1], tuple(words[len(without) + 1 :])
    each = entry.function(variants, [given] * len(variants), **options).each
    return each[0] - each[1:]


def default_tokeniser() -> str:
    """What "auto" stands for here: "ptb" where its Java program runs, else "plain"."""
    try:
        java("the PTB tokenizer", _JAR)
    except (InputError, MissingExtraError):
        return "plain"
    return "ptb"


def tokenise(texts: Sequence[str], tokeniser: str = "plain") -> list[Words]:
    """Sentences as words in lower case, without punctuation.

    Raises:
        InputError: If the tokeniser is unknown, or is "ptb" and there is no Java.
        MissingExtraError: If it is "ptb" and the extra `captions` is not installed.

    Example:
        >>> tokenise(["It's a dog's life, isn't it?"])
        [('it', "'s", 'a', 'dog', "'s", 'life', 'is', "n't", 'it')]
    """
    if tokeniser not in ("auto", "plain", "ptb"):
        raise InputError(f"a tokeniser is 'auto', 'ptb' or 'plain', got {tokeniser!r}")
    lines = [" ".join(text.split()) for text in texts]
    if (default_tokeniser() if tokeniser == "auto" else tokeniser) == "ptb":
        tokens = _penn_treebank(lines)
    else:
        tokens = [_TOKEN.findall(line.lower()) for line in lines]
    return [tuple(word for word in words if word not in LEFT_OUT) for words in tokens]


def _penn_treebank(lines: Sequence[str]) -> list[list[str]]:
    program, jar = java("the PTB tokenizer", _JAR)
    command = [program, "-Dfile.encoding=UTF-8", "-cp", str(jar)]
    command += ["edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase"]
    spoken = [line for line in lines if line]  # it drops an empty line at the end
    if not spoken:
        return [[] for _ in lines]
    text = "".join(f"{line}\n" for line in spoken)
    done = subprocess.run(command, input=text.encode(), capture_output=True)
    out = done.stdout.decode().removesuffix("\n").split("\n")
    if done.returncode or len(out) != len(spoken):
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise InputError(
            f"the PTB tokenizer made {len(out)} lines of {len(spoken)} ({' '.join(last)}): use "
            "tokeniser='plain'"
        )
    found = iter(out)
    return [next(found).split() if line else [] for line in lines]
