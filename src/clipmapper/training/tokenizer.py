"""A tokenizer for a small world: byte-level pair encoding, so that any text at all can be read.

The words of the world become one token each; whatever else somebody types falls apart into the
bytes it is made of, and is never unknown.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = ["tokens_of", "train_tokenizer"]

START, END, PADDING = "<start>", "<end>", "<pad>"


def tokens_of(tokenizer: Any, texts: Sequence[str]) -> dict[str, Any]:
    """Token numbers and mask of texts, filled up to the longest and cut where CLIP's places end."""
    found = tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
    return {name: found[name] for name in ("input_ids", "attention_mask")}


def train_tokenizer(texts: Iterable[str], vocabulary_size: int = 512) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer in lower case that puts a text between `<start>` and `<end>`.

    Example:
        >>> tokenizer = train_tokenizer(["a small red star", "a red circle"] * 9, 300)
        >>> tokenizer.tokenize("A red star!")[-1]
        '!'
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from tokenizers.trainers import BpeTrainer
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    # the space before the first word makes it the token that it is in the middle of a text
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    # the end must not be number 2: there CLIP's text model falls back to reading the largest number
    special = [PADDING, END, START]
    trainer = BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    numbers = [(token, tokenizer.token_to_id(token)) for token in (START, END)]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=numbers
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=START,
        eos_token=END,
        pad_token=PADDING,
        clean_up_tokenization_spaces=False,
        model_max_length=77,
    )
