"""One call of a torch function, as a rule sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from relmap._torch_private import OpOverload, OpOverloadPacket
from relmap.trace.labels import Labels
from relmap.trace.spellings import Spelling, spell
from relmap.trace.tags import Constant, Lost, Pair, Tag, Tokens, is_floating

if TYPE_CHECKING:
    from relmap.trace.drafts import Notebook

PARTS = list
TokenRule = Callable[["Call"], Any]
Run = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]
"""What runs a function of the network in its place: (function, args, kwargs) -> result."""

_OPERATORS = {
    "rmul": "mul", "radd": "add", "imul": "mul", "iadd": "add", "isub": "sub", "idiv": "div",
    "truediv": "div", "itruediv": "div", "rdiv": "div", "rtruediv": "div", "multiply": "mul",
    "divide": "div", "true_divide": "div", "subtract": "sub", "rsub": "sub", "ipow": "pow",
    "rpow": "pow", "negative": "neg", "absolute": "abs", "concat": "cat", "concatenate": "cat",
    "swapaxes": "transpose", "swapdims": "transpose", "moveaxis": "movedim", "clip": "clamp",
}  # fmt: skip


@dataclass(eq=False, slots=True)
class Call:
    """One call of a torch function, with what is known about its operands."""

    notebook: Notebook
    raw_name: str
    function: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    result: Any = None
    name: str = ""
    in_place: bool = False
    operands: list[Tensor] = field(default_factory=list)
    tags: list[Tag | None] = field(default_factory=list)
    before: dict[int, Tensor] = field(default_factory=dict)
    tagged: bool = False
    runner: Run | None = None
    _spelling: Spelling | None = None

    def __post_init__(self) -> None:
        self.name, self.in_place = plain_name(self.raw_name)

    def prepare(self) -> None:
        """Collect the tensors among the operands; keep what an in-place join would overwrite."""
        pending = False
        values = (*self.args, *self.kwargs.values())
        if self.kwargs and self.spelling.names:
            values = tuple(self.spelling.given.values())
        self.operands.extend(_tensors(values))
        for tensor in self.operands:
            tag = self.notebook.tag(tensor)
            self.tags.append(tag)
            if tag is not None and not isinstance(tag, Constant):
                self.tagged = True
                pending = pending or (isinstance(tag, Tokens) and tag.pending is not None)
        kept = pending or self.notebook.taped
        if kept and self.in_place and self.notebook.keep_values:
            self.before = {id(tensor): tensor.detach().clone() for tensor in self.operands}

    def first_lost(self) -> Lost | None:
        """The first operand whose tokens were lost."""
        return next((tag for tag in self.tags if isinstance(tag, Lost)), None)

    def known(self) -> list[tuple[Tensor, Tokens | Pair]]:
        """Operands that hold tokens, with their tags."""
        pairs = zip(self.operands, self.tags, strict=True)
        return [(tensor, tag) for tensor, tag in pairs if isinstance(tag, (Tokens, Pair))]

    @property
    def spelling(self) -> Spelling:
        """The arguments by their names in the function's signature."""
        if self._spelling is None:
            self._spelling = spell(self.function, self.args, self.kwargs)
        return self._spelling

    @property
    def subject(self) -> Tensor:
        """The tensor that the function works on, its first argument."""
        return self.argument(0, "input")

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Run the function as the network does, under whatever watches the pass."""
        if self.runner is None:
            return self.function(*args, **kwargs)
        return self.runner(self.function, args, kwargs)

    def run_on(self, exchanged: Tensor) -> Any:
        """The function of another tensor in place of its first, and of the same other arguments."""
        args, kwargs = self.spelling.in_order()
        return self.function(exchanged, *args[1:], **kwargs)

    def tag(self, position: int = 0, name: str = "input") -> Tag | None:
        """Tag of one argument, of the tensor that the function works on by default."""
        return self.tag_of(self.argument(position, name))

    def tag_of(self, tensor: Any) -> Tag | None:
        """Tag of a tensor as it was before the call (in-place functions change their operand)."""
        for operand, tag in zip(self.operands, self.tags, strict=True):
            if operand is tensor:
                return tag
        return self.notebook.tag(tensor)

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """One argument by its name, or by its place in a function that has no such name."""
        return self.spelling.argument(position, name, default)

    def lost(self, why: str) -> Lost:
        """The result when tokens are mixed beyond what can be followed."""
        return Lost(self.notebook.at(f"'{self.name}' {why}"))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the result."""
        return tuple(self.result.shape)


