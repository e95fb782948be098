"""One recorded forward pass: the network is watched, then left exactly as it was.

Nothing is done to the network: a stand-in on the same weights runs, in evaluation mode and without
gradients of weights. While any pass lasts, fused fast paths that hide attention and compilation are
off; what else a process does meanwhile is slower for it, and not wrong. Threads may record, and
train, at the same time.
"""

from __future__ import annotations

import copy
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from relmap.errors import InputError, TraceError
from relmap.trace.ancestry import is_lost
from relmap.trace.argument_roles import CACHES, steers
from relmap.trace.mixers import watching_modules
from relmap.trace.operations.registered import OPERATIONS
from relmap.trace.recorder import Recorder, Run
from relmap.trace.replay.tape import Tape, TapedRecorder
from relmap.trace.stand_in import stand_in
from relmap.trace.tags import is_floating


@dataclass(frozen=True, eq=False)
class Recorded:
    """A forward pass: the stand-in that ran, the recorder with its drafts, and what it returned."""

    network: nn.Module
    recorder: Recorder
    output: Any
    inputs: dict[str, Tensor]
    tape: Tape | None = None


@contextmanager
def recording(
    network: nn.Module, inputs: Mapping[str, Any], keep_values: bool = True,
    interception: Callable[[Recorder], Run] | None = None, keep_biases: bool = False,
    taped: bool = False, strict: bool = True,
) -> Iterator[Recorded]:  # fmt: skip
    """Run the network once under the recorder; autograd's graph lives as long as the block.

    `keep_values` keeps what enters and leaves every residual join, for Input x Gradient. With an
    `interception` it runs every function in the network's place. `keep_biases` notes the bias of
    every operation, `taped` keeps all that it takes to run the network again. A pass that is not
    `strict` goes on where tokens are lost, for methods that read nothing but what enters.
    """
    check_network(network)
    OPERATIONS.discover()
    settings = _Settings(keep_values, interception, keep_biases, taped, strict)
    with ExitStack() as stack:
        stack.enter_context(_SWITCHES.off())
        stack.enter_context(torch.enable_grad())
        yield _recorded(stack, stand_in(network), inputs, settings)


@dataclass(frozen=True, eq=False)
class _Settings:
    """How a pass is watched; `modules` says that parts of the network may become mixers."""

    keep_values: bool
    interception: Callable[[Recorder], Run] | None
    keep_biases: bool
    taped: bool
    strict: bool
    modules: bool = False


def _recorded(
    stack: ExitStack, network: nn.Module, inputs: Mapping[str, Any], settings: _Settings
) -> Recorded:
    """A pass; where it loses the tokens, one more in which modules are watched as well."""
    if not settings.strict:
        return _run(stack, network, inputs, settings)
    first, refusal = ExitStack(), None
    with first:
        try:
            recorded = _run(first, network, inputs, settings)
            recorder = recorded.recorder
            lost = is_lost(recorder, recorded.output) or recorder.hidden
            if recorder.attentions and not lost:
                stack.push(first.pop_all())
                return recorded
            del recorded, recorder
        except TraceError as error:
            refusal = error
    recorded = _run(stack, network, inputs, replace(settings, strict=False, modules=True))
    recorder = recorded.recorder
    mixers = any("entered" in draft.arrays for draft in recorder.attentions)
    if refusal is not None and not mixers:
        raise refusal
    if not recorder.attentions:
        raise TraceError(without_attention(recorder))
    return recorded


def _run(
    stack: ExitStack, network: nn.Module, inputs: Mapping[str, Any], settings: _Settings
) -> Recorded:
    """One pass of the network under a recorder; what it noted lasts as long as the stack."""
    recorder = TapedRecorder(network) if settings.taped else Recorder(network, settings.keep_values)
    tape = recorder.tape if isinstance(recorder, TapedRecorder) else None
    recorder.biases = [] if settings.keep_biases else None
    recorder.strict = settings.strict
    stack.callback(recorder.forget)
    if settings.interception is not None:
        recorder.run = settings.interception(recorder)
    arguments, tagged = _enter(recorder, inputs)
    if tape is not None:
        stack.callback(tape.close)
        tape.enter(arguments)
    watched = watching_modules(recorder, network) if settings.modules else nullcontext()
    with watched, recorder:
        output = network(**arguments)
    return Recorded(network, recorder, output, tagged, tape)


