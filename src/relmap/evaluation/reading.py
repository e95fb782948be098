"""Reading the data: examples one after another, in numbered batches.

A batch is fixed by the numbers of its examples and by nothing else, so that a run which begins
again, or which runs elsewhere, computes the same batches.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from relmap.data import DATA
from relmap.data.example import Example
from relmap.errors import InputError
from relmap.evaluation.fingerprint import Fingerprint
from relmap.evaluation.judging import Numbered

__all__ = ["Fingerprint", "numbered_batches", "read_examples"]


def read_examples(data: Any, form: str | None, options: Mapping[str, Any]) -> Iterable[Example]:
    """The examples of a data set: a path or name in a format, or samples that are there already.

    What has a length stays a list, so that it can be looked at more than once; a stream is read as
    it is needed.

    Raises:
        InputError: The format is missing or unknown, or has no such option.
    """
    if isinstance(data, str | os.PathLike):
        if form is None:
            raise InputError(f"give the format of {os.fspath(data)!r}: {', '.join(DATA.names())}")
        function = DATA.get(form).function
        known = list(inspect.signature(function).parameters)[1:]
        wrong = [name for name in options if name not in known]
        if wrong:
            raise InputError(
                f"the data format {form!r} has no option {wrong[0]!r}: "
                f"{', '.join(known) or 'it has none'}"
            )
        data = function(os.fspath(data), **options)
    examples = map(_example, data)
    return list(examples) if hasattr(data, "__len__") else examples


def _example(sample: Any) -> Example:
    if isinstance(sample, Example):
        return sample
    if hasattr(sample, "example"):
        return sample.example()
    raise InputError(
        f"a {type(sample).__name__} is no example: give relmap.Example(name, image=..., text=...)"
    )


def numbered_batches(
    examples: Iterable[Example], size: int, limit: int | None
) -> Iterator[list[Numbered]]:
    """Batches of examples with their numbers, in order.

    Raises:
        InputError: There is no example at all.
    """
    numbered = enumerate(islice(examples, limit))
    first = True
    while batch := list(islice(numbered, size)):
        first = False
        yield batch
    if first:
        raise InputError("the data set has no examples")
