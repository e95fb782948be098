"""Gradient norm: how strongly the target answers to a small change of each token."""

from torch import Tensor

from relmap.methods import METHODS
from relmap.relevance.entering_tokens import read_entrance
from relmap.relevance.traced_pass import RecordedPass
from relmap.trace.graph import Activation


@METHODS.register(
    "gradient-norm",
    reference="Simonyan et al., ICLR workshop 2014; Li et al., NAACL 2016",
    needs=("stream-gradient",),
    target_dependent=True,
)
def gradient_norm(passed: RecordedPass, *, squared: bool = False) -> dict[int, Tensor]:
    """Euclidean norm of the gradient at every token that enters, |dy/dx_j|; without a sign."""

    def square(activation: Activation) -> Tensor | None:
        gradient = passed.gradient(activation)
        return None if gradient is None else gradient.square()

    sums = read_entrance(passed, square)
    return sums if squared else {state: row.sqrt() for state, row in sums.items()}
