"""Recipes: everything that a training run is, apart from where its files lie.

A recipe is a TOML file with what it trains ("vqa" or "captions"), the mapper's shape, the data it
is meant for, and one or more stages, each with its own questions, length and course of the
learning rate. The files beside this one are found by name. A key that nobody reads would be a
setting silently lost, so it is an error.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from relmap.errors import InputError, MissingExtraError

__all__ = ["RECIPES", "DataPart", "Recipe", "Stage", "Training", "read_recipe"]

RECIPES = Path(__file__).parent / "recipes"
"""Where the recipes lie that a name alone finds."""

CHOICES = {
    "task": ("vqa", "captions"),
    "schedule": ("constant", "linear", "cosine"),
    "optimizer": ("adam", "adamw"),
    "loss": ("binary", "cross-entropy"),
    "precision": ("auto", "float32", "bfloat16"),
}
FOREIGN = {
    "vqa": {"training": ("beams", "scores", "max_new_tokens")},
    "captions": {
        "data": ("reserve", "reserve_seed", "at_least", "answers"),
        "training": ("loss", "prior"),
    },
}
"""Keys that mean nothing to a task."""

RATES = ("learning_rate", "warmup_steps", "schedule", "decay_from", "final")
POSITIVE = frozenset(
    {"batch_size", "learning_rate", "samples", "epochs", "log_every", "checkpoint_minutes"}
)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stretch of training: which examples, how many, at which learning rates.

    The rate climbs in a straight line over `warmup_steps` from 0 to `learning_rate`, stays, and
    from `decay_from` (steps; a float is a share of the stage) falls to `final` times itself at the
    end of the stage, in a straight line or half a cosine. What a stage leaves out of this it takes
    from [training].

    Attributes:
        name: For the log.
        samples: Examples seen in the stage; or `epochs`, passes over its examples.
        kinds: Kinds of question that are asked; all without it.
        weights: How many times as often as by their number a kind's questions are asked.
    """

    name: str = "all"
    samples: int | None = None
    epochs: float | None = None
    kinds: list[str] | None = None
    weights: Mapping[str, float] = field(default_factory=dict)
    learning_rate: float | None = None
    warmup_steps: int | None = None
    schedule: str | None = None
    decay_from: int | float | None = None
    final: float | None = None


@dataclass(frozen=True, kw_only=True)
class DataPart:
    """The data a recipe is meant for: its format and splits, and how the answers are chosen.

    Attributes:
        format: Name in `relmap.data`; --format overrides it.
        train: Splits that are trained on, together.
        test: Splits that are evaluated at the end; "reserved" is what `reserve` set aside.
        watch: Split that is looked at along the way; without it the first of `test`.
        reserve: Questions of the last split of `train` that are set aside, by `reserve_seed`.
        at_least: Questions that an answer must be the main one of, to become a class.
        answers: Classes at most, the most frequent ones.
    """

    format: str
    train: list[str] = field(default_factory=lambda: ["train"])
    test: list[str] = field(default_factory=list)
    watch: str | None = None
    reserve: int = 0
    reserve_seed: int = 0
    at_least: int = 1
    answers: int | None = None


