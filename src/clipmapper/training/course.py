"""The course of a run: which example is seen at which step, at which learning rate.

Both are pure functions of the seed and the step. Nothing is drawn as training goes along, so a
run that was killed and resumed, or that is spread over several processes, sees what an
undisturbed one on a single process sees.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from jaxtyping import Int

from clipmapper.training.recipe import Recipe, Stage
from relmap.errors import InputError

__all__ = ["Course", "Leg", "make_course"]


@dataclass(frozen=True)
class Leg:
    """A stage as it is run: its steps, and its examples by kind with their number per turn."""

    stage: Stage
    start: int
    steps: int
    pools: tuple[Int[np.ndarray, "_"], ...]
    per_turn: tuple[int, ...]


class Course:
    """Positions in training, from 0, to rows of the data; steps to learning rates.

    A turn of a stage is as long as its examples are many. It holds every kind of question in
    proportion to number times weight, each kind in an order of its own that starts anew, shuffled
    again, only when all its questions were asked.

    Example:
        >>> leg = Leg(Stage(learning_rate=0.5), 0, 3, (np.arange(4),), (4,))
        >>> course = Course([leg], batch_size=4, seed=0)
        >>> sorted(course.rows(np.arange(4, 8)).tolist()), course.steps, course.learning_rate(0)
        ([0, 1, 2, 3], 3, 0.5)
    """

    def __init__(self, legs: Sequence[Leg], batch_size: int, seed: int) -> None:
        self.legs = tuple(legs)
        self.batch_size = batch_size
        self.seed = seed
        self.steps = sum(leg.steps for leg in legs)
        self._turn = lru_cache(maxsize=2)(self._order)  # a batch may lie across two turns

    def __len__(self) -> int:
        return self.steps * self.batch_size

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in vars(self).items() if name != "_turn"}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state)
        self._turn = lru_cache(maxsize=2)(self._order)

    def rows(self, positions: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """The rows of the data that are seen at these positions of the run."""
        found = np.empty(len(positions), dtype=np.int64)
        for number, leg in enumerate(self.legs):
            start, length = leg.start * self.batch_size, leg.steps * self.batch_size
            inside = (positions >= start) & (positions < start + length)
            if not inside.any():
                continue
            turns, places = np.divmod(positions[inside] - start, sum(leg.per_turn))
            rows = np.empty(len(turns), dtype=np.int64)
            for turn in np.unique(turns):
                of_turn = turns == turn
                rows[of_turn] = self._turn(number, int(turn))[places[of_turn]]
            found[inside] = rows
        return found

    def leg_at(self, step: int) -> Leg:
        """The stage that a step belongs to; the last one after the end."""
        return next((leg for leg in self.legs if step < leg.start + leg.steps), self.legs[-1])

    def learning_rate(self, step: int) -> float:
        """The learning rate of the step with this number, counted from 0."""
        leg = self.leg_at(step)
        stage, at = leg.stage, step - leg.start
        rate, warmup = stage.learning_rate or 0.0, stage.warmup_steps or 0
        if at < warmup:
            return rate * (at + 1) / warmup
        begin = warmup if stage.decay_from is None else stage.decay_from
        begin = max(begin * leg.steps if isinstance(begin, float) else begin, warmup)
        if stage.schedule in (None, "constant") or at < begin or leg.steps <= begin:
            return rate
        gone = min((at - begin) / (leg.steps - begin), 1.0)
        left = 1 - gone if stage.schedule == "linear" else (1 + math.cos(math.pi * gone)) / 2
        final = stage.final or 0.0
        return rate * (final + (1 - final) * left)

    def _order(self, number: int, turn: int) -> Int[np.ndarray, " n"]:
        """The rows of one turn of a stage, in the order in which they are seen."""
        leg = self.legs[number]
        parts = []
        for kind, (pool, count) in enumerate(zip(leg.pools, leg.per_turn, strict=True)):
            rounds, places = np.divmod(np.arange(turn * count, (turn + 1) * count), len(pool))
            for again in np.unique(rounds).tolist():
                shuffled = self._random(number, 1 + kind, again).permutation(pool)
                parts.append(shuffled[places[rounds == again]])
        return self._random(number, 0, turn).permutation(np.concatenate(parts))

    def _random(self, *place: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, *place])


def make_course(
    recipe: Recipe, kinds: Sequence[str], *, seed: int, samples: int | None = None
) -> Course:
    """The course of a recipe over examples of these kinds.

    `samples` shortens or lengthens all stages in proportion, for a trial of a recipe; steps of
    warm-up, and steps from which a rate decays, go with them.

    Raises:
        InputError: A stage names a kind that no example has, or is left without examples.
    """
    training = recipe.training
    names, codes = np.unique(np.asarray(kinds, dtype=object).astype(str), return_inverse=True)
    by_kind = {str(name): np.flatnonzero(codes == code) for code, name in enumerate(names)}
    chosen = [_choose(stage, by_kind) for stage in recipe.stages]
    wanted = [
        stage.samples or (stage.epochs or 0) * sum(len(pool) for pool in pools.values())
        for stage, pools in zip(recipe.stages, chosen, strict=True)
    ]
    scale = 1.0 if samples is None else samples / sum(wanted)
    legs: list[Leg] = []
    for stage, pools, length in zip(recipe.stages, chosen, wanted, strict=True):
        start = legs[-1].start + legs[-1].steps if legs else 0
        # rounded up against one half too many that the scaling may leave
        steps = max(math.ceil(length * scale / training.batch_size - 1e-9), 1)
        shares = _shares(stage, pools)
        legs.append(Leg(_scaled(stage, scale), start, steps, tuple(pools.values()), shares))
    return Course(legs, training.batch_size, seed)


def _scaled(stage: Stage, scale: float) -> Stage:
    """The stage with its steps as many times as long; shares of it are what they were."""
    warmup, begin = stage.warmup_steps, stage.decay_from
    return replace(
        stage,
        warmup_steps=None if warmup is None else round(warmup * scale),
        decay_from=round(begin * scale) if isinstance(begin, int) else begin,
    )


def _choose(
    stage: Stage, by_kind: Mapping[str, Int[np.ndarray, "_"]]
) -> dict[str, Int[np.ndarray, "_"]]:
    unknown = [kind for kind in (*(stage.kinds or ()), *stage.weights) if kind not in by_kind]
    if unknown:
        raise InputError(
            f"stage {stage.name!r} asks for {', '.join(map(repr, unknown))}, but the data has only "
            f"{', '.join(by_kind)}"
        )
    wanted = by_kind if stage.kinds is None else stage.kinds
    pools = {kind: by_kind[kind] for kind in wanted if stage.weights.get(kind, 1.0) > 0}
    if not pools:
        raise InputError(f"stage {stage.name!r} has no examples")
    return pools


def _shares(stage: Stage, pools: Mapping[str, Int[np.ndarray, "_"]]) -> tuple[int, ...]:
    """Examples of each kind in a turn: in proportion to number times weight, in whole numbers."""
    total = sum(len(pool) for pool in pools.values())
    weights = [len(pool) * stage.weights.get(kind, 1.0) for kind, pool in pools.items()]
    bounds = np.rint(np.cumsum([0.0, *weights]) / sum(weights) * total).astype(int)
    return tuple(np.diff(bounds).tolist())
