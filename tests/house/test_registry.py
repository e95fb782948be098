"""Registries: names and spellings, discovery of sibling files and plug-ins, and what errors say."""

from __future__ import annotations

import importlib
import importlib.metadata
import itertools
import pickle
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest

from relmap.errors import EXTRAS, InputError, MissingExtraError, RelmapError, TraceError
from relmap.registry import Entry, Registry

ROOM = """
from dataclasses import dataclass

from relmap.errors import InputError
from relmap.registry import Entry, Registry

@dataclass(frozen=True, kw_only=True)
class Plant(Entry):
    operands = ("seed", "place")
    optional = ("place",)
    tall: bool
    needs: tuple[str, ...] = ()

    def __post_init__(self):
        if "mud" in self.needs:
            raise InputError("nobody needs mud")

PLANTS = Registry("plant", "{package}", Plant)
"""
SIBLING = '''
from {package} import PLANTS

@PLANTS.register("oak-tree", aliases=("quercus",), reference="linnaeus", tall=True)
def oak(seed, *, age=1, soil: str = "loam"):
    """A tree.

    With acorns.
    """
'''
_numbers = itertools.count()


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Registry]]:
    """Makes a package whose `__init__` holds PLANTS and whose files register themselves."""
    package = f"garden{next(_numbers)}"
    folder = tmp_path / package
    folder.mkdir()
    monkeypatch.syspath_prepend(tmp_path)

    def make(**siblings: str) -> Registry:
        (folder / "__init__.py").write_text(ROOM.format(package=package))
        for name, source in siblings.items():
            (folder / f"{name}.py").write_text(source.format(package=package))
        importlib.invalidate_caches()
        return importlib.import_module(package).PLANTS

    yield make
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        del sys.modules[name]


class Point:
    """Stands in for an entry point."""

    def __init__(self, name: str, load: Callable[[], object]) -> None:
        self.name, self.value, self.load = name, f"somewhere:{name}", load


def test_siblings_are_imported_on_the_first_question_only(room):
    plants = room(oak=SIBLING)
    assert f"{plants.package}.oak" not in sys.modules
    assert plants.names() == ["oak-tree"]
    assert f"{plants.package}.oak" in sys.modules


def test_an_entry_says_what_its_decorator_and_docstring_say(room):
    entry = room(oak=SIBLING).get("oak-tree")
    assert entry.function.__name__ == "oak"
    assert (entry.about, entry.reference, entry.needs) == ("A tree.", "linnaeus", ())
    assert entry.tall
    with pytest.raises(FrozenInstanceError):
        entry.tall = False


@pytest.mark.parametrize("spelling", ["oak-tree", "Oak_Tree", " OAK TREE ", "quercus", "Quercus"])
def test_spellings(room, spelling):
    plants = room(oak=SIBLING)
    assert plants.get(spelling).name == "oak-tree"
    assert spelling in plants


def test_options_are_the_keyword_only_parameters(room):
    options = room(oak=SIBLING).options("quercus")
    assert {name: option.default for name, option in options.items()} == {"age": 1, "soil": "loam"}


def test_it_is_a_collection_of_names(room):
    plants = room(oak=SIBLING, ash=SIBLING.replace("oak", "ash").replace("quercus", "fraxinus"))
    assert list(plants) == plants.names() == ["ash-tree", "oak-tree"]
    assert [entry.name for entry in plants.entries()] == plants.names()
    assert len(plants) == 2
    assert 7 not in plants


def test_an_unknown_name_suggests_and_lists(room):
    plants = room(oak=SIBLING)
    with pytest.raises(
        InputError, match=r"no plant 'oaktree'. Did you mean 'oak-tree'\? Known: oak"
    ):
        plants.get("oaktree")
    with pytest.raises(InputError, match=r"no plant 'zzz'. Known: oak-tree"):
        plants.get("zzz")
    with pytest.raises(InputError, match="Known: none"):
        Registry("plant", "colorsys", Entry).get("oak")


@pytest.mark.parametrize("name", ["OakTree", "oak_tree", "oak--tree", "-oak", ""])
def test_names_are_kebab_case(name):
    with pytest.raises(InputError, match="kebab case"):
        Registry("plant", "colorsys", Entry).register(name)


@pytest.mark.parametrize("aliases", [(), ("Elm",)])
def test_a_taken_name_is_refused(aliases):
    plants = Registry("plant", "colorsys", Entry)
    plants.register("elm")(len)
    with pytest.raises(InputError, match=r"'elm' is taken by builtins.len"):
        plants.register("elm-tree" if aliases else "elm", aliases=aliases)(print)
    assert plants.names() == ["elm"]
    assert plants.get("elm").function is len


