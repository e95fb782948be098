"""One operation of a network, as the rules of a backward see it.

An operand *carries* if something can flow back into it: a gradient, or relevance. Two marks are
put on tensors while the network runs. A *stopped* tensor belongs to a factor that counts as a
constant (the standard deviation of a norm), so no relevance enters it although a gradient would.
A *gate* came out of a sigmoid or tanh: multiplied by another tensor it is a factor, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

from relmap._torch_private import unwatched
from relmap.errors import TraceError
from relmap.trace.recorder import Recorder
from relmap.trace.spellings import Spelling, spell
from relmap.trace.tags import Constant, Pair, Tokens

BackwardRule = Callable[["Operation"], Any]
Back = Callable[[Tensor], tuple[Tensor | None, ...]]
"""What flows back to each operand, of what arrived at the result."""

_STOPPED, _GATE = "_relmap_stopped", "_relmap_gate"


@dataclass(eq=False)
class BackwardContext:
    """One forward pass under a backward.

    `relevance` says what flows back at the moment: relevance, or the plain gradient. `absolute`
    keeps |W| of the weights that were met, `settings` are the options of the backward, `batch`
    counts the examples as soon as the forward is over. `kept` holds by their memory what rules
    read on the way back, `backs` are these rules, in the order of the operations. They live here
    and not in autograd's nodes: they hold tensors that lead to the nodes again, a circle through
    memory that Python's collector does not see.
    """

    recorder: Recorder
    family: Literal["gradient", "relevance"]
    settings: Mapping[str, Any]
    relevance: bool = False
    marked: bool = False
    batch: int = 1
    absolute: dict[int, tuple[Tensor, Tensor]] = field(
        default_factory=dict[int, tuple[Tensor, Tensor]]
    )
    kept: dict[int, list[Tensor]] = field(default_factory=dict[int, list[Tensor]])
    backs: list[Back] = field(default_factory=list[Back])

    @contextmanager
    def carrying_relevance(self, batch: int) -> Iterator[None]:
        """Let relevance flow back in place of the gradient while the block lasts."""
        self.relevance, self.batch = True, batch
        try:
            yield
        finally:
            self.relevance = False

    def pass_back(self, value: Tensor, back: Back, *operands: Tensor) -> Tensor:
        """A value through which `back` decides what flows to each operand."""
        self.backs.append(back)
        place = len(self.backs) - 1
        return PassBack.apply(value, place, self, *operands)  # type: ignore[no-any-return]

    def close(self) -> None:
        """Let go of the rules and of all that they read: nothing flows back any more."""
        for held in (self.backs, self.kept, self.absolute):
            held.clear()

    def magnitude(self, weight: Tensor) -> Tensor:
        """|W|, computed once for every weight."""
        known = self.absolute.get(id(weight))
        if known is None:
            known = self.absolute[id(weight)] = (weight, weight.detach().abs())
        return known[1]

    def keep(self, tensor: Tensor) -> Tensor:
        """The values of a tensor for the way back, whatever the network then writes on it."""
        alias = tensor.detach()
        self.kept.setdefault(alias.untyped_storage().data_ptr(), []).append(alias)
        return alias

    def overwrite(self, tensor: Any) -> None:
        """Copy what is kept of a tensor before the network writes on it."""
        if isinstance(tensor, Tensor) and self.kept:
            for alias in self.kept.pop(tensor.untyped_storage().data_ptr(), ()):
                alias.data = alias.clone()

    def carries(self, tensor: Any) -> bool:
        """Whether something flows back into a tensor."""
        if not isinstance(tensor, Tensor) or not tensor.requires_grad:
            return False
        return not (self.marked and _STOPPED in vars(tensor))

    def is_gate(self, tensor: Tensor) -> bool:
        """Whether a tensor came out of a sigmoid or tanh, shifted and scaled at most."""
        return self.marked and _GATE in vars(tensor)

    def stop(self, tensor: Tensor) -> Tensor:
        """Let no relevance into a tensor."""
        self.marked = True
        setattr(tensor, _STOPPED, True)
        return tensor

    def gate(self, tensor: Tensor) -> Tensor:
        """Note that a tensor is a gate."""
        self.marked = True
        setattr(tensor, _GATE, True)
        return tensor

    def mark_like(self, tensor: Tensor, result: Tensor) -> Tensor:
        """Give a tensor that a result was written on the marks of the result."""
        if self.marked:
            for mark in (_STOPPED, _GATE):
                vars(tensor).pop(mark, None)
                if mark in vars(result):
                    setattr(tensor, mark, True)
        return tensor if result.requires_grad else self.stop(tensor)

    def is_learned(self, tensor: Any) -> bool:
        """Whether a tensor is made of parameters alone (learned tokens and positions)."""
        if isinstance(tensor, nn.Parameter):
            return True
        tag = self.recorder.tag(tensor)
        return isinstance(tag, Constant) or (
            isinstance(tag, Tokens) and tag.state.kind == "learned"
        )

    def is_weight(self, tensor: Any) -> bool:
        """Whether a tensor is a weight: a parameter, or computed from parameters alone."""
        if isinstance(tensor, nn.Parameter):
            return True
        return isinstance(self.recorder.tag(tensor), Constant)

    def is_raw_input(self, tensor: Any) -> bool:
        """Whether a tensor is an argument of the network, maybe reshaped."""
        tag = self.recorder.tag(tensor)
        return isinstance(tag, Tokens) and tag.state.kind == "input"


@dataclass(frozen=True, eq=False)
class Operation:
    """One call of a torch function that something flows back through.

    `name` is shared by a function, its method and its operator, and by an operation that was
    registered as being like it, which messages call as it is `spelled`; `args` are in the order of
    the mathematical operands, and as many of them as can be are given by their places.
    """

    name: str
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    context: BackwardContext
    spelled: str = ""

    def run(self, replaced: Mapping[int, Any] | None = None) -> Any:
        """The function's own result, with some operands (by id) replaced by others."""
        if not replaced:
            return self.function(*self.args, **self.kwargs)
        args = tuple(_exchanged(value, replaced) for value in self.args)
        kwargs = {name: _exchanged(value, replaced) for name, value in self.kwargs.items()}
        return self.function(*args, **kwargs)

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """One argument by its name, or by its place in a function that has no such name."""
        return self.spelling.argument(position, name, default)

    @cached_property
    def spelling(self) -> Spelling:
        """The arguments by their names in the function's signature."""
        return spell(self.function, self.args, self.kwargs)

    def carrying(self) -> list[Tensor]:
        """The operands into which something flows back, each once.

        Weights are among them only where there is nothing else: relevance is shared between
        tokens, and a gradient of weights is not asked for.
        """
        found = [one for one in tensors_of(self.args, self.kwargs) if self.context.carries(one)]
        found = list({id(one): one for one in found}.values())
        return [one for one in found if not self.context.is_weight(one)] or found

    def refuse(self, why: str) -> TraceError:
        """An error that names the operation and where it ran."""
        return TraceError(self.context.recorder.at(f"'{self.spelled or self.name}' {why}"))

    def tag(self) -> Tokens | None:
        """Whose tokens the operands hold, if anything is known."""
        for tensor in self.carrying():
            tag = self.context.recorder.tag(tensor)
            if isinstance(tag, Pair):
                tag = tag.rows or tag.columns
            if isinstance(tag, Tokens):
                return tag
        return None