def without_attention(recorder: Recorder) -> str:
    """What is said of a network in whose forward pass no attention was found."""
    if recorder.hidden:
        return f"relmap cannot follow the tokens: {recorder.hidden[0]}"
    return (
        "no attention was found in this network's forward pass, and this method reads attention; "
        "input-x-gradient, integrated-gradients and occlusion explain any network"
    )


def _enter(
    recorder: Recorder, inputs: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Copies of the inputs, with their elements numbered; auxiliary ones stay constants."""
    arguments: dict[str, Any] = dict(inputs)
    tagged: dict[str, Tensor] = {}
    for name, value in inputs.items():
        if _holds_tokens(name, value):
            raise InputError(
                f"{name} holds what the network computed from earlier tokens, which relmap did not "
                f"see: pass the whole text instead of {name}"
            )
        if name in CACHES:  # the network writes into it, and may run more than once
            arguments[name] = copy.deepcopy(value)
        if not isinstance(value, Tensor) or steers(name, value):
            continue
        twin = value.detach().clone()
        if is_floating(twin):
            twin = twin.requires_grad_().clone()
        recorder.add_input(name, twin)
        arguments[name] = tagged[name] = twin
    if not tagged:
        raise InputError(
            f"none of the inputs ({', '.join(inputs)}) is a tensor whose tokens could be "
            "explained; a list of tensors has to be stacked into one"
        )
    return arguments, tagged


def _holds_tokens(name: str, value: Any) -> bool:
    """Whether an argument is a cache that is not empty."""
    if name not in CACHES or value is None or isinstance(value, bool):
        return False
    length = getattr(value, "get_seq_length", None)
    if length is not None:
        return bool(length())
    return not isinstance(value, (tuple, list)) or len(value) > 0


def check_network(network: nn.Module) -> None:
    """Refuse networks whose operations cannot be watched, and tensors without version counters."""
    if torch.is_inference_mode_enabled():
        raise InputError(
            "relmap needs gradients, which torch.inference_mode() forbids; "
            "call it outside, or under torch.no_grad()"
        )
    for name, module in network.named_modules():
        where = name or "the network"
        if isinstance(module, torch.jit.ScriptModule):
            raise TraceError(f"{where} is scripted, which hides its attention; pass the original")
        if type(module).__module__.startswith(("torch.ao.nn.quantized", "torch.nn.quantized")):
            raise TraceError(f"{where} is quantised, which hides its gradients; pass the original")
        for parameter in _parameters([module]):
            if parameter.is_inference():
                raise InputError(
                    f"the weights of {where} were made in inference mode; load the model outside it"
                )


def _parameters(modules: Sequence[nn.Module]) -> Iterator[nn.Parameter]:
    """The parameters that modules hold themselves."""
    for module in modules:
        yield from module.parameters(recurse=False)


@contextmanager
def evaluating(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Modules in evaluation mode, each put back into its own."""
    training = [module for module in modules if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


class _Switches:
    """What is off in the whole process while any pass is recorded, and as it was when none is."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._passes = 0
        self._before = ExitStack()

    @contextmanager
    def off(self) -> Iterator[None]:
        """Fused fast paths and compilation off while the block lasts."""
        with self._lock:
            if self._passes == 0:
                self._before.enter_context(_without_fast_path())
                self._before.enter_context(torch.compiler.set_stance("force_eager"))
            self._passes += 1
        try:
            yield
        finally:
            with self._lock:
                self._passes -= 1
                if self._passes == 0:
                    self._before.close()

    def forked(self) -> None:
        """In a child: whoever held the lock, or was in a pass, is not there."""
        self._lock = threading.Lock()
        self._passes = 0
        self._before.close()


@contextmanager
def _without_fast_path() -> Iterator[None]:
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


_SWITCHES = _Switches()
if hasattr(os, "register_at_fork"):  # not everywhere
    os.register_at_fork(after_in_child=_SWITCHES.forked)