def grow(room, declared="tall=True", signature="seed, *, age=1"):
    source = '@PLANTS.register("oak", {declared})\ndef oak({signature}): ...'
    return room(
        oak="from {package} import PLANTS\n" + source.format(declared=declared, signature=signature)
    )


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ("tal=True", "no keyword 'tal'. Did you mean 'tall'"),
        ("name_=True, tall=True", "no keyword 'name_'"),
        ("function=len, tall=True", "no keyword 'function'"),
        ("", "must declare tall="),
        ("tall=True, needs=('mud',)", "The plant 'oak' cannot be registered: nobody needs mud"),
    ],
)
def test_what_is_declared_is_checked_when_it_is_registered(room, declared, message):
    with pytest.raises(InputError, match=re.escape(message)):
        grow(room, declared).names()


@pytest.mark.parametrize(
    ("signature", "message"),
    [
        ("seed, place, age=1", "'age' could be given by position, too: put a \\* before it"),
        ("", r"called with \(seed, place\), but takes \(\)"),
        ("*seeds", r"with \*seeds a misspelt option would vanish"),
        ("seed, **options", r"with \*\*options a misspelt option would vanish"),
        ("seed, *, age", "its option 'age' has no default"),
    ],
)
def test_every_option_is_keyword_only_and_has_a_default(room, signature, message):
    with pytest.raises(InputError, match=message):
        grow(room, signature=signature).names()


@pytest.mark.parametrize("signature", ["seed", "seed, place", "seed, place='bog', *, age=1"])
def test_operands_may_be_left_out_where_the_room_says_so(room, signature):
    assert grow(room, signature=signature).names() == ["oak"]


def test_hints_for_type_checkers_alone_are_not_checked(room):
    source = SIBLING.replace("age=1", 'age: int = 1, when: "Season | None" = None')
    source = source.replace("from {package}", "from __future__ import annotations\nfrom {package}")
    found = room(oak=source).get("oak-tree").option_types()
    assert found == {"age": int, "when": Any, "soil": str}


def test_a_reloaded_module_may_register_again(room):
    plants = room(oak=SIBLING)
    before = plants.get("oak-tree").function
    importlib.reload(sys.modules[f"{plants.package}.oak"])
    assert plants.get("oak-tree").function is not before


def test_a_sibling_that_fails_is_an_error_every_time(room):
    plants = room(oak="raise OSError('no rain')")
    for _ in range(2):
        with pytest.raises(OSError, match="no rain"):
            plants.names()


def test_plugins_come_from_entry_points_of_the_rooms_name(monkeypatch):
    plants = Registry("plant", "colorsys", Entry)
    groups = []

    def entry_points(*, group):
        groups.append(group)
        return [Point("fern", lambda: plants.register("fern")(len))]

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
    assert plants.names() == ["fern"]
    assert groups == ["colorsys"]


def test_a_broken_plugin_is_left_out_with_a_warning(monkeypatch):
    def broken():
        raise ModuleNotFoundError("no spores")

    plants = Registry("plant", "colorsys", Entry)
    plants.register("elm")(len)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [Point("fern", broken)])
    with pytest.warns(RuntimeWarning, match=r"plant plug-in 'fern' \(somewhere:fern\).*no spores"):
        assert plants.names() == ["elm"]


def test_what_a_broken_plugin_had_registered_is_taken_out_again(monkeypatch):
    plants = Registry("plant", "colorsys", Entry)
    plants.register("elm", aliases=("ulmus",))(len)

    def broken():
        plants.register("fern", aliases=("bracken",))(print)
        raise OSError("no spores")

    points = [Point("fern", broken), Point("moss", lambda: plants.register("moss")(max))]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: points)
    with pytest.warns(RuntimeWarning, match="'fern'"):
        assert plants.names() == ["elm", "moss"]
    assert "ulmus" in plants
    assert "bracken" not in plants


def test_errors_are_what_python_users_expect():
    assert issubclass(InputError, ValueError)
    assert issubclass(TraceError, RuntimeError)
    assert issubclass(MissingExtraError, ImportError)
    assert all(
        issubclass(kind, RelmapError) for kind in (InputError, TraceError, MissingExtraError)
    )


@pytest.mark.parametrize("extra", EXTRAS)
def test_a_missing_extra_is_one_sentence_with_the_command(extra):
    error = MissingExtraError(extra)
    assert str(error) == (
        f"relmap's {EXTRAS[extra]} need the extra '{extra}': pip install 'relmap[{extra}]'"
    )
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_an_option_with_a_new_name_answers_to_the_old_one(room):
    plants = room()

    @plants.register("elm", tall=True, renamed={"years": "age"})
    def elm(seed, *, age=1):
        """A tree."""

    with pytest.warns(DeprecationWarning, match="'years' is called 'age'"):
        entry, options = plants.read("elm:years=5")
    assert entry.check_options(options) == {"age": 5}
    assert "years" not in entry.options
    with pytest.raises(InputError, match="'years' is the old name of 'age'"):
        plants.read("elm:years=5,age=6")
