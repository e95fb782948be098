"""Going on: which batches of an evaluation have rows, of which methods and metrics.

Rows are of one method, one metric and one example, so that a run which asks for more of any of them
finds the others there. A batch is judged as a whole: where it had fewer examples before, at the end
of the data, all of them are judged again, since the rounding of a batch depends on its size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from relmap.errors import InputError
from relmap.evaluation.engine import Part
from relmap.evaluation.fingerprint import Fingerprint
from relmap.evaluation.judging import Numbered
from relmap.evaluation.plan import Plan
from relmap.evaluation.rows import (
    Head,
    joined,
    part_path,
    parts,
    read_head,
    read_part,
    write_part,
)

__all__ = ["Resumed"]


@dataclass(eq=False)
class Resumed:
    """The rows of an evaluation that are there, and those that are written to them.

    Attributes:
        folder: Where the parts lie.
        run: The fingerprint of the evaluation, which each part carries.
        plan: What is asked for.
        seen: The fingerprints of the examples; of a list all of them, of a stream those so far.
    """

    folder: Path
    run: str
    plan: Plan
    seen: Fingerprint
    _heads: dict[int, Head] = field(default_factory=dict)
    _known: dict[int, Head] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Read what each part says of itself.

        Raises:
            InputError: One was changed, or is of another evaluation.
        """
        pairs = set(self.pairs)
        for path in parts(self.folder):
            head = read_head(path)
            if head.run != self.run or not set(head.judged) <= pairs:
                raise InputError(
                    f"{path} is of another evaluation than the others in its folder: remove it to "
                    "compute it again"
                )
            self._known[head.batch] = head

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Every method with every metric, in the order of the plan."""
        return [
            (str(method), str(metric)) for method in self.plan.methods
            for metric in self.plan.metrics
        ]  # fmt: skip

    def waiting(
        self, batches: Iterator[list[Numbered]], report: Callable[[int], None]
    ) -> Iterator[Part]:
        """The batches that lack rows; reports the others.

        Raises:
            InputError: A part is of other examples, or of none.
        """
        whole = self.seen.number > 0
        for number, numbered in enumerate(batches):
            if not whole:
                for _, example in numbered:
                    self.seen.add(example)
            first = numbered[0][0]
            examples = tuple(self.seen.examples[first : first + len(numbered)])
            self._heads[number] = Head(number, self.run, examples, tuple(self.pairs))
            known = self._judged(number, examples)
            if known >= set(self.pairs):
                report(len(numbered))
            else:
                yield Part(number, len(numbered), numbered, known=frozenset(known))
        beyond = [number for number in self._known if number not in self._heads]
        if beyond:
            raise InputError(
                f"{part_path(self.folder, min(beyond))} is of a batch that this data set has not: "
                "remove it"
            )

    def _judged(self, number: int, examples: Sequence[str]) -> set[tuple[str, str]]:
        """Which pairs of a batch have rows."""
        head = self._known.get(number)
        if head is None:
            return set()
        if head.examples != examples[: len(head.examples)]:
            raise InputError(
                f"{part_path(self.folder, number)} is of other data: its examples are not those of "
                "its batch. Give another --output, or remove it to compute it again"
            )
        return set(head.judged) if len(head.examples) == len(examples) else set()

    def write(self, part: Part) -> None:
        """Write the new rows of a batch, beside those that it had."""
        rows = part.rows
        if part.known:
            old = list(read_part(part_path(self.folder, part.number)))
            rows = joined(old, rows, self.pairs)
        write_part(self.folder, part.number, rows, self._heads[part.number])
