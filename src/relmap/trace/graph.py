"""The token graph: what one forward pass did to tokens, and nothing else.

A *state* is a set of tokens at one moment (the embedded words, the residual stream after an
attention). States are numbered in the order in which they were made, so walking them backwards
visits every state after everything that was made from it. A state is made from its parents by
*links* (which token came from which) and, where it is a residual join, by *attentions* whose
output was added. This file holds data only: who fills it is `relmap.record`, who pushes relevance
through it is `relmap.relevance.rows`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.autograd.graph import GradientEdge

StateKind = Literal["source", "learned", "join", "concatenation", "merge", "sum"]


@dataclass(frozen=True, eq=False)
class Arrangement:
    """How a tensor of one call is laid out as (group, head, row, feature).

    `permutation` brings the axes into the order (groups, heads, row, feature), `shape` is the
    shape (group, head, row, feature) they are then folded into. `heads_first` says that the
    leading axis was a fold of heads and groups in this order (`bmm` on head x batch).
    """

    permutation: tuple[int, ...]
    groups: int
    heads: int
    heads_first: bool = False

    def apply(self, tensor: Tensor) -> Shaped[Tensor, "group head row feature"]:
        """Lay a tensor of the call out as (group, head, row, feature)."""
        moved = tensor.permute(self.permutation)
        row, feature = moved.shape[-2:]
        if self.heads_first:
            return moved.reshape(self.heads, self.groups, row, feature).transpose(0, 1)
        return moved.reshape(self.groups, self.heads, row, feature)


@dataclass(frozen=True, eq=False)
class Activation:
    """A tensor of the forward pass: where its gradient arrives, and whose tokens it holds.

    `tokens` has the rank of the tensor, with size 1 along feature axes; -1 marks padding. `value`
    is kept only for methods that ask for it, so that a pass holds no more memory than it must;
    `version` tells whether it was overwritten since.
    """

    shape: tuple[int, ...]
    edge: GradientEdge | None
    tokens: Int[Tensor, "..."]
    value: Tensor | None = None
    version: int = 0


@dataclass(frozen=True, eq=False)
class Link:
    """Which token of a state came from which token of a parent.

    Pairs (child[i], parent[i]); both None when every token came from the token of the same number.
    """

    parent: int
    child_tokens: Int[Tensor, " pair"] | None = None
    parent_tokens: Int[Tensor, " pair"] | None = None


@dataclass(frozen=True, eq=False)
class Attention:
    """One attention call: queries of one state read keys and values of another.

    Where the model ran a fused kernel, `probabilities` is None and A = softmax(scale q k^T + mask)
    is rebuilt from `query`, `key`, `mask`; where it ran a softmax of its own, `probabilities` is
    that very tensor and `query`, `key` are None. Arrays are laid out as (group, head, token,
    feature): groups share no token row, heads share all of them. `key_tokens` counts the tokens of
    the key state; `row_copies` says how many rows each query token has in this call where some have
    more than one.

    `share` is below 1 where an attention is computed in several calls, some heads in each: how
    large a part of all its heads the call makes, so that means over heads are sums of shares.

    A *mixer* is a part of the network that mixes tokens by something else: it has no map and no
    values, `entered` holds the tokens as they went in, and `output` those that came out.

    Only where a method runs the network again: `value_input` is what the value projection read,
    `value_output` the value vectors as the network has them, `lay_values` brings those into the
    layout of `value`.
    """

    index: int
    query_state: int
    key_state: int
    row_tokens: Int[Tensor, "group query"]
    column_tokens: Int[Tensor, "group key"]
    value: Float[Tensor, "group value_head key feature"]
    output: Activation
    output_arrangement: Arrangement
    query: Float[Tensor, "group head query dim"] | None = None
    key: Float[Tensor, "group key_head key dim"] | None = None
    probabilities: Float[Tensor, "group head query key"] | None = None
    mask: Tensor | None = None
    causal: bool = False
    scale: float | None = None
    module: str = ""
    key_tokens: int = 0
    row_copies: Int[Tensor, " token"] | None = None
    value_input: Activation | None = None
    value_output: Activation | None = None
    lay_values: Callable[[Tensor], Tensor] | None = None
    entered: tuple[Activation, ...] = ()
    share: float = 1.0

    @property
    def is_mixer(self) -> bool:
        """Whether the call mixes tokens by something else than softmax attention."""
        return bool(self.entered)

    @property
    def groups(self) -> int:
        """Number of groups: usually the batch, or batch x windows."""
        return self.row_tokens.shape[0]

    @property
    def heads(self) -> int:
        """Number of attention heads."""
        return self.output_arrangement.heads


@dataclass(frozen=True, eq=False)
class State:
    """A set of tokens at one moment of the forward pass.

    * `source`: tokens made from a forward argument; `learned`: tokens made from parameters alone;
    * `join`: residual stream + attention output. Without a residual (`links` empty) relevance
      passes wholly to the keys;
    * `concatenation`: tokens of several states side by side, or written into one another;
    * `merge`: tokens made of several tokens each; `sum`: two states added token by token.

    `rows` maps the join's own tokens to the rows of its attentions (None: the same numbers).
    `stream` is the state where it was made, `end` the same tokens after the last addition to them
    (a feed-forward branch). `additions` is what such branches were computed from, and what they
    add; `onward` is the tokens as they enter the next join of their stream, explained or not, and
    behind it. These are known only where a method runs the network again.
    """

    index: int
    kind: StateKind
    tokens: int
    shape: tuple[int, ...]
    links: tuple[Link, ...] = ()
    attentions: tuple[int, ...] = ()
    rows: Link | None = None
    stream: Activation | None = None
    end: Activation | None = None
    additions: tuple[tuple[Activation, Activation], ...] = ()
    onward: tuple[Activation, Activation] | None = None
    residual: Activation | None = None
    branch: Activation | None = None
    operands: tuple[Activation, ...] = ()
    names: tuple[str, ...] = ()
    module: str = ""


@dataclass(frozen=True, eq=False)
class Source:
    """The tokens of one forward argument, in the order in which they enter the first attention.

    `state` is the state whose relevance is reported: the argument's own tokens, or, where learned
    tokens (CLS, registers) were put beside them at once, that concatenation. `tokens[b, i]` is the
    token number in `state`, -1 where example b has fewer tokens. `elements[b, i]` is the number of
    the token among those that the argument itself made, -1 for learned tokens. `grid` is (rows,
    columns) or (frames, rows, columns) of the patches, `patches` their positions among the tokens,
    in row-major order.
    """

    name: str
    names: tuple[str, ...]
    state: int
    tokens: Int[Tensor, "batch token"]
    elements: Int[Tensor, "batch token"]
    grid: tuple[int, ...] | None = None
    patches: Int[Tensor, " patch"] | None = None


@dataclass(frozen=True, eq=False)
class Bias:
    """A constant that an operation added to tokens: z = f(x) + b.

    `output` is z, `value` is b, which broadcasts against z. The `tokens` of z come from those of
    the states that `links` name: one for one, or several where z was pooled behind the last state.
    """

    output: Activation
    value: Tensor
    tokens: int
    links: tuple[Link, ...]


@dataclass(frozen=True, eq=False)
class TokenGraph:
    """Sources, token states and the attention calls between them, of one forward pass.

    `finals` are the states that the explained output reads, grouped by what reads them together
    (the two sides of a similarity are two groups). `examples[state]` says which example of the
    batch each token belongs to. `calls` counts all attentions that ran, also those that the output
    was not made of. `approximate` names places where tokens see their neighbours on other ways.
    `biases` are None where no method asked for them. `blank` is an empty tensor on the device and
    of the type that relevance is computed from. `lost` says where the trace ended, if what the
    output was made of could not be followed: then there are sources and nothing else.
    """

    states: tuple[State, ...]
    attentions: tuple[Attention, ...]
    finals: tuple[tuple[int, ...], ...]
    sources: tuple[Source, ...]
    batch: int
    examples: tuple[Tensor, ...]
    approximate: tuple[str, ...] = ()
    calls: int = 0
    biases: tuple[Bias, ...] | None = None
    blank: Tensor = field(default_factory=lambda: torch.empty(0))
    lost: str = ""

    def device(self) -> torch.device:
        """Device on which relevance is accumulated: the one of the attention values."""
        return self.blank.device

    @property
    def mixers(self) -> tuple[str, ...]:
        """The parts of the network that mix tokens by something else than softmax attention."""
        return tuple(dict.fromkeys(one.module for one in self.attentions if one.is_mixer))

    @property
    def grade(self) -> str:
        """How far the trace can be trusted: exact, mixers, approximate or sources only."""
        if self.lost:
            return "sources only"
        if self.mixers:
            return "mixers"
        return "approximate" if self.approximate else "exact"