@cache
def plain_name(name: str) -> tuple[str, bool]:
    """The name shared by a function, its method, operator and in-place form."""
    in_place = False
    if name.startswith("__") and name.endswith("__"):
        inner = name.strip("_")
        in_place = inner in ("setitem",) or (inner[0] == "i" and inner[1:] in _IN_PLACE)
        name = f"__{inner}__" if inner in ("getitem", "setitem") else inner
    elif name.endswith("_") and not name.endswith("__"):
        name, in_place = name[:-1], True
    return _OPERATORS.get(name, name), in_place


_IN_PLACE = frozenset(
    ["add", "sub", "mul", "div", "truediv", "pow", "and", "or", "xor", "matmul", "floordiv"]
)


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from _tensors(value)


def along(call: Call, tag: Tokens | Pair, copies: bool = False) -> Tag:
    """The tag of a result computed token by token from one operand and constants.

    `copies`: the result is the operand moved, scaled or shifted, so it may still be its residual.
    """
    node = call.notebook.node
    if isinstance(tag, Pair):
        return move_pair(tag, lambda labels: labels.broadcast_to(call.shape))
    labels = tag.labels.broadcast_to(call.shape)
    if copies:
        return Tokens(tag.state, labels, node(origin=tag.node), tag.pending)
    return Tokens(tag.state, labels, node(tag.node), tag.pending and tag.pending.changed())


def move_pair(pair: Pair, move: Callable[[Labels], Labels], axis: int | None = None) -> Pair:
    """Move both sides of a pair; `axis` is where its softmax axis went."""

    def side(tokens: Tokens | None) -> Tokens | None:
        if tokens is None:
            return None
        return Tokens(tokens.state, move(tokens.labels), tokens.node)

    return Pair(
        side(pair.rows), side(pair.columns), pair.nodes, pair.axis if axis is None else axis
    )


def constant_along(tokens: Tokens | None, axis: int) -> Tokens | None:
    """The same tokens, constant along an axis where they only vary by places without a token."""
    if tokens is None or axis not in tokens.labels.varying:
        return tokens
    values = tokens.labels.values
    highest = values.amax(dim=axis, keepdim=True)
    if not bool(((values == highest) | (values < 0)).all()):
        return tokens
    return Tokens(tokens.state, Labels(tokens.labels.shape, highest), tokens.node, tokens.pending)


def function_name(function: Any) -> str:
    """The name of a function.

    Properties are called get_ and their own name, operators of a library by both of their names.

    Example:
        >>> import torch
        >>> function_name(torch.Tensor.shape.__get__), function_name(torch.nn.functional.gelu)
        ('get_shape', 'gelu')
    """
    name = getattr(function, "__name__", "")
    if isinstance(function, (OpOverload, OpOverloadPacket)):
        packet = str(getattr(function, "overloadpacket", function))
        # Overloads of torch's own have other arguments than its functions: they keep their names.
        return name if packet.startswith("aten.") else packet
    if name == "__get__":
        owner = getattr(function, "__self__", None)
        return f"get_{getattr(owner, '__name__', '')}"
    return name


_READS_LEARNED_TOKENS = frozenset(
    [
        "expand",
        "expand_as",
        "repeat",
        "unsqueeze",
        "tile",
        "__getitem__",
        "embedding",
        "repeat_interleave",
        "squeeze",
        "broadcast_to",
        "to",
        "type_as",
        "view",
        "reshape",
    ]
)


def reads_learned_tokens(call: Call) -> bool:
    """Whether a function of constants may hand out learned tokens (queries, CLS)."""
    if call.name not in _READS_LEARNED_TOKENS:
        return False
    parameter = next((one for one in call.operands if isinstance(one, nn.Parameter)), None)
    if parameter is None or not is_floating(parameter):
        return False
    return parameter.ndim >= 3 or call.name in ("unsqueeze", "expand", "repeat", "embedding")