def tensors_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """All tensors among the arguments of a call."""
    found: list[Tensor] = []
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (tuple, list)):
            found += [part for part in value if isinstance(part, Tensor)]
    return found


def _exchanged(value: Any, replaced: Mapping[int, Any]) -> Any:
    if isinstance(value, (tuple, list)):
        return type(value)(_exchanged(part, replaced) for part in value)
    return replaced.get(id(value), value) if isinstance(value, Tensor) else value


class PassBack(torch.autograd.Function):
    """A value, and a function of its own for what flows back through it.

    `apply(value, place, context, *operands)` is the value; the context keeps at that place the
    `back(incoming)` that gives one tensor for each operand. The rules of relevance hold for
    relevance alone: a plain gradient takes the way on which the value was computed.
    """

    @staticmethod
    def forward(ctx: Any, value: Tensor, place: int, context: Any, *operands: Tensor) -> Tensor:
        """The value itself."""
        ctx.place, ctx.context, ctx.count = place, context, len(operands)
        ctx.set_materialize_grads(False)
        return value.detach()

    @staticmethod
    def backward(ctx: Any, *incoming: Any) -> Any:
        """What flows back: by the rule, or as it is."""
        (arriving,) = incoming
        nothing = (None,) * ctx.count
        if arriving is None:
            return (None, None, None, *nothing)
        context: BackwardContext = ctx.context
        if context.family == "relevance" and not context.relevance:
            return (arriving, None, None, *nothing)
        with torch.no_grad(), unwatched():
            return (None, None, None, *context.backs[ctx.place](arriving))
