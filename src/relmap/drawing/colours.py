"""From raw relevance to colour: the only place where scores are scaled.

Scores of one sign run from their smallest to their largest value on a sequential map; scores of
both signs run symmetrically around zero on a diverging one, red for what speaks for the target and
blue for what speaks against it. Both maps are perceptually ordered. Legends show raw values.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

if TYPE_CHECKING:
    import matplotlib.colors

GREY = (0.88, 0.88, 0.88)
INK = (0.13, 0.13, 0.13)
FAINT = (0.45, 0.45, 0.45)


@dataclass(frozen=True)
class Scale:
    """The values that the two ends of the colour map stand for."""

    low: float
    high: float

    @property
    def signed(self) -> bool:
        """Whether scores of both signs are shown, so that zero has a colour of its own."""
        return self.low < 0 < self.high

    @property
    def norm(self) -> "matplotlib.colors.Normalize":
        """From a raw value to 0..1 along the colour map."""
        from matplotlib.colors import Normalize

        return Normalize(self.low, self.high, clip=True)

    @property
    def picture_map(self) -> "matplotlib.colors.Colormap":
        """Colours to lay over a picture."""
        from matplotlib import colormaps

        return colormaps["RdBu_r" if self.signed else "inferno"]

    @property
    def word_map(self) -> "matplotlib.colors.Colormap":
        """Colours to lay under black text: light at the unimportant end."""
        from matplotlib.colors import LinearSegmentedColormap

        blue, white, red = "#3f7fbf", "#ffffff", "#e0523f"
        ends = [blue, white, red] if self.signed else [white, "#fbb9a6", red]
        return LinearSegmentedColormap.from_list("relmap-words", ends)

    @property
    def ticks(self) -> list[float]:
        """The values to name in a legend."""
        return [self.low, 0.0, self.high] if self.signed else [self.low, self.high]


def scale_of(scores: Float[Tensor, "*shape"], content: Bool[Tensor, "*shape"]) -> Scale:
    """The scale of the scores that count: min to max, or symmetric where both signs occur.

    Example:
        >>> import torch
        >>> scale_of(torch.tensor([-1.0, 3.0, 9.0]), torch.tensor([True, True, False]))
        Scale(low=-3.0, high=3.0)
    """
    values = scores.detach().cpu().double()[content.cpu()].numpy()
    values = values[np.isfinite(values)]
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)
    if low < 0 < high:
        low, high = -max(-low, high), max(-low, high)
    elif low == high:
        low, high = min(low, 0.0), max(high, 0.0)
    return Scale(low, high if high > low else low + 1.0)


def number(value: float) -> str:
    """A value as a legend prints it: three digits, no trailing zeros."""
    return "0" if value == 0 else f"{value:.3g}".replace("-", "−").replace("e−0", "e−")
