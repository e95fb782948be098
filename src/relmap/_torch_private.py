"""What torch and transformers do not promise, in one place.

A recorder of other people's networks needs a few things that have no public name: how often a
tensor was written on, whether a function is being mapped over a batch, when autograd saw an
operation. Each is asked for here and nowhere else, so that an upgrade is one diff. What a version
has no more is either found in a public way instead, or is an error that names it: as soon as this
module is imported for torch, at the first use for transformers. It is never passed over.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge

from relmap.errors import RelmapError

__all__ = [
    "OpOverload",
    "OpOverloadPacket",
    "Parameter",
    "auto_classes",
    "autograd_order",
    "base_of",
    "has_head",
    "inside_transform",
    "is_copy",
    "objects_running",
    "parameters_of",
    "storage_of",
    "unwatched",
    "version_of",
]


class UnknownVersionError(RelmapError, ImportError):
    """An installed library has no longer what relmap needs of it."""


def needed(library: Any, path: str) -> Any:
    """An attribute of a library by its dotted path.

    Raises:
        UnknownVersionError: This version of the library does not have it.

    Example:
        >>> needed(torch, "Tensor._versions")
        Traceback (most recent call last):
        relmap._torch_private.UnknownVersionError: relmap needs torch.Tensor._versions, ...
    """
    try:
        return attrgetter(path)(library)
    except AttributeError as error:
        name = library.__name__
        raise UnknownVersionError(
            f"relmap needs {name}.{path}, which {name} {version(name)} does not have: install the "
            f"{name} that relmap's constraints.txt names, or a newer relmap"
        ) from error


# --- torch: looked up when this module is imported ------------------------------------------------

_peek_interpreter_stack = needed(torch, "_C._functorch.peek_interpreter_stack")
_DisableTorchFunction = needed(torch, "_C.DisableTorchFunction")
_version, _base = (needed(torch, f"Tensor.{name}").__get__ for name in ("_version", "_base"))
OpOverloadPacket, OpOverload = type(torch.ops.aten.add), type(torch.ops.aten.add.Tensor)
"""What `torch.ops` holds: an operator, and one signature of it."""
_STORAGES_HAVE_ADDRESSES = hasattr(torch.UntypedStorage, "_cdata")


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of an operator: `kind` is its type as torch spells it, empty where unknown."""

    name: str
    kind: str
    keyword_only: bool
    required: bool


def parameters_of(operator: Any) -> tuple[tuple[Parameter, ...], ...]:
    """The parameters of every signature of an operator of `torch.ops`.

    Raises:
        UnknownVersionError: This torch's operators do not say what they take.

    Example:
        >>> [parameter.name for parameter in parameters_of(torch.ops.aten.linear)[0]]
        ['input', 'weight', 'bias']
    """
    if isinstance(operator, OpOverloadPacket):
        overloads = [getattr(operator, name) for name in operator.overloads()]
    else:
        overloads = [operator]
    try:
        schemas = [overload._schema.arguments for overload in overloads]
    except AttributeError as error:
        raise UnknownVersionError(
            f"relmap needs _schema of torch's operators, which torch {torch.__version__} does not "
            "have: install the torch of relmap's constraints.txt"
        ) from error
    return tuple(
        tuple(
            Parameter(one.name, str(one.type), one.kwarg_only, not one.has_default_value())
            for one in schema
        )
        for schema in schemas
    )


def inside_transform() -> bool:
    """Whether a function is being mapped over a batch: its tensors do not outlive the mapping."""
    return _peek_interpreter_stack() is not None


def unwatched() -> AbstractContextManager[Any]:
    """A block in which no mode and no subclass of Tensor sees the functions that are called."""
    return _DisableTorchFunction()


def version_of(tensor: Tensor) -> int:
    """How often a tensor was written on; those made in inference mode do not count.

    Example:
        >>> tensor = torch.zeros(2)
        >>> version_of(tensor), version_of(tensor.add_(1))
        (0, 1)
    """
    return 0 if tensor.is_inference() else _version(tensor)


def base_of(view: Tensor) -> Tensor | None:
    """The tensor that a view looks into; None for a tensor of its own."""
    return _base(view)


def storage_of(tensor: Tensor) -> int:
    """A number that tensors share if and only if they lie in the same memory.

    Example:
        >>> tensor = torch.zeros(2, 3)
        >>> storage_of(tensor) == storage_of(tensor[1])
        True
    """
    if tensor.layout != torch.strided:
        return id(tensor)
    storage = tensor.untyped_storage()
    if _STORAGES_HAVE_ADDRESSES:
        return storage._cdata
    return storage.data_ptr() or id(tensor)  # what is empty shares nothing


