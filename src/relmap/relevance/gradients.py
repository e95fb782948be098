"""From a recorded forward pass and a target to everything a method works on.

The target is computed on a detached copy of the output, so that what it reads directly is known;
then one call of autograd brings all gradients that the method asked for, down to the tokens and no
further, and touches no `.grad`.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import CheckpointError

from relmap.backwards.operation_rules import BackwardContext
from relmap.errors import InputError, TraceError
from relmap.relevance.attention_maps import per_token, wide
from relmap.relevance.mixer_rows import without_map
from relmap.relevance.needs import GRADIENTS, Need, read_needs, reads_graph
from relmap.relevance.traced_pass import RecordedPass, activations_of
from relmap.trace import Recorded, build_graph, graph_of_sources
from relmap.trace.graph import Activation, TokenGraph


@dataclass(eq=False)
class OutputCopy:
    """A copy of a model output whose tensors are leaves, beside the tensors it was copied from."""

    output: Any
    pairs: list[tuple[Tensor, Tensor]]


def copy_output(output: Any) -> OutputCopy:
    """Cut the target off from the network: same structure, detached floating tensors."""
    leaves: dict[int, tuple[Tensor, Tensor]] = {}
    return OutputCopy(_copied(output, leaves), list(leaves.values()))


def _copied(value: Any, leaves: dict[int, tuple[Tensor, Tensor]]) -> Any:
    # No inner function: one that calls itself would hold on to the output of the network.
    if isinstance(value, Tensor):
        if not value.dtype.is_floating_point:
            return value
        if id(value) not in leaves:
            leaves[id(value)] = (value, value.detach().requires_grad_())
        return leaves[id(value)][1]
    if isinstance(value, dict):
        return _like(value, {key: _copied(part, leaves) for key, part in value.items()})
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_copied(part, leaves) for part in value))
    if isinstance(value, (tuple, list)):
        return type(value)(_copied(part, leaves) for part in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        twin = copy.copy(value)
        for field in dataclasses.fields(value):
            object.__setattr__(twin, field.name, _copied(getattr(value, field.name), leaves))
        return twin
    return value


def _like(value: dict[Any, Any], parts: dict[Any, Any]) -> Any:
    """A mapping of the same kind: model outputs are built from their fields."""
    if dataclasses.is_dataclass(value):
        return type(value)(**parts)
    return type(value)(parts)


def follow_each(
    recorded: Recorded,
    copied: OutputCopy,
    targets: Sequence[Float[Tensor, " batch"]],
    needs: Sequence[str],
    passage: BackwardContext | None = None,
) -> Iterator[RecordedPass]:
    """The token graph under one target after another: one forward pass, one gradient for each.

    With the passage of a relevance backward, relevance follows each gradient.

    Raises:
        TraceError: a target reads no token, or reads attention that was not followed.
    """
    tensors: list[Tensor] = []
    graph, kept, stray, followed = None, [], [], frozenset[int]()
    declared = frozenset(read_needs(needs))
    for count, values in enumerate(targets, start=1):
        read, starts = _read_outputs(copied, values)
        if graph is None or [id(one) for one in read] != [id(one) for one in tensors]:
            tensors, graph = read, _graph(recorded, read, len(values), declared)
            stray = _stray_attentions(recorded, graph)
            wanted = [*_activations(graph, declared & GRADIENTS), *stray]
            followed = frozenset(map(id, wanted))
            kept = [one for one in wanted if one.edge is not None]
        edges = [one.edge for one in kept if one.edge is not None]
        if not edges:
            raise TraceError(
                "no token of this network takes part in autograd: its forward runs under "
                "no_grad, or in code with a backward of its own (reversible layers)"
            )
        more = count < len(targets)
        relevant = passage is not None and passage.family == "relevance"
        # A mixer is asked for the Jacobian of its part of the pass.
        again = more or relevant or bool(graph.mixers)
        found = _follow(tensors, edges, starts, again)
        pairs = zip(kept, found, strict=True)
        gradients = {id(one): gradient for one, gradient in pairs if gradient is not None}
        missed = _missed(stray, gradients)
        if missed and reads_graph(declared):
            raise TraceError(missed)
        read = [(one.detach(), start) for one, start in zip(tensors, starts, strict=True)]
        known = replace(graph, lost=missed) if missed else graph
        readout = {} if known.lost else _readout(known, gradients)
        if known.lost:
            _check_sources(gradients, declared)
        passed = RecordedPass(known, readout, gradients, declared, followed, outputs=tuple(read))
        if passage is not None and relevant:
            passed = _with_relevance(passed, recorded, (tensors, starts), passage, more)
        yield passed


def _graph(
    recorded: Recorded, read: Sequence[Tensor], batch: int, needs: Collection[Need]
) -> TokenGraph:
    """The token graph; of a trace that was lost the sources alone, for methods that need no more.

    Raises:
        TraceError: the trace was lost, and the method reads it.
    """
    try:
        graph = build_graph(recorded, read, batch)
    except TraceError as error:
        if reads_graph(needs):
            raise
        return graph_of_sources(recorded, batch, str(error))
    if graph.mixers and reads_graph(needs) and Need.CONTRIBUTION not in needs:
        raise TraceError(without_map(graph.mixers[0]))
    return graph


def _follow(
    outputs: Sequence[Tensor], to: Sequence[Any], starts: Sequence[Tensor], again: bool
) -> tuple[Tensor | None, ...]:
    try:
        return torch.autograd.grad(outputs, to, starts, allow_unused=True, retain_graph=again)
    except CheckpointError as error:
        raise TraceError(
            "gradient checkpointing runs parts of the network again on the way back, where no rule "
            "of the backward applies; switch it off (gradient_checkpointing_disable())"
        ) from error
    except AssertionError as error:
        raise TraceError(
            f"code of the network with a backward of its own refused to go back: {error}"
        ) from error


def _with_relevance(
    passed: RecordedPass, recorded: Recorded, output: tuple[list[Tensor], list[Tensor]],
    passage: BackwardContext, more: bool,
) -> RecordedPass:  # fmt: skip
    """The relevance of every attention output, and of tokens and arguments if they are needed.

    It starts with dy/d(output): a one-hot vector where the target is a logit.

    Raises:
        InputError: a backward that keeps totals would start with a total of zero.
    """
    if passage.settings.get("normalize_sums"):
        _check_start(output[1], passed.graph.batch)
    kept = activations_of(passed.graph, Need.ATTENTION_RELEVANCE)
    leaves: dict[str, Tensor] = {}
    if Need.TOKEN_RELEVANCE in passed.needs:
        kept += _activations(passed.graph, {Need.TOKEN_RELEVANCE})
        leaves = {n: one for n, one in recorded.inputs.items() if one.requires_grad}
    kept = list({id(one): one for one in kept if one.edge is not None}.values())
    edges = [one.edge for one in kept if one.edge is not None]
    with passage.carrying_relevance(passed.graph.batch):
        followed = _follow(output[0], [*edges, *leaves.values()], output[1], more)
    pairs = zip(kept, followed, strict=False)
    relevances = {id(one): part for one, part in pairs if part is not None}
    arguments = zip(leaves, followed[len(kept) :], strict=True)
    return replace(
        passed,
        relevances=relevances,
        entering={name: part for name, part in arguments if part is not None},
    )


def _check_start(starts: Sequence[Tensor], batch: int) -> None:
    """Where totals are kept, a start of +1 and -1 leaves rounding errors, or nothing, to share."""
    total: Tensor | float = 0.0
    whole: Tensor | float = 0.0
    by_example = all(one.ndim > 0 and one.shape[0] == batch for one in starts)
    for one in starts:
        rows = wide(one).reshape(batch if by_example else 1, -1)
        total, whole = total + rows.sum(-1), whole + rows.abs().sum(-1)
    least = 4 * max(torch.finfo(one.dtype).eps for one in starts)
    if bool(((torch.as_tensor(total).abs() <= least * whole) & (torch.as_tensor(whole) > 0)).any()):
        raise InputError(
            "deep-taylor keeps the total of the relevance that it starts with, and the gradient of "
            "this target sums to zero over the output, as that of a difference or of a log "
            "probability does: explain one score by itself, pass backward='lrp', or use genatt"
        )


def _read_outputs(
    copied: OutputCopy, values: Float[Tensor, " batch"]
) -> tuple[list[Tensor], list[Tensor]]:
    """The output tensors that the target reads, with dy/d(output)."""
    pairs = [pair for pair in copied.pairs if pair[0].requires_grad]
    if not pairs or not values.requires_grad:
        raise TraceError(
            "the target depends on no output that autograd follows; compute it from the output's "
            "floating tensors, and see that the network does not run its forward under no_grad"
        )
    gradients_of_leaves = torch.autograd.grad(
        values.sum(), [leaf for _, leaf in pairs], allow_unused=True
    )
    read = [
        (tensor, gradient)
        for (tensor, _), gradient in zip(pairs, gradients_of_leaves, strict=True)
        if gradient is not None
    ]
    touched = [pair for pair in read if bool((pair[1] != 0).any())] or read
    return [tensor for tensor, _ in touched], [gradient for _, gradient in touched]


def _activations(graph: TokenGraph, needs: Collection[Need]) -> list[Activation]:
    """What the read-out and sums are measured at, and what the needs stand for; each once."""
    finals = {index for group in graph.finals for index in group}
    if graph.lost:
        finals = set(range(len(graph.states)))  # the sources, whose gradient must not be zero
    activations: list[Activation | None] = [graph.states[index].stream for index in finals]
    for need in needs:
        activations += activations_of(graph, need)
    for state in graph.states:
        activations += state.operands
    return list({id(one): one for one in activations if one is not None}.values())


def _check_sources(gradients: dict[int, Tensor], needs: Collection[Need]) -> None:
    """A target on which no source has any influence cannot be explained by a gradient."""
    asked = Need.STREAM_GRADIENT in needs
    if asked and not any(bool(gradient.any()) for gradient in gradients.values()):
        raise TraceError(
            "the target does not depend on the tokens that enter: its gradient is zero at every "
            "one of them (a saturated activation does this, too)"
        )


def _stray_attentions(recorded: Recorded, graph: TokenGraph) -> list[Activation]:
    known = {id(attention.output) for attention in graph.attentions}
    drafts, inside = recorded.recorder.attentions, recorded.recorder.absorbed
    return [
        draft.output for draft in drafts
        if id(draft.output) not in known and draft.index not in inside
    ]  # fmt: skip


def _missed(stray: Sequence[Activation], gradients: dict[int, Tensor]) -> str:
    """What is said of attentions that the target depends on, but the graph does not reach."""
    missed = [one for one in stray if id(one) in gradients and bool(gradients[id(one)].any())]
    if not missed:
        return ""
    return (
        f"{len(missed)} attention calls influence the target on ways that relmap did not "
        "follow, so a map would be incomplete; choose a target closer to the attention, or "
        "report the network"
    )


def _readout(graph: TokenGraph, gradients: dict[int, Tensor]) -> dict[int, Tensor]:
    """How much the target reads each token of the final states: its share of |dy/dstate|."""
    readout: dict[int, Tensor] = {}
    read = False
    for group in graph.finals:
        shares = {index: _magnitude(graph, index, gradients) for index in group}
        totals = torch.zeros(graph.batch, dtype=next(iter(shares.values())).dtype,
                             device=graph.device())  # fmt: skip
        for index, share in shares.items():
            totals = totals.index_add(0, _examples(graph, index), share)
        read = read or bool((totals > 0).any())
        for index, share in shares.items():
            total = totals[_examples(graph, index)]
            row = torch.where(total > 0, share / torch.where(total > 0, total, 1), 0)
            readout[index] = readout[index] + row if index in readout else row
    if not read:
        raise TraceError(
            "the target does not depend on the attention that was recorded: its gradient is zero "
            "at every token (a saturated activation does this, too)"
        )
    return readout


def _examples(graph: TokenGraph, index: int) -> Tensor:
    examples = graph.examples[index]
    if bool((examples < 0).any()):
        raise TraceError(
            f"relmap cannot tell which example of the batch the tokens of "
            f"{graph.states[index].module} belong to; explain one example at a time"
        )
    return examples.to(graph.device())


def _magnitude(graph: TokenGraph, index: int, gradients: dict[int, Tensor]) -> Tensor:
    state = graph.states[index]
    gradient = None if state.stream is None else gradients.get(id(state.stream))
    if state.stream is None or gradient is None:
        return wide(graph.blank.new_zeros(state.tokens))
    return per_token(wide(gradient).abs(), state.stream, state.tokens)
