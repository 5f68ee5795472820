"""Sets followed until each is wholly inside a ball."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from tqdm.auto import tqdm

from rnndyn.dynamics.destinations._discs import Discs, Stations, carried, discs_around
from rnndyn.dynamics.destinations._sets import (
    Balls,
    Ellipsoids,
    advance,
    ball_of_each,
    enclose_in_chunks,
    place_of_each,
)
from rnndyn.dynamics.destinations._slim_sets import follow_slim
from rnndyn.dynamics.proofs import interval_arithmetic as ia
from rnndyn.dynamics.proofs import verified_norms as vn
from rnndyn.dynamics.proofs.interval_arithmetic import Interval, point
from rnndyn.dynamics.proofs.layer_forms import Layer, one_layer

ARRIVED, TRAVELLING, BLURRED, NOT_FINITE = range(4)

_HANDED_OVER = (1e-3, 1e-8)
"""How wide boxes are when discs take over, in radii of a trapping ball; tried one after the other."""

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
    f: Callable,
    states: Float[np.ndarray, "K N"],
    balls: Balls,
    stations: Stations,
    max_steps: int,
    *,
    progress: bool,
) -> Journeys:
    """Follow states as slim sets where f has one layer, else as boxes and discs; what is lost so, as ellipsoids."""
    found, left = _none(len(states)), np.arange(len(states))
    layer = one_layer(f, states.shape[1])
    if layer is not None:
        part = _in_layers(f, layer, states, balls, max_steps, progress=progress)
        _write(found, left, part)
        left = left[(part.ends != ARRIVED) & (part.ends != TRAVELLING)]
    homes = np.zeros(len(states), int)
    if left.size:
        homes[left] = stations.homes_of(states[left], max_steps)
    for size in _HANDED_OVER if left.size else ():
        part = follow_discs(f, states[left], homes[left], size, balls, stations, max_steps)
        _write(found, left, part)
        left = left[part.ends == BLURRED]
    if left.size:
        num, size = len(left), states.shape[1]
        eyes = np.broadcast_to(np.eye(size), (num, size, size)).copy()
        again = follow_sets(f, Ellipsoids(states[left], eyes, np.zeros(num)), balls, max_steps, progress=progress)
        _write(found, left, again)
    return found


def _in_layers(
    f: Callable, layer: Layer, states: np.ndarray, balls: Balls, max_steps: int, *, progress: bool
) -> Journeys:
    out, found = _none(len(states)), follow_slim(f, layer, states, balls, max_steps, progress=progress)
    out.balls[:], out.steps[:] = found.balls, found.steps
    out.ends[:] = np.select([found.balls >= 0, found.travelling], [ARRIVED, TRAVELLING], BLURRED)
    late = np.flatnonzero(found.travelling)
    if late.size:
        eyes = np.broadcast_to(np.eye(states.shape[1]), (late.size, *2 * states.shape[1:])).copy()
        sets = Ellipsoids(found.centers[late], eyes, found.reach[late])
        out.nearest[late], out.far[late], out.wide[late] = place_of_each(sets, balls)
    return out


def follow_discs(
    f: Callable, states: np.ndarray, homes: np.ndarray, size: float, balls: Balls, stations: Stations, max_steps: int
) -> Journeys:
    """Follow states as boxes, and from when a box exceeds `size` radii of the ball that is its home as discs.

    Boxes grow by the sums of the moduli of derivatives, even where F brings all states together. A disc grows or
    shrinks as distances do in the metric of the memory that it is on its way to. The later discs take over, the fewer
    stations they need, and the sooner, the more may they grow.
    """
    num = len(states)
    out = _none(num)
    rows, is_disc = np.arange(num), np.zeros(num, bool)
    boxes, discs = ia.point(states), Discs(states, homes, np.zeros(num))
    for step in range(max_steps + 1):
        away = stations.distance(discs.homes, ia.sub(point(discs.centers), point(balls.centers[discs.homes])))
        inside = vn.round_up(away + discs.distances) <= balls.radii[discs.homes]
        bad = np.asarray(~np.isfinite(discs.centers).all(axis=1))
        wide = ~(discs.distances <= stations.radii[discs.homes])
        ball = np.where(inside, discs.homes, -1)
        sets_of = lambda which, discs=discs: stations.ellipsoids(discs.take(which))
        going = _settle(out, rows, step, ball, bad, wide, sets_of, balls, step == max_steps)
        rows, boxes, discs, is_disc = (
            rows[going],
            Interval(boxes.lo[going], boxes.hi[going]),
            discs.take(going),
            is_disc[going],
        )
        if rows.size == 0 or step == max_steps:
            break
        images = _image_boxes(
            f, Interval(*(np.where(is_disc[:, None], discs.centers, end) for end in (boxes.lo, boxes.hi)))
        )
        before, discs = discs, discs_around(stations, images, stations.successors[discs.homes])
        discs.distances[is_disc] = carried(stations, before.take(is_disc), discs.distances[is_disc])
        boxes, is_disc = images, is_disc | ~(discs.distances < size * stations.radii[discs.homes])
    return out


def _image_boxes(f: Callable, boxes: Interval) -> Interval:
    """Boxes that hold F of boxes; NaN where F may jump or leave its domain."""
    enclosure = enclose_in_chunks(f, boxes)
    unknown = (np.asarray(enclosure.jumps) | np.asarray(enclosure.undefined))[:, None]
    return Interval(np.where(unknown, np.nan, enclosure.value.lo), np.where(unknown, np.nan, enclosure.value.hi))


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
        going = _settle(out, rows, step, ball, bad, length > longest, sets.take, balls, step == max_steps)
        rows, sets = rows[going], sets.take(going)
        if rows.size == 0 or step == max_steps:
            break
        sets = advance(f, sets, *(np.broadcast_to(a, (rows.size, *np.shape(a))) for a in args))
    return out


def _settle(
    out: Journeys,
    rows: np.ndarray,
    step: int,
    ball: np.ndarray,
    bad: np.ndarray,
    wide: np.ndarray,
    sets_of: Callable[[np.ndarray], Ellipsoids],
    balls: Balls,
    is_last: bool,
) -> np.ndarray:
    """Write down what has come to an end at this step; which have not."""
    ends = np.select([ball >= 0, bad, wide], [ARRIVED, NOT_FINITE, BLURRED], TRAVELLING)
    out.balls[rows], out.steps[rows], out.ends[rows] = ball, step, ends
    going = ends == TRAVELLING
    lost = (ends == BLURRED) | (going & is_last)
    if lost.any():
        places = place_of_each(sets_of(lost), balls)
        out.nearest[rows[lost]], out.far[rows[lost]], out.wide[rows[lost]] = places
    return going


def _write(out: Journeys, rows: np.ndarray, part: Journeys) -> None:
    for whole, found in zip(out, part):
        whole[rows] = found


def _spread(balls: Balls) -> float:
    return float(np.max(np.abs(balls.centers - balls.centers.mean(axis=0)), initial=0.0)) or 1.0
