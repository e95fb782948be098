"""TAM: the Token Activation Map of a generated word, cleared of the words before it.

With y_k the scores of a vision-language model at position k, w the explained token and t_k the
token at position k, over the visual positions v:

    a = (y_v[w])+,   a_k = (y_v[t_k])+,   p_k = (y_k[w])+
    E = sum_k p_k a_k / sum_k p_k,        s = <a, E> / <E, E>            (estimated interference)
    R = (a - s E)+

Image and words are scaled to [0, 1] together and the image is smoothed by a rank Gaussian filter.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from relmap.errors import InputError
from relmap.methods import METHODS
from relmap.relevance.attention_maps import head_mean, wide
from relmap.relevance.join_weights import residual_alone
from relmap.relevance.rows import PropagationRule, RecordedPass, push_rows
from relmap.relevance.streams import made_of_flagged
from relmap.trace.graph import TokenGraph

_TEXT = ("input_ids", "inputs_embeds")
_INSTEAD = "use method='genatt', which explains any attention model"


@METHODS.register(
    "tam",
    aliases=("token-activation-map",),
    reference="Li et al., ICCV 2025 (Token Activation Map), eq. 2-6",
    needs=("graph", "output"),
    target_dependent=True,
    requires="a language model with image tokens among its words, and one token to explain",
)
def tam(
    passed: RecordedPass, *, interference: bool = True, denoise: bool = True
) -> dict[int, Tensor]:
    """Scores of the explained token at the visual positions, less what earlier words explain.

    R_v = (a_v - s E_v)+, a the positive scores of the token at the image's positions, E those of
    the words before it, weighted by how much each speaks for the token; words get p_k, their own
    positive score of it. `interference=False` leaves s E out (a logit lens on the image), `denoise`
    smooths the map by a 3 x 3 rank Gaussian filter. All words before the token count, those of a
    chat template too; the first counts with the token that the model would say there. Which token
    is explained is read off the target: where its gradient at the scores is largest. Use it for
    the words of generating vision-language models, one token at a time: no gradient, one forward
    pass. It looks at the last layer only, so it cannot say how the image reached a word.

    Raises:
        InputError: the model is no such language model, the target reads several positions, or the
            grid of the image is not known (`denoise=False` needs none).
    """
    graph = passed.graph
    logits, gradient, ids = _language(passed)
    final = _final(passed, logits)
    visual = _visual(graph)[final]
    row = torch.zeros(graph.states[final].tokens, dtype=wide(logits).dtype, device=logits.device)
    for example in range(graph.batch):
        tokens = torch.nonzero(graph.examples[final] == example).flatten().to(logits.device)
        position = _position(gradient[example])
        before = torch.arange(len(tokens), device=logits.device) <= position
        seen = visual.to(logits.device)[tokens] & before
        said = before & ~seen & _real(passed, example, ids)
        if not seen.any():
            raise InputError(
                f"tam maps a word onto image tokens among the words, and there are none before the "
                f"explained one; {_INSTEAD}"
            )
        word = int(gradient[example, position].argmax())
        found = _map(wide(logits[example]), ids[example], word, (seen, said), interference)
        image, words = _scaled(*found)
        if denoise:
            image = _denoised(image, _grid(passed, example, len(image)))
        row[tokens[seen]], row[tokens[said]] = image, words
    rule = PropagationRule(head_mean, residual_alone, None, gradient=False)
    return push_rows(passed, rule, {final: row.to(graph.device())})


def _language(passed: RecordedPass) -> tuple[Tensor, Tensor, Tensor]:
    """The scores at every position, dy/d of them, and the token numbers that were read."""
    ids = passed.given.get("input_ids")
    if isinstance(ids, Tensor) and ids.ndim == 2 and "decoder_input_ids" not in passed.given:
        for logits, gradient in passed.outputs:
            if logits.ndim == 3 and logits.shape[:2] == ids.shape:
                return logits, gradient, ids.to(logits.device)
    raise InputError(
        "tam reads the scores of a language model at every position of `input_ids`, image tokens "
        f"included, and this target reads no such scores; {_INSTEAD}"
    )


def _final(passed: RecordedPass, logits: Tensor) -> int:
    """The state whose tokens are the positions of the scores."""
    graph = passed.graph
    finals = {index for group in graph.finals for index in group}
    counts = [
        torch.bincount(graph.examples[index].clamp_min(0), minlength=graph.batch)
        for index in finals
    ]
    if len(finals) != 1 or bool((counts[0] != logits.shape[1]).any()):
        raise InputError(f"tam cannot tell the positions of this model's scores apart; {_INSTEAD}")
    return finals.pop()


def _visual(graph: TokenGraph) -> list[Bool[Tensor, " token"]]:
    """For every state, which tokens go back to something else than text over residual links."""
    found: list[Tensor] = []
    for state in graph.states:
        is_source = state.kind == "source" and not any(name in _TEXT for name in state.names)
        found.append(torch.full((state.tokens,), is_source) | made_of_flagged(state, found))
    return found


def _position(gradient: Float[Tensor, "token vocabulary"]) -> int:
    """The position whose scores the target reads."""
    read = torch.nonzero((gradient != 0).any(dim=-1)).flatten()
    if len(read) != 1:
        raise InputError(
            f"tam explains one token at a time, and the target reads the scores of {len(read)} "
            "positions; name one, such as relmap.targets.generated_tokens(3, index=0)"
        )
    return int(read[0])


def _real(passed: RecordedPass, example: int, ids: Int[Tensor, "batch token"]) -> Tensor:
    mask = passed.given.get("attention_mask")
    if isinstance(mask, Tensor) and mask.shape == ids.shape:
        return mask[example].to(ids.device) > 0
    return torch.ones_like(ids[example], dtype=torch.bool)


def _map(
    logits: Float[Tensor, "token vocabulary"], ids: Int[Tensor, " token"], word: int,
    places: tuple[Tensor, Tensor], interference: bool,
) -> tuple[Float[Tensor, " seen"], Float[Tensor, " said"]]:  # fmt: skip
    """R at the visual positions, p at those of the words."""
    seen, said = places
    image, words = logits[seen, word].clamp_min(0), logits[said, word].clamp_min(0)
    if not interference or not bool(said.any()):
        return image, words
    names = ids[said]
    names[0] = logits[said][0].argmax()
    others = (names != word) & (words > 0)
    maps = logits[seen][:, names[others]].clamp_min(0)
    total = words[others].sum()
    expected = (maps * words[others]).sum(dim=1) / torch.where(total > 0, total, 1)
    power = expected @ expected
    scale = torch.where(power > 0, image @ expected / torch.where(power > 0, power, 1), 0)
    return (image - scale * expected).clamp_min(0), words


def _scaled(image: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
    """Both in [0, 1] by their joint least and largest value."""
    both = torch.cat([image, words])
    least, span = both.min(), both.max() - both.min()
    span = torch.where(span > 0, span, 1)
    return (image - least) / span, (words - least) / span


def _grid(passed: RecordedPass, example: int, count: int) -> tuple[int, int, int]:
    """Frames, rows and columns of the visual tokens, each of one patch or of several."""
    sizes = passed.given.get("image_grid_thw")
    # Several grids of one example are crops, which the model may have put together anew.
    grids = [one.grid for one in passed.graph.sources if one.grid and len(one.grid) == 2]
    if isinstance(sizes, Tensor) and len(sizes) == passed.graph.batch:
        grids = [tuple(int(size) for size in sizes[example])]
    for grid in grids:
        frames, rows, columns = (1, *grid) if len(grid) == 2 else grid
        block = math.isqrt(frames * rows * columns // count)
        even = block > 0 and rows % block == 0 and columns % block == 0
        if even and frames * (rows // block) * (columns // block) == count:
            return frames, rows // block, columns // block
    raise InputError(
        f"tam cannot lay out the {count} visual tokens of example {example} as the grid of one "
        "image, which its filter needs; pass denoise=False"
    )


def _denoised(image: Float[Tensor, " seen"], grid: tuple[int, int, int]) -> Float[Tensor, " seen"]:
    """Rank Gaussian filter: a Gaussian over the ranks in each 3 x 3 window, sigma = std / mean.

    Where the window is even the median is kept, where it is noisy its values are averaged.
    """
    frames, rows, columns = grid
    mode = "reflect" if min(rows, columns) > 1 else "replicate"
    padded = functional.pad(image.reshape(frames, 1, rows, columns), (1, 1, 1, 1), mode=mode)
    windows = functional.unfold(padded, 3).transpose(1, 2).sort(dim=-1).values
    mean = windows.mean(dim=-1, keepdim=True)
    spread = windows.std(dim=-1, keepdim=True, unbiased=False)
    sigma = spread / torch.where(mean > 0, mean, 1)
    distance = torch.arange(-4, 5, device=image.device).to(image.dtype) ** 2
    bell = torch.exp(-distance / torch.where(sigma > 0, 2 * sigma**2, 1))
    weights = torch.where(sigma > 0, bell, (distance == 0).to(image.dtype))
    return ((weights * windows).sum(dim=-1) / weights.sum(dim=-1)).reshape(-1)
