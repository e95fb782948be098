"""What each room refuses to register, and that the message names the way out."""

from __future__ import annotations

import pytest

from relmap.backwards import BACKWARDS
from relmap.data import DATA
from relmap.errors import InputError
from relmap.methods import METHODS, Need
from relmap.metrics import METRICS
from relmap.models import SOURCES
from relmap.scoring import SCORES
from relmap.targets import TARGETS

MASK = {"needs": ("mask",), "direction": "higher", "category": "localisation"}


def takes_one(passed, *, layer=0): ...


def takes_two(one, other): ...


def takes_nothing(*, gamma=1.0): ...


def takes_an_option_by_position(passed, layer=0): ...


def swallows(passed, **options): ...


@pytest.mark.parametrize(
    ("registry", "function", "declared", "message"),
    [
        (METHODS, takes_one, {"needs": ("attention-gradeint",)},
         "no need 'attention-gradeint'. Did you mean 'attention-gradient'"),
        (METHODS, takes_one, {"needs": "attention"}, "write needs=('attention',)"),
        (METHODS, takes_one, {"need": ("attention",)},
         "no keyword 'need'. Did you mean 'needs'"),
        (METHODS, takes_one, {"families": ("gradeint",)}, "families=('gradeint',)"),
        (METHODS, takes_an_option_by_position, {}, "'layer' could be given by position"),
        (METHODS, swallows, {}, "**options a misspelt option would vanish"),
        (METHODS, takes_two, {}, "called with (passed)"),
        (BACKWARDS, takes_nothing, {}, "must declare family="),
        (BACKWARDS, takes_nothing, {"family": "gradeint"}, "neither 'gradient' nor 'relevance'"),
        (BACKWARDS, takes_one, {"family": "gradient"}, "'passed' could be given by position"),
        (METRICS, takes_two, MASK | {"direction": "up"}, "neither 'higher' nor 'lower'"),
        (METRICS, takes_two, MASK | {"direction": {}}, "neither 'higher' nor 'lower'"),
        (METRICS, takes_two, MASK | {"category": "truth"}, "is not one of faithfulness"),
        (METRICS, takes_two, MASK | {"needs": ("masks",)}, "not one of mask, words, model"),
        (METRICS, takes_two, MASK | {"summary": {"mIoU": len}}, "declares no direction"),
        (METRICS, takes_two, MASK | {"needs": ("model",)}, "called with (trial)"),
        (METRICS, takes_one, MASK, "called with (map, mask)"),
        *(
            (METRICS, takes_two, {key: MASK[key] for key in MASK if key != left}, f"{left}=")
            for left in MASK
        ),
        (TARGETS, takes_one, {"needs": ("output",)}, "no keyword 'needs'"),
        (DATA, takes_nothing, {}, "called with (path, split)"),
        (DATA, takes_one, {"file": len}, "no keyword 'file'. Did you mean 'files'"),
        (SCORES, takes_one, {}, "called with (captions, references)"),
        (SOURCES, takes_one, {"usages": "x"}, "no keyword 'usages'. Did you mean 'usage'"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_at_registration(registry, function, declared, message):
    names = registry.names()
    with pytest.raises(InputError) as refusal:
        registry.register("my-plug-in", **declared)(function)
    assert message in str(refusal.value)
    assert f"The {registry.kind} 'my-plug-in' cannot be registered" in str(refusal.value)
    assert registry.names() == names


def test_needs_are_members_and_may_be_written_as_strings():
    assert METHODS.get("genatt").needs == (
        Need.ATTENTION,
        Need.ATTENTION_GRADIENT,
        Need.CONTRIBUTION,
    )
    assert METHODS.get("genatt").needs == ("attention", "attention-gradient", "contribution")
    assert all(isinstance(need, Need) for entry in METHODS.entries() for need in entry.needs)
