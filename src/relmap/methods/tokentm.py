"""TokenTM: token transformation matters (Wu, Duan, Kang, Tang & Yan, CVPR 2024).

An attention does not only mix tokens, it also changes each of them: E -> Ẽ. How much a token's
change counts is measured by its length and by its direction, compared with the example's others,

    w_i = |Ẽ_i| / |E_i| NECC_i                                                   (eq. 12)
    NECC_i = exp cos(E_i, Ẽ_i) / sum_k exp cos(E_k, Ẽ_k)                         (eq. 13)

and the layers are multiplied, with W = diag(w):

    U_MHSA = I + E_h[(dA_h)+ * A_h W_h],   Ẽ_h = E W_V^h W_O^h                   (eq. 14, 15)
    U_FFN = I + W_FFN,   Ẽ = FFN(E)                                              (eq. 16, 17)
    C = U_FFN^L U_MHSA^L ... U_FFN^1 U_MHSA^1 diag(|E^0|)                        (eq. 18)

C is linear in what it starts from, so the rows that the target reads are pushed down.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from relmap.errors import InputError
from relmap.methods import METHODS
from relmap.relevance.attention_maps import Tile, mean_over_heads, require_all_heads, wide
from relmap.relevance.join_weights import both_scaled
from relmap.relevance.maps import Maps, carry_maps, gather
from relmap.relevance.padding import padding_of_states
from relmap.relevance.rows import PropagationRule, RecordedPass, moved_values, push_rows
from relmap.relevance.token_changes import entering, head_outputs, unknown
from relmap.relevance.token_rows import Table, to_rows
from relmap.trace.graph import Activation, Attention, State, TokenGraph


def tokentm_maps(passed: RecordedPass, *, start_layer: int = 0, **options: Any) -> Maps:
    """The whole map C of every state, with the options of `tokentm`."""
    measured = _Measured(passed, **options)
    maps = carry_maps(passed, measured.rule(start_layer))
    for leaf, lengths in measured.initial_lengths().items():
        if leaf in maps.leaves:
            columns = gather(maps, leaf, lengths.to(maps.dtype))[:, None, :]
            for blocks in maps.blocks.values():
                if leaf in blocks:
                    blocks[leaf] = blocks[leaf] * columns
    return maps


@METHODS.register(
    "tokentm",
    aliases=("token-tm", "token-transformation-matters"),
    reference="Wu et al., CVPR 2024 (arXiv 2403.14552), eq. 12-18",
    needs=("attention", "attention-gradient", "join-gradient", "replay"),
    target_dependent=True,
    families=("gradient",),
    requires="value vectors that are projected from the key tokens",
    maps=tokentm_maps,
)
def tokentm(
    passed: RecordedPass,
    *,
    reading: Literal["paper", "libragrad"] = "paper",
    length: bool = True,
    necc: bool = True,
    initialization: bool = True,
    mhsa: bool = True,
    ffn: bool = True,
    start_layer: int = 0,
) -> dict[int, Tensor]:
    """Gradient-weighted attention that counts how long and how straight each token stays.

    E is the residual stream entering a sub-layer, without the norm and the biases of the sub-layer.
    `reading="libragrad"` is that of LibraGrad's code: Ẽ is the stream after the attention and after
    the feed-forward branch, residual included, and U_MHSA = I + E_h[A] W * E_h[(dA)+]. The paper's
    ablations: `length=False` and `necc=False` put 1 in the place of the factor, in both updates;
    `initialization=False` starts from I; `mhsa=False` takes W_h = I, which leaves gradient-weighted
    attention; `ffn=False` takes U_FFN = I. `start_layer` skips the first layers of each stream.

    The sum of NECC runs over the tokens of one example, padding excluded. In cross-attention the
    keys are the tokens that change; keys that only are read stand as they are read. An attention
    without a residual stream has W_h = I, and a feed-forward branch counts where it is added to the
    stream of an attention. Since NECC shrinks with the number of tokens, the map is nearly a sum
    over layers. Use it to compare with; in independent evaluations it is about as faithful as
    `genatt`, which costs less.

    Raises:
        InputError: what an attention makes of a token by itself is not known, or has another width.
    """
    measured = _Measured(passed, reading, length, necc, initialization, mhsa, ffn)
    found = push_rows(passed, measured.rule(start_layer))
    for state, lengths in measured.initial_lengths().items():
        if state in found:
            found[state] = found[state] * lengths.to(found[state])
    return found


@dataclass(eq=False)
class _Measured:
    """How much the changes of tokens count in one pass, measured when first asked for."""

    passed: RecordedPass
    reading: str = "paper"
    length: bool = True
    necc: bool = True
    initialization: bool = True
    mhsa: bool = True
    ffn: bool = True
    padding: list[Tensor] = field(init=False)
    joins: dict[int, State] = field(init=False)
    of_inputs: list[bool] = field(init=False)
    _weights: dict[int, Tensor | None] = field(init=False, default_factory=dict[int, Any])

    def __post_init__(self) -> None:
        graph = self.passed.graph
        self.padding = padding_of_states(self.passed)
        self.joins = {index: state for state in graph.states for index in state.attentions}
        self.of_inputs = _of_inputs(graph)

    def rule(self, start_layer: int) -> PropagationRule:
        """U_FFN U_MHSA as a rule of accumulation; both addends of a join are scaled by U_FFN."""
        mix = self._mixed_by_head if self.reading == "paper" else self._mixed_by_mean
        return PropagationRule(mix, both_scaled, self._feed_forward, True, start_layer)

    def initial_lengths(self) -> dict[int, Tensor]:
        """|E^0|: tokens as they enter their first attention, by the states they come from."""
        graph = self.passed.graph
        found: dict[int, Tensor] = {}
        if not self.initialization:
            return found
        for state in graph.states:
            if not state.attentions:
                calls = (call for call in graph.attentions if call.key_state == state.index)
                activation = entering(graph, state.index, next(calls, None))
                if activation is not None:
                    lengths = self._table(activation, state.index).norm(dim=-1)
                    _hand_down(graph, state, lengths, found)
        return found

    def _mixed_by_head(self, tile: Tile) -> Float[Tensor, "group row key"]:
        assert tile.gradient is not None
        mixed = tile.gradient.clamp_min(0) * tile.probabilities
        weights = self._weights_of(tile.attention)
        return mean_over_heads(tile, mixed if weights is None else mixed * weights.to(mixed))

    def _mixed_by_mean(self, tile: Tile) -> Float[Tensor, "group row key"]:
        assert tile.gradient is not None
        require_all_heads(tile.attention)
        mixed = tile.gradient.clamp_min(0).mean(dim=1) * tile.probabilities.mean(dim=1)
        weights = self._weights_of(tile.attention)
        return mixed if weights is None else mixed * weights[:, 0].to(mixed)

    def _weights_of(self, call: Attention) -> Float[Tensor, "group head 1 key"] | None:
        """W of the keys of a call; None for I."""
        state = self.joins[call.index]
        # What flows to tokens that no input had a part in is never read.
        if not self.mhsa or not state.links or not self.of_inputs[call.key_state]:
            return None
        if call.index not in self._weights:
            by_token = self._by_token(state, call)
            columns = call.column_tokens.to(by_token.device)
            weights = by_token[columns.clamp_min(0)] * (columns >= 0)[..., None]
            self._weights[call.index] = weights.transpose(1, 2)[:, :, None]
        return self._weights[call.index]

    def _by_token(self, state: State, call: Attention) -> Float[Tensor, "token head"]:
        graph, replay = self.passed.graph, self.passed.replay
        activation = entering(graph, call.key_state, call)
        if activation is None:
            raise unknown(call)
        before = self._table(activation, call.key_state)
        if self.reading == "paper":
            after = head_outputs(replay, graph, state, call, before)
            counted = [self._count(call.key_state, before, one, call.module) for one in after]
            return torch.stack(counted, dim=1)
        onward = graph.states[call.key_state].onward
        own = state.stream if state.links[0].parent == call.key_state else None
        stream = own or (None if onward is None else onward[1])
        after = before if stream is None else self._table(stream, call.key_state)
        return self._count(call.key_state, before, after, call.module)[:, None]

    def _feed_forward(self, passed: RecordedPass, state: State) -> Float[Tensor, " token"]:
        """The diagonal of U_FFN: 1 + w for each feed-forward branch added to the stream."""
        found = torch.ones(state.tokens, device=passed.graph.device())
        for stream, branch in state.additions if self.ffn else ():
            before, after = (self._table(one, state.index) for one in (stream, branch))
            if self.reading == "libragrad":
                after = before + after
            weights = self._count(state.index, before, after, state.module)
            found = found.to(weights) * (1 + weights)
        return found.to(passed.graph.device())

    def _count(
        self, state: int, before: Table, after: Float[Tensor, "token other"], module: str
    ) -> Float[Tensor, " token"]:
        """How much the change of each token counts (eq. 12)."""
        found = torch.ones_like(before[:, 0])
        lengths = before.norm(dim=-1), after.norm(dim=-1)
        if self.length:
            found = found * lengths[1] / lengths[0].clamp_min(1e-8)
        if not self.necc:
            return found
        if before.shape != after.shape:
            raise InputError(
                f"tokentm compares tokens before and after {module}, which are "
                f"{before.shape[1]} and {after.shape[1]} numbers wide; use necc=False, or genatt"
            )
        norms = (lengths[0] * lengths[1]).clamp_min(1e-8)
        return found * self._share(state, ((before * after).sum(dim=-1) / norms).exp())

    def _share(self, state: int, values: Float[Tensor, " token"]) -> Float[Tensor, " token"]:
        """Values divided by their sum over the tokens of the example (eq. 13)."""
        graph = self.passed.graph
        examples = graph.examples[state]
        counted = (examples >= 0) & ~self.padding[state]
        examples = examples.to(values.device).clamp_min(0)
        values = values * counted.to(values)
        total = values.new_zeros(graph.batch).index_add(0, examples, values)
        return values / total.clamp_min(1e-8)[examples]

    def _table(self, activation: Activation, state: int) -> Table:
        tokens = self.passed.graph.states[state].tokens
        return to_rows(activation, wide(self.passed.replay.value(activation)), tokens)


def _hand_down(graph: TokenGraph, state: State, lengths: Tensor, found: dict[int, Tensor]) -> None:
    """Lengths of the tokens of a state, for the tokens that it is made of without attention."""
    if state.attentions:
        return
    known = found.get(state.index)
    found[state.index] = lengths if known is None else torch.where(known == 0, lengths, known)
    for link in state.links:
        _hand_down(
            graph, graph.states[link.parent], moved_values(link, lengths, graph.states), found
        )


def _of_inputs(graph: TokenGraph) -> list[bool]:
    """Whether any input had a part in a state, by links or attention."""
    found: list[bool] = []
    for state in graph.states:
        keys = [graph.attentions[index].key_state for index in state.attentions]
        parents = [link.parent for link in state.links]
        found.append(state.kind == "source" or any(found[one] for one in (*keys, *parents)))
    return found
