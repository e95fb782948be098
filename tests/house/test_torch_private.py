"""What torch and transformers do not promise: asked for in one file, and what we take it for."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator

import pytest
import torch
import transformers
from reference.house import sources
from torch.autograd.graph import get_gradient_edge

from relmap._torch_private import (
    UnknownVersionError,
    auto_classes,
    autograd_order,
    base_of,
    has_head,
    inside_transform,
    is_copy,
    needed,
    objects_running,
    storage_of,
    unwatched,
    version_of,
)

HOME = "relmap._torch_private"

# What transformers tells authors of models to write, in its guide to a model of one's own.
DOCUMENTED = {"_init_weights", "_supports_sdpa", "_no_split_modules", "_attn_implementation"}
FRAGILE = {"f_locals", "f_back", "currentframe", "settrace", "setprofile", "gc"}


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name != "_"


def own_names(tree: ast.AST) -> set[str]:
    """Private names that a source gives to things of its own."""
    own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            own.add(node.attr)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            own.add(node.target.id)
    return own


def private_uses(source: str) -> Iterator[str]:
    """Where a source uses what a library does not promise."""
    tree = ast.parse(source)
    own = own_names(tree) | DOCUMENTED
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            if node.attr in FRAGILE or (private(node.attr) and node.attr not in own):
                yield f"line {node.lineno}: .{node.attr}"
        elif isinstance(node, ast.ImportFrom) and not node.level:
            parts = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            if (node.module or "").split(".")[0] not in ("relmap", "clipmapper", "__future__"):
                yield from (f"line {node.lineno}: {part}" for part in parts if private(part))
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr"):
            name = node.args[1]
            text = str(name.value) if isinstance(name, ast.Constant) else ""
            if private(text) and text not in own | {"_fields"}:
                yield f"line {node.lineno}: {text}"
        elif isinstance(node, ast.Compare):
            text = ast.unparse(node)
            if "type(" in text and ".__name__" in text:
                yield f"line {node.lineno}: a class by its name"


def overridden(source: str) -> Iterator[str]:
    """Private methods that nobody in a source calls: a library's own, which it writes anew."""
    tree = ast.parse(source)
    known = DOCUMENTED | {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    classes = (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
    for part in (part for node in classes for part in node.body):
        if isinstance(part, ast.FunctionDef) and private(part.name) and part.name not in known:
            yield f"line {part.lineno}: {part.name}"


@pytest.mark.parametrize(
    "source",
    [
        "import torch\nwith torch._C.DisableTorchFunction(): pass",
        "from torch._C._functorch import peek_interpreter_stack",
        "def f(tensor): return tensor._version",
        "def f(auto): return getattr(auto, '_model_mapping')",
        "def f(x): return 'Masked' in type(x).__name__",
        "import sys\nframe = sys._getframe(1)",
        "def f(frame): return frame.f_locals",
    ],
)
def test_a_private_use_is_seen(source):
    assert list(private_uses(source))


def test_an_overridden_private_method_is_seen():
    trainer = "class A(Trainer):\n    def _get_train_sampler(self): return None"
    assert list(overridden(trainer)) == ["line 2: _get_train_sampler"]


@pytest.mark.parametrize("module", [name for name in sources() if name != HOME])
def test_no_other_file_uses_what_is_not_promised(module):
    source = sources()[module].read_text(encoding="utf-8")
    assert [*private_uses(source), *overridden(source)] == []


def test_what_a_library_lacks_is_an_error_that_names_it():
    with pytest.raises(UnknownVersionError, match=r"torch\._C\.gone, which torch 2"):
        needed(torch, "_C.gone")


def test_functions_mapped_over_a_batch_are_known():
    seen = []

    def double(x):
        seen.append(inside_transform())
        return x * 2

    torch.vmap(double)(torch.ones(3))
    assert seen == [True]
    assert not inside_transform()


def test_nothing_is_watched_in_an_unwatched_block():
    class Watching(torch.overrides.TorchFunctionMode):
        names: list[str] = []  # noqa: RUF012

        def __torch_function__(self, function, types, args=(), kwargs=None):
            self.names.append(function.__name__)
            return function(*args, **(kwargs or {}))

    with Watching() as mode:
        torch.add(1, torch.ones(1))
        with unwatched():
            torch.mul(1, torch.ones(1))
    assert "add" in mode.names
    assert "mul" not in mode.names


def test_writes_views_and_memory_are_seen():
    tensor = torch.zeros(2, 3)
    detached, view = tensor.detach(), tensor[1]
    view.add_(1)
    assert version_of(tensor) == version_of(detached) == 1
    assert base_of(view) is tensor
    assert base_of(tensor) is None
    assert storage_of(detached) == storage_of(view) != storage_of(tensor.clone())
    assert storage_of(torch.empty(0)) != storage_of(torch.empty(0).clone())
    with torch.inference_mode():
        assert version_of(torch.ones(1)) == 0


def node(tensor):
    return get_gradient_edge(tensor).node


def test_autograd_tells_what_came_first_and_what_is_a_copy():
    leaf = torch.ones(2, requires_grad=True)
    first = leaf * 2
    second = first.clone()
    assert autograd_order(node(leaf)) is None
    assert autograd_order(node(first)) < autograd_order(node(second))
    assert is_copy(node(second))
    assert is_copy(node(first.double()))
    assert is_copy(node(first.view(2, 1)))
    assert not is_copy(node(first))
    assert not is_copy(node(leaf))


def test_a_torch_that_does_not_number_its_steps_is_named():
    with pytest.raises(UnknownVersionError, match="_sequence_nr"):
        autograd_order(object())


def test_the_objects_that_run_are_seen_from_within():
    class Inner:
        def seen(self):
            return list(objects_running())

    class Outer:
        def __init__(self):
            self.inner = Inner()

        def seen(self):
            return self.inner.seen()

    outer = Outer()
    assert outer.seen()[:2] == [outer.inner, outer]
    assert inspect.currentframe() is not None


@pytest.mark.parametrize("name", ["BertConfig", "T5Config", "CLIPConfig"])
@pytest.mark.parametrize("auto", ["AutoModelForMaskedLM", "AutoModelForSequenceClassification"])
def test_auto_classes_are_those_that_transformers_would_make(auto, name):
    auto, config = getattr(transformers, auto), getattr(transformers, name)()
    known = auto_classes(auto, config)
    if known:
        small = {"num_hidden_layers": 1, "hidden_size": 12, "intermediate_size": 8}
        small |= {"num_layers": 1, "d_model": 12, "d_ff": 8, "vocab_size": 9}
        for key, value in small.items():
            if hasattr(config, key):
                setattr(config, key, value)
        assert type(auto.from_config(config)) in known
    else:
        with pytest.raises(ValueError, match="Unrecognized configuration class"):
            auto.from_config(config)


@pytest.mark.parametrize(
    ("named", "kinds"),
    [
        (transformers.modeling_outputs.MaskedLMOutput(), {"masked"}),
        (transformers.modeling_outputs.CausalLMOutput(), {"language"}),
        (transformers.modeling_outputs.Seq2SeqLMOutput(), {"language"}),
        (transformers.modeling_outputs.TokenClassifierOutput(), {"token classes"}),
        (transformers.modeling_outputs.SequenceClassifierOutput(), {"sequence classes"}),
        (transformers.modeling_outputs.QuestionAnsweringModelOutput(), {"answer spans"}),
        (transformers.models.detr.modeling_detr.DetrObjectDetectionOutput(), {"detection"}),
        (transformers.modeling_outputs.BaseModelOutput(), set()),
    ],
    ids=lambda value: type(value).__name__,
)
def test_outputs_say_by_their_class_what_head_they_come_from(named, kinds):
    known = ("language", "masked", "token classes", "sequence classes", "answer spans", "detection")
    assert {kind for kind in known if has_head(named, kind)} == kinds
