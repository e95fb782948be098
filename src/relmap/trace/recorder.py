"""The recorder: a mode that watches every torch function and keeps track of tokens.

It runs the function, asks the table of rules (`relmap.trace.table`) what became of the operands'
tokens, and writes the answer on the result. The model is not changed: parameters are frozen while
it runs, inputs are copies, and tags live on tensors that die with the pass.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from relmap._torch_private import base_of
from relmap.errors import TraceError
from relmap.trace.calls import PARTS, Call, Run, function_name, plain_name, reads_learned_tokens
from relmap.trace.drafts import Notebook
from relmap.trace.operations.biases import BiasDraft, note_bias
from relmap.trace.operations.registered import OPERATIONS
from relmap.trace.table import REPLACED, drop, find_rule
from relmap.trace.tags import Constant, Lost, Pair, Tag, Tokens, is_floating


class Recorder(Notebook, TorchFunctionMode):
    """Watches torch functions inside a `with` block and notes in its notebook what they do.

    `run`, where set, runs every function of the network in its place; `biases` is a list only where
    a method asks for them. A recorder that is not `strict` loses the tokens where it would have
    refused the network, for whoever can do without them.
    """

    def __init__(self, network: nn.Module, keep_values: bool = True) -> None:
        super().__init__(network, keep_values)
        self.run: Run | None = None
        self.biases: list[BiasDraft] | None = None
        self.strict = True

    def watching(self) -> AbstractContextManager[Any]:
        """A block in which functions are watched again."""
        return self

    def forget(self) -> None:
        """Let go of everything that the pass noted."""
        super().forget()
        self.run = self.biases = None

    # --- watching -------------------------------------------------------------------------------

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run one torch function and tag what it returns."""
        if kwargs and kwargs.get("out") is not None:
            return self._written_out(function, types, args, kwargs)
        name = function_name(function)
        call = Call(self, name, function, args, kwargs or {}, runner=self.run)
        if name in REPLACED:
            return self._replaced(call, REPLACED[name])
        rule = find_rule(call)
        if rule is None and call.name in REPLACED:
            return self._replaced(call, REPLACED[call.name])
        if rule is drop and not call.in_place:
            return call.run(*args, **call.kwargs)
        call.prepare()
        call.result = result = call.run(*args, **call.kwargs)
        if name == "__setitem__":
            call.result = args[0]
            self._tag_result(call)
            return None
        if isinstance(result, Tensor) or (
            isinstance(result, (tuple, list)) and any(isinstance(part, Tensor) for part in result)
        ):
            result = self._tag_result(call)
            if self.biases is not None and (bias := note_bias(call)) is not None:
                self.biases.append(bias)
        return result

    def _written_out(
        self, function: Any, types: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """`out=`: the function's own result, written on the tensor that was handed in.

        Autograd has no gradient for a function that is told where to write.
        """
        out = kwargs["out"]
        rest = {name: value for name, value in kwargs.items() if name != "out"}
        result = self.__torch_function__(function, types, args, rest)
        several = isinstance(out, (tuple, list))
        for place, value in zip(out, result, strict=True) if several else [(out, result)]:
            if place.shape != value.shape:
                place.resize_(value.shape)
            if base_of(place) is not None:
                self.__torch_function__(Tensor.copy_, types, (place, value))
                continue
            tag = self.tag(value)
            Call(self, "copy_", Tensor.copy_, (place, value), {}, runner=self.run).run(place, value)
            self.written(place, tag)
        return out

    def _replaced(self, call: Call, rule: Callable[[Call], Any]) -> Any:
        """Run what stands in the place of a function that hides its attention."""
        try:
            return rule(call)
        except TraceError as error:
            if self.strict:
                raise
            call.prepare()
            call.result = call.run(*call.args, **call.kwargs)
            for part in call.result if isinstance(call.result, tuple) else (call.result,):
                if isinstance(part, Tensor):
                    self.attach(part, Lost(str(error)) if call.tagged else None)
            return call.result

    def _tag_result(self, call: Call) -> Any:
        if not call.tagged:
            return self._tag_constant(call)
        rule = find_rule(call)
        tag: Any
        if rule is None:
            lost = call.first_lost()
            way_out = "; OPERATIONS.register can say what it does" if "." in call.name else ""
            if getattr(call.function, "namespace", "") == "aten":
                way_out = "; the network was exported: pass the module that it was exported from"
            why = f"'{call.name}' mixes tokens in a way relmap does not know{way_out}"
            tag = lost or Lost(self.at(why))
            if "." in call.name:
                self.hidden.append(tag.reason)  # attention of a library's own, perhaps
        else:
            try:
                tag = self._checked(call, rule(call))
            except TraceError as error:
                if self.strict:
                    raise
                tag = Lost(str(error))
        result = call.result
        if isinstance(result, Tensor):
            self.attach(result, self._kept(result, tag))
            return result
        parts = tag if isinstance(tag, PARTS) else [tag] * len(result)
        for part, part_tag in zip(result, parts, strict=False):
            if isinstance(part, Tensor):
                self.attach(part, self._kept(part, part_tag))
        return result

    def _checked(self, call: Call, tag: Any) -> Any:
        """The tag that a rule gave; that of a registered operation has to fit its result."""
        entry = OPERATIONS.find(plain_name(call.raw_name)[0])
        if entry is None or not isinstance(tag, Tokens) or not isinstance(call.result, Tensor):
            return tag
        numbers = tuple(tag.labels.values.shape)
        pairs = zip(numbers, call.shape, strict=False)
        if len(numbers) == len(call.shape) and all(one in (1, size) for one, size in pairs):
            return tag
        return Lost(
            self.at(
                f"the rule for the tokens of '{entry.name}' gives them the shape {numbers}, which "
                f"does not fit the result's, {call.shape}"
            )
        )

    def _kept(self, tensor: Tensor, tag: Tag | None) -> Tag | None:
        """Drop the tag of tensors that carry no tokens: booleans, and integers made by counting."""
        if tensor.dtype == torch.bool:
            return None
        if not is_floating(tensor) and not (isinstance(tag, Tokens) and tag.state.kind == "input"):
            return None
        return tag

    def _tag_constant(self, call: Call) -> Any:
        """A function of constants: constant, unless it is a softmax between learned tokens."""
        result = call.result
        if isinstance(result, (tuple, list)):
            for part in result:
                if isinstance(part, Tensor) and part.requires_grad:
                    self.attach(part, Constant())
            return result
        if not isinstance(result, Tensor) or not is_floating(result):
            return result
        if call.name == "softmax" and result.ndim >= 3:
            axis = call.argument(1, "dim", -1)
            self.attach(result, Pair(None, None, (), int(axis) % result.ndim))
            return result
        if not torch.is_grad_enabled():
            return result
        if not result.requires_grad and reads_learned_tokens(call):
            # Learned tokens (queries, CLS) need a gradient of their own; weights stay frozen.
            # The clone is no leaf, so that code may go on to write on it in place.
            call.result = result = result.detach().requires_grad_().clone()
        if result.requires_grad:
            self.attach(result, Constant())
        return result