@dataclass(frozen=True, kw_only=True)
class Training:
    """How weights are changed, when it is looked at, and the learning rates of stages without own.

    Attributes:
        samples: Length of a recipe without stages; or `epochs`.
        loss: "binary" as in the paper, or "cross-entropy" (VQA only).
        prior: Start the head's bias at the answers' log-odds in the training data.
        gradient_clip: Largest norm of the gradient; 0 for none.
        precision: "auto" is bfloat16 on a GPU that has it, else float32.
        evaluate_every: Samples between two looks at the watched split; 0 for none.
        evaluate_limit: Examples of each such look.
        log_every: Steps between two lines of log.jsonl.
        beams: Beams of decoding when captions are evaluated.
        scores: Caption scores at the end; without it, all that can be computed, CLIPScore and
            RefCLIPScore by the frozen CLIP among them.
    """

    batch_size: int
    learning_rate: float
    samples: int | None = None
    epochs: float | None = None
    warmup_steps: int = 0
    schedule: str = "constant"
    decay_from: int | float | None = None
    final: float = 0.0
    optimizer: str = "adam"
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    weight_decay: float = 0.0
    gradient_clip: float = 1.0
    loss: str = "binary"
    prior: bool = False
    precision: str = "auto"
    evaluate_every: int = 0
    evaluate_limit: int = 2000
    checkpoint_minutes: float = 10.0
    log_every: int = 50
    beams: int = 1
    scores: list[str] | None = None
    max_new_tokens: int = 40


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A whole training run; `model` are fields of CLIPmapperConfig, `about` goes into the card."""

    name: str
    task: str
    about: str
    data: DataPart
    training: Training
    model: Mapping[str, Any] = field(default_factory=dict)
    stages: tuple[Stage, ...] = ()


def read_recipe(name: str | Path, task: str | None = None) -> Recipe:
    """A recipe by the name of a shipped one or the path of a TOML file.

    Raises:
        InputError: There is no such recipe, it is no TOML, a key is unknown, missing or has a
            value that it cannot have, or it is for another task.
        MissingExtraError: pydantic is not installed.

    Example:
        >>> read_recipe("vqa-v2").data.reserve
        10000
        >>> read_recipe("vqa-v3")
        Traceback (most recent call last):
        relmap.errors.InputError: there is no recipe 'vqa-v3'; did you mean 'vqa-v2'? ...
    """
    path = _find(name)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"the recipe {str(path)!r} cannot be read: {error}") from error
    where = f"recipe {path.name}"
    _check_keys(table, ("task", "about", "model", "data", "training", "stage"), where)
    if not isinstance(table.get("stage", []), list):
        raise InputError(f"{where}: stages are written [[stage]], one for each")
    _check_task(table, where)
    stages = table.pop("stage", [])
    if "task" in table:
        _check("task", table["task"], where)
    _check_part(DataPart, table.get("data", {}), f"{where}, [data]")
    _check_part(Training, table.get("training", {}), f"{where}, [training]")
    for number, stage in enumerate(stages, start=1):
        _check_part(Stage, stage, f"{where}, stage {number}")
    recipe = _build(
        {"data": {}, "training": {}} | table | {"name": path.stem, "stages": stages}, where
    )
    if task is not None and recipe.task != task:
        raise InputError(f"{where} is for 'relmap train {recipe.task}', not for {task!r}")
    _check_lengths(recipe, where)
    return replace(recipe, stages=tuple(_complete(recipe)))


def _complete(recipe: Recipe) -> Iterator[Stage]:
    """The stages, with what they leave out taken from [training]; at least one."""
    training = recipe.training
    whole = Stage(name=recipe.task, samples=training.samples, epochs=training.epochs)
    for stage in recipe.stages or (whole,):
        left_out = [name for name in RATES if getattr(stage, name) is None]
        yield replace(stage, **{name: getattr(training, name) for name in left_out})


def _find(name: str | Path) -> Path:
    path = Path(name)
    shipped = {one.stem: one for one in sorted(RECIPES.glob("*.toml"))}
    if path.suffix == ".toml" and path.is_file():
        return path
    if str(name) in shipped:
        return shipped[str(name)]
    known = f"Shipped: {', '.join(shipped)}; or the path of a .toml file."
    raise InputError(f"there is no recipe {str(name)!r}{_meant(str(name), shipped)} {known}")


def _build(table: Mapping[str, Any], where: str) -> Recipe:
    """A recipe from TOML's tables, every value of its field's type."""
    try:
        from pydantic import TypeAdapter, ValidationError
    except ImportError as error:
        raise MissingExtraError("train") from error
    try:
        # Strict, as TOML is: a text is no number, but a whole number is one without its point.
        return TypeAdapter(Recipe).validate_json(json.dumps(table, default=str), strict=True)
    except ValidationError as error:
        raise InputError(_first_problem(error.errors(), where)) from error


def _first_problem(problems: Sequence[Any], where: str) -> str:
    """The first thing that is wrong with a recipe, in a sentence."""
    first = problems[0]
    table, depth = first["loc"][0], {"data": 1, "training": 1, "model": 1, "stages": 2}
    key = first["loc"][min(depth.get(table, 0), len(first["loc"]) - 1)]
    if table == "stages":
        where += f", stage {first['loc'][1] + 1}"
    elif key != table:
        where += f", [{table}]"
    if first["type"] == "missing":
        alike = [one["loc"] for one in problems if one["type"] == "missing"]
        lost = [repr(loc[-1]) for loc in alike if loc[:-1] == first["loc"][:-1]]
        return f"{where}: {', '.join(lost)} must be given"
    return f"{where}: {key} = {first['input']!r}: {first['msg'][0].lower()}{first['msg'][1:]}"


def _check_part(kind: type[Any], table: Any, where: str) -> None:
    """Refuses keys that nobody reads and values out of range, before types are looked at."""
    if not isinstance(table, dict):
        raise InputError(f"{where} must be a table, not {table!r}")
    _check_keys(table, [one.name for one in fields(kind)], where)
    for key, value in table.items():
        _check(key, value, where)


def _check_keys(table: Mapping[str, Any], known: Collection[str], where: str) -> None:
    for key in table:
        if key not in known:
            listed = ", ".join(known)
            raise InputError(f"{where}: there is no key {key!r}{_meant(key, known)} Keys: {listed}")


def _check(key: str, value: Any, where: str) -> None:
    """Refuses a value that its key cannot have, of whatever type."""
    if key in CHOICES and value not in CHOICES[key]:
        choices = " or ".join(map(repr, CHOICES[key]))
        raise InputError(f"{where}: {key} = {value!r}{_meant(value, CHOICES[key])} Use {choices}")
    negative = isinstance(value, int | float) and value < 0
    if negative or (key in POSITIVE and value == 0):
        raise InputError(f"{where}: {key} = {value!r} must be above 0")


def _check_task(table: Mapping[str, Any], where: str) -> None:
    task = table.get("task")
    for part, keys in FOREIGN.get(task if isinstance(task, str) else "", {}).items():
        given = table.get(part, {})
        lost = [key for key in keys if isinstance(given, dict) and key in given]
        if lost:
            raise InputError(
                f"{where}, [{part}]: {', '.join(lost)} would be ignored, since the task is {task!r}"
            )


def _check_lengths(recipe: Recipe, where: str) -> None:
    betas = recipe.training.betas
    if not (len(betas) == 2 and all(0 <= one < 1 for one in betas)):
        raise InputError(f"{where}: betas = {betas} must be two numbers from 0 to below 1")
    parts = recipe.stages or (recipe.training,)
    for part in parts:
        if (part.samples is None) == (part.epochs is None):
            name = f"stage {part.name!r}" if isinstance(part, Stage) else "[training]"
            raise InputError(f"{where}: {name} needs its length: either samples or epochs")
    if recipe.stages and (recipe.training.samples or recipe.training.epochs):
        raise InputError(f"{where}: with stages, the length is theirs, not of [training]")
    if recipe.task == "captions" and any(one.kinds or one.weights for one in recipe.stages):
        raise InputError(f"{where}: captions have no kinds, so a stage cannot choose among them")


def _meant(name: Any, known: Any) -> str:
    close = difflib.get_close_matches(str(name), list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else "."