def hooks_of(module: nn.Module) -> int:
    """How many functions run before or after a module's forward.

    Example:
        >>> hooks_of(torch.nn.Linear(2, 2))
        0
    """
    return len(module._forward_hooks) + len(module._forward_pre_hooks)


def compiled_from(module: nn.Module) -> nn.Module | None:
    """The module that `torch.compile` made another of; None for one that it did not make.

    The class has no public name; a torch that calls it otherwise leaves compiled modules to be
    copied as they are.
    """
    if type(module).__name__ != "OptimizedModule":
        return None
    return dict(module.named_children()).get("_orig_mod")


def registries_of(module: nn.Module) -> Iterator[str]:
    """The attributes in which torch keeps parts and hooks of a module, as dictionaries."""
    for name, value in vars(module).items():
        if isinstance(value, dict) and (
            name in ("_parameters", "_buffers", "_modules") or "_hooks" in name
        ):
            yield name


# --- autograd's graph -----------------------------------------------------------------------------

_LEAF_ORDER = 1 << 62
"""Leaves have no place of their own in the order: theirs is the highest number that there is."""


def autograd_order(node: Any) -> int | None:
    """The place of a step of autograd in the order in which it was taken; None for a leaf.

    Raises:
        UnknownVersionError: This torch does not number the steps.
    """
    try:
        number = node._sequence_nr()
    except AttributeError as error:
        raise UnknownVersionError(
            f"relmap needs _sequence_nr of autograd's nodes, which torch {torch.__version__} does "
            f"not have: use another backward or method, or the torch of relmap's constraints.txt"
        ) from error
    return None if number >= _LEAF_ORDER else number


def is_copy(node: Any) -> bool:
    """Whether a tensor is, after this step of autograd, still what it was."""
    return node.name() in _names_of_copies()


@cache
def _names_of_copies() -> frozenset[str]:
    """What this torch calls a copy, a cast and a view, learned from one of each."""
    with unwatched(), torch.inference_mode(False), torch.enable_grad():
        leaf = torch.zeros(1, device="cpu", dtype=torch.float32, requires_grad=True)
        copies = (leaf.clone(), leaf.to(torch.float64), leaf.view(1, 1))
        return frozenset(get_gradient_edge(copy).node.name() for copy in copies)


# --- Python's frames ------------------------------------------------------------------------------


def objects_running() -> Iterator[Any]:
    """The objects whose methods are running, innermost first, by the frames of this thread.

    Raises:
        UnknownVersionError: This Python shows no frames.
    """
    frame = inspect.currentframe()
    if frame is None:
        raise UnknownVersionError("relmap needs a Python that shows its frames, as CPython does")
    frame = frame.f_back
    while frame is not None:
        owner = frame.f_locals.get("self") if frame.f_code.co_argcount else None
        if owner is not None:
            yield owner
        frame = frame.f_back


# --- transformers ---------------------------------------------------------------------------------

_HEADS = {
    "language": ("CausalLM", "ConditionalGeneration", "Seq2SeqLM", "LMHead", "DoubleHeads"),
    "masked": ("Masked",),
    "token classes": ("TokenClassif",),
    "sequence classes": ("SequenceClassif",),
    "answer spans": ("QuestionAnswering",),
    "detection": ("Detection",),
}
"""Parts of the names of classes, of networks and of outputs, and of what head they speak."""


def has_head(named: object, *kinds: str) -> bool:
    """Whether a network, an output or an architecture's name is called after one of these heads.

    transformers gives all its classification outputs, say, the same fields; what sets a sentence's
    apart from a token's is what it calls them. A name that says nothing is no error: what reads an
    output then goes by shapes, and refuses what it cannot tell.

    Example:
        >>> has_head("BertForMaskedLM", "language"), has_head("GPT2LMHeadModel", "language")
        (False, True)
    """
    name = named if isinstance(named, str) else type(named).__name__
    return any(word in name for kind in kinds for word in _HEADS[kind])


def auto_classes(auto: Any, config: Any) -> tuple[type, ...]:
    """The classes that one of transformers' Auto classes would make of a config; often none.

    Raises:
        UnknownVersionError: This version of transformers keeps no such table.
    """
    import transformers

    known = needed(transformers, f"{auto.__name__}._model_mapping").get(type(config), ())
    return tuple(known) if isinstance(known, list | tuple) else (known,)
