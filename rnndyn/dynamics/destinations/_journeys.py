"""Sets followed until each is wholly inside a ball."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from tqdm.auto import tqdm

from rnndyn.dynamics.destinations._sets import (
    Balls,
    Ellipsoids,
    advance,
    ball_of_each,
    ball_of_each_box,
    enclose_in_chunks,
    place_of_each,
)
from rnndyn.dynamics.proofs import interval_arithmetic as ia
from rnndyn.dynamics.proofs.interval_arithmetic import Interval

ARRIVED, TRAVELLING, BLURRED, NOT_FINITE = range(4)

_WIDEST_BOX = 1e-3
"""Boxes wider than this, relative to the spread of the balls, are given up: ellipsoids take over from the start."""

_LONGEST = 1.0
"""Ellipsoids whose axes, squared and summed, exceed this share of the spread of the balls are given up."""


class Journeys(NamedTuple):
    """Where K sets went: `balls` (K,), -1 where in none, after `steps` (K,), and how it ended (ARRIVED, ...).

    Of those that did not arrive, as far as floating point tells: the `nearest` ball (K,), how `far` from its centre
    they ended and how `wide` they were by then (K,), both in radii of that ball.
    """

    balls: Int[np.ndarray, " K"]
    steps: Int[np.ndarray, " K"]
    ends: Int[np.ndarray, " K"]
    nearest: Int[np.ndarray, " K"]
    far: Float[np.ndarray, " K"]
    wide: Float[np.ndarray, " K"]

    def words(self, row: int, owners: np.ndarray) -> str:
        """What stood in the way of one set, with the memories that the balls belong to; empty where it arrived."""
        end, steps = self.ends[row], self.steps[row]
        if end == ARRIVED:
            return ""
        if end == NOT_FINITE:
            return f"meets, after {steps} steps, values where f is not known to be finite and continuous"
        place = (
            f"after {steps} steps is {self.wide[row]:.3g} radii wide, {self.far[row]:.3g} radii from the centre of the "
            f"nearest ball, that of memory {owners[self.nearest[row]]}"
        )
        if end == TRAVELLING:
            return f"{place}: raise max_steps"
        return f"{place}: too wide to be followed, as near a boundary of basins"


def _none(num: int) -> Journeys:
    whole = lambda fill: np.full(num, fill)
    return Journeys(whole(-1), whole(0), whole(TRAVELLING), whole(0), whole(np.nan), whole(np.nan))


def follow_states(
    f: Callable, states: Float[np.ndarray, "K N"], balls: Balls, max_steps: int, *, progress: bool
) -> Journeys:
    """Follow states: first as boxes, which is cheap, and those whose boxes grow too wide again as ellipsoids."""
    found = follow_boxes(f, states, balls, max_steps)
    left = np.flatnonzero(found.ends == BLURRED)
    if left.size:
        num, size = len(left), states.shape[1]
        eyes = np.broadcast_to(np.eye(size), (num, size, size)).copy()
        again = follow_sets(f, Ellipsoids(states[left], eyes, np.zeros(num)), balls, max_steps, progress=progress)
        for whole, part in zip(found, again):
            whole[left] = part
    return found


def follow_boxes(f: Callable, states: np.ndarray, balls: Balls, max_steps: int) -> Journeys:
    """Follow states by interval arithmetic alone, for as long as the boxes stay small."""
    num = len(states)
    out = _none(num)
    widest = _WIDEST_BOX * _spread(balls)
    boxes, rows = ia.point(states), np.arange(num)
    for step in range(max_steps + 1):
        ball = ball_of_each_box(boxes, balls)
        width = np.max(boxes.hi - boxes.lo, axis=1)
        bad = ~np.isfinite(boxes.lo).all(axis=1) | ~np.isfinite(boxes.hi).all(axis=1)
        rows, boxes = _settle(out, rows, step, ball, bad, width > widest, boxes, balls, step == max_steps)
        if rows.size == 0 or step == max_steps:
            break
        enclosure = enclose_in_chunks(f, boxes)
        unknown = (np.asarray(enclosure.jumps) | np.asarray(enclosure.undefined))[:, None]
        boxes = Interval(np.where(unknown, np.nan, enclosure.value.lo), np.where(unknown, np.nan, enclosure.value.hi))
    return out


def follow_sets(
    f: Callable,
    sets: Ellipsoids,
    balls: Balls,
    max_steps: int,
    *args: np.ndarray,
    progress: bool = False,
    description: str = "Following orbits",
) -> Journeys:
    """Follow ellipsoids; `args` are further arguments of f, the same for all."""
    num = len(sets.centers)
    out = _none(num)
    longest = _LONGEST * _spread(balls)
    rows = np.arange(num)
    steps = tqdm(range(max_steps + 1), desc=description, delay=2.0, leave=False, disable=None if progress else True)
    for step in steps:
        ball = ball_of_each(sets, balls)
        bad = ~np.isfinite(sets.radii)
        with np.errstate(all="ignore"):
            length = sets.radii * np.linalg.norm(sets.factors, axis=(1, 2))
        rows, sets = _settle(out, rows, step, ball, bad, length > longest, sets, balls, step == max_steps)
        if rows.size == 0 or step == max_steps:
            break
        sets = advance(f, sets, *(np.broadcast_to(a, (rows.size, *np.shape(a))) for a in args))
    return out


def _settle(
    out: Journeys, rows: Any, step: int, ball: Any, bad: Any, wide: Any, sets: Any, balls: Balls, is_last: bool
) -> tuple[Any, Any]:
    """Write down what has come to an end at this step, and keep the rest."""
    ends = np.select([ball >= 0, bad, wide], [ARRIVED, NOT_FINITE, BLURRED], TRAVELLING)
    out.balls[rows], out.steps[rows], out.ends[rows] = ball, step, ends
    going = ends == TRAVELLING
    lost = (ends == BLURRED) | (going & is_last)
    if lost.any():
        lost_rows = rows[lost]
        out.nearest[lost_rows], out.far[lost_rows], out.wide[lost_rows] = place_of_each(_kept(sets, lost), balls)
    return rows[going], _kept(sets, going)


def _kept(sets: Any, rows: np.ndarray) -> Any:
    return sets.take(rows) if isinstance(sets, Ellipsoids) else Interval(sets.lo[rows], sets.hi[rows])


def _spread(balls: Balls) -> float:
    return float(np.max(np.abs(balls.centers - balls.centers.mean(axis=0)), initial=0.0)) or 1.0
