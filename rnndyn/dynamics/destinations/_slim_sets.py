"""Slim sets: ellipsoids around orbits, so small that the derivative hardly varies over them, known by their covariance.

With u'x <= (u'S u)^1/2 for all u as what S says of a set, the image under a matrix A has A S A', the sum with a ball
of radius e is held by (1 + a) S + (1 + 1/a) e² for any a > 0 (Schweppe 1973), and rounding only adds a multiple of the
identity. So a step takes two products of matrices: nothing is inverted, factored or diagonalised.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from scipy.spatial import KDTree
from tqdm.auto import tqdm

from rnndyn._programs import compiled
from rnndyn.dynamics.destinations._sets import Balls
from rnndyn.dynamics.proofs import interval_arithmetic as ia
from rnndyn.dynamics.proofs import verified_norms as vn
from rnndyn.dynamics.proofs.interval_arithmetic import UNIT_ROUNDOFF, Interval, point
from rnndyn.dynamics.proofs.layer_forms import Layer, layer_slopes

_AT_ONCE = 64
"""Orbits followed side by side."""

_WIDEST = 0.1
"""Sets whose half-widths, squared and summed, exceed this share of the spread of the balls are left to others."""

_ON_THE_WAY = 1e-5
"""A state as near as that to the image of another, in spreads of the balls, is taken along by its orbit.

States of a trajectory at rest are that near each other, rounded to float32 as networks compute; so are few others."""

_ROOM = 1e-6
"""Share of its radius that a set leaves free in the ball it has come to: a second program has sets of other sizes."""

_UP = 1 + 64 * UNIT_ROUNDOFF
"""Above what a few rounded operations on nonnegative numbers lose."""


class SlimSets(NamedTuple):
    """K sets {x : u'(x - c) <= (u'S u)^1/2 for all u}: `centers` c (K, N), `covariances` S (K, N, N)."""

    centers: Float[np.ndarray, "K N"]
    covariances: Float[np.ndarray, "K N N"]

    def take(self, rows: np.ndarray) -> "SlimSets":
        return SlimSets(self.centers[rows], self.covariances[rows])

    @property
    def reach(self) -> Float[np.ndarray, " K"]:
        """Upper bounds of |x - c|_2: the root of the trace is one."""
        trace = np.trace(self.covariances, axis1=1, axis2=2)
        return np.sqrt(np.maximum(trace, 0.0) * (1 + 4 * self.centers.shape[1] * UNIT_ROUNDOFF)) * _UP + 1e-290


def with_balls(sets: SlimSets, radii: Float[np.ndarray, " K"]) -> SlimSets:
    """Sums of sets and of balls of these radii around zero."""
    size = sets.centers.shape[1]
    trace = np.trace(sets.covariances, axis1=1, axis2=2)
    added = (radii * _UP) ** 2 + 1e-250
    ratio = np.sqrt(size * added / np.maximum(trace, 1e-30 * size * added))
    wider = sets.covariances * ((1 + ratio) * _UP)[:, None, None]
    # What rounds the entries is a matrix of norm u |S|_F at most, and may take something from S.
    lost = 4 * UNIT_ROUNDOFF * np.linalg.norm(wider, axis=(1, 2)) * (1 + size * size * UNIT_ROUNDOFF)
    diagonal = np.einsum("kii->ki", wider)
    diagonal += (((1 + 1 / ratio) * added * _UP + lost) * _UP)[:, None]
    return SlimSets(sets.centers, wider)


class Layered:
    """A map with a `Layer`, and what its steps need of that again and again."""

    def __init__(self, f: Callable, layer: Layer) -> None:
        self.layer, self._f = layer, f
        self._columns = np.ascontiguousarray(np.swapaxes(layer.matrices, 0, 1))
        size = layer.matrices.shape[1]
        self._rows = np.linalg.norm(layer.matrices, axis=2) * (1 + (size + 8) * 4 * UNIT_ROUNDOFF)

    @np.errstate(all="ignore")
    def advance(self, sets: SlimSets) -> tuple[SlimSets, Bool[np.ndarray, " K"]]:
        """Sets that hold the images of sets, and of which of them F is known to be finite and continuous."""
        num, size = sets.centers.shape
        reach = sets.reach
        missing = _AT_ONCE - num
        padded = np.pad(sets.centers, [(0, missing), (0, 0)]), np.pad(reach, (0, missing))
        image = jax.device_get(layer_slopes(self._f, self.layer.seeds, self.layer.lengths, *padded))
        value, slopes = (x.map(lambda end: np.asarray(end)[:num]) for x in (image.value, image.slopes))
        known = np.asarray(image.is_known)[:num]
        value, slopes = (_zero_unless(known, x) for x in (value, slopes))
        centers, middle = np.asarray(ia.midpoint(value)), np.asarray(ia.midpoint(slopes))
        linear = np.swapaxes(np.matmul(middle.transpose(2, 0, 1), self._columns), 0, 1)
        # |DF - A| <= e, what slopes vary by and what is rounded in their sum; gamma_n <= 2 n u.
        colours = middle.shape[1]
        varies = ia.radius_about(slopes, middle) + 4 * (colours + 2) * UNIT_ROUNDOFF * np.abs(middle)
        varied = vn.vector_norm_bound(point(np.einsum("kcn,nc->kn", varies, self._rows.T) * _UP))
        offset = vn.vector_norm_bound(point(ia.radius_about(value, centers)))
        product = linear @ sets.covariances @ np.swapaxes(linear, 1, 2)
        product = 0.5 * product + 0.5 * np.swapaxes(product, 1, 2)
        stretch = np.linalg.norm(linear, axis=(1, 2)) * (1 + size**2 * UNIT_ROUNDOFF)
        before = np.linalg.norm(sets.covariances, axis=(1, 2)) * (1 + size**2 * UNIT_ROUNDOFF)
        # Two products of matrices, each off by gamma_n |.|_F |.|_F, and their mean.
        rounding = (8 * (size + 4) * UNIT_ROUNDOFF * stretch**2) * before * _UP
        diagonal = np.einsum("kii->ki", product)
        diagonal += rounding[:, None]
        moved = np.where(known, (varied * reach + offset) * _UP, np.inf)
        return with_balls(SlimSets(centers, product), moved), known


class Outcome(NamedTuple):
    """Where K states went: `balls` (K,), -1 where none is proved, after how many `steps` (K,).

    Those that are `travelling` (K,) after the largest number of steps lie within `reach` (K,) of `centers` (K, N) then.
    """

    balls: Int[np.ndarray, " K"]
    steps: Int[np.ndarray, " K"]
    travelling: Bool[np.ndarray, " K"]
    centers: Float[np.ndarray, "K N"]
    reach: Float[np.ndarray, " K"]


def follow_slim(
    f: Callable, layer: Layer, states: Float[np.ndarray, "K N"], balls: Balls, max_steps: int, *, progress: bool
) -> Outcome:
    """Follow states as slim sets, those of one orbit together, and alone the ones that were lost together."""
    spread = float(np.max(np.abs(balls.centers - balls.centers.mean(axis=0)), initial=0.0)) or 1.0
    num = len(states)
    whole = lambda fill: np.full(num, fill)
    found = Outcome(whole(-1), whole(0), whole(False), states.copy(), whole(0.0))
    orbits = _orbits(np.asarray(jax.device_get(_images(f, states))), states, _ON_THE_WAY * spread)
    bar = tqdm(total=num, desc="Following orbits", delay=2.0, leave=False, disable=None if progress else True)
    with bar:
        fleet = _Fleet(Layered(f, layer), balls, max_steps, spread, found, bar)
        lost = fleet.follow(states, orbits)
        fleet.follow(states, _Orbits([[(0, k)] for k in lost]))
    return found


# --- helpers


@compiled
def _images(f: Callable, states: Float[Array | np.ndarray, "K N"]) -> Array:
    return jax.vmap(f)(jnp.asarray(states))


def _zero_unless(known: np.ndarray, x: Interval) -> Interval:
    return x.map(lambda end: np.where(known.reshape(-1, *(1,) * (end.ndim - 1)), end, 0.0))


class _Orbits(NamedTuple):
    """Of each orbit the states on it, with the number of steps after which it comes upon them; the first one first."""

    stops: list[list[tuple[int, int]]]


def _orbits(images: np.ndarray, states: np.ndarray, near: float) -> _Orbits:
    """Which states lie on the orbits of others, in plain floating point: on the way it is asked how near they are."""
    num = len(states)
    before = np.full(num, -1)
    finite = np.flatnonzero(np.isfinite(images).all(axis=1))
    if finite.size:
        distances, which = KDTree(images[finite]).query(states, distance_upper_bound=near)
        has = np.isfinite(distances)
        before[has] = finite[np.asarray(which)[has]]
    after: list[list[int]] = [[] for _ in range(num)]
    for k in np.flatnonzero(before >= 0).tolist():
        after[before[k]].append(k)
    stops, seen = [], np.zeros(num, bool)
    # Orbits that return to where they began have no first state: any will do.
    for first in (*np.flatnonzero(before < 0).tolist(), *np.flatnonzero(before >= 0).tolist()):
        if seen[first]:
            continue
        seen[first] = True
        orbit = [(0, first)]
        for step, k in orbit:
            new = [m for m in after[k] if not seen[m]]
            seen[new] = True
            orbit += [(step + 1, m) for m in new]
        stops.append(orbit)
    return _Orbits(stops)


class _Fleet:
    """Orbits followed side by side, new ones as others end."""

    def __init__(
        self, layered: Layered, balls: Balls, max_steps: int, spread: float, found: Outcome, bar: tqdm
    ) -> None:
        self.layered, self.balls, self.max_steps, self.spread, self.found = layered, balls, max_steps, spread, found
        self.bar = bar
        self.inverses = np.asarray(ia.midpoint(balls.inverses))
        self.shapes = vn.spectral_norm_bound(balls.inverses)

    @np.errstate(all="ignore")
    def follow(self, states: np.ndarray, orbits: _Orbits) -> list[int]:
        """Write down what arrives; which states were lost in company, or not met, and may not be when alone."""
        size, found = states.shape[1], self.found
        waiting = list(range(len(orbits.stops)))[::-1]
        aboard: list[list[tuple[int, int]]] = [[] for _ in orbits.stops]
        rows, steps = np.zeros(0, int), np.zeros(0, int)
        sets = SlimSets(np.zeros((0, size)), np.zeros((0, size, size)))
        arrived = np.zeros(len(states), bool)
        while waiting or rows.size:
            if waiting and rows.size < _AT_ONCE:
                new = [waiting.pop() for _ in range(min(len(waiting), _AT_ONCE - rows.size))]
                first = states[[orbits.stops[k][0][1] for k in new]]
                rows, steps = np.concatenate([rows, new]), np.concatenate([steps, np.zeros(len(new), int)])
                sets = SlimSets(*(np.concatenate(x) for x in zip(sets, (first, np.zeros((len(new), size, size))))))
            self._take_along(sets, rows, steps, states, orbits, aboard)
            reach = sets.reach
            ball = _ball_of_each(sets.centers, reach, self.balls, self.inverses, self.shapes)
            for k in np.flatnonzero(ball >= 0):
                for after, state in aboard[rows[k]]:
                    found.balls[state], found.steps[state], arrived[state] = ball[k], steps[k] - after, True
                self.bar.update(len(aboard[rows[k]]))
            blurred = ~(reach <= _WIDEST * self.spread)
            late = (ball < 0) & ~blurred & (steps == self.max_steps)
            for k in np.flatnonzero(late):
                _, state = orbits.stops[rows[k]][0]
                found.travelling[state], found.steps[state] = True, self.max_steps
                found.centers[state], found.reach[state] = sets.centers[k], reach[k]
            going = (ball < 0) & ~blurred & ~late
            rows, steps, sets = rows[going], steps[going], sets.take(going)
            if rows.size:
                sets, known = self.layered.advance(sets)
                rows, steps, sets = rows[known], steps[known] + 1, sets.take(known)
        company = [orbit for orbit in orbits.stops if len(orbit) > 1]
        return [k for orbit in company for _, k in orbit if not arrived[k] and not found.travelling[k]]

    def _take_along(
        self,
        sets: SlimSets,
        rows: np.ndarray,
        steps: np.ndarray,
        states: np.ndarray,
        orbits: _Orbits,
        aboard: list[list[tuple[int, int]]],
    ) -> None:
        """Let sets hold the states as well that their orbits come upon at this step, where these are near."""
        radii, longest = np.zeros(len(rows)), 10 * _ON_THE_WAY * self.spread
        for k, (row, step) in enumerate(zip(rows.tolist(), steps.tolist())):
            for stop, state in orbits.stops[row][len(aboard[row]) :]:
                if stop > step:
                    break
                away = float(np.linalg.norm(states[state] - sets.centers[k])) * (1 + 1e-12) + 1e-290
                if stop == step and away <= longest:
                    radii[k] = max(radii[k], away if step else 0.0)
                    aboard[row].append((stop, state))
        some = np.flatnonzero(radii > 0)
        if some.size:
            sets.covariances[some] = with_balls(sets.take(some), radii[some]).covariances


def _ball_of_each(
    centers: np.ndarray, reach: np.ndarray, balls: Balls, inverses: np.ndarray, shapes: np.ndarray
) -> np.ndarray:
    """The ball that wholly holds each set, -1 where none is shown to: |x - c|_Q <= |Q^-1 (x - c)| + |Q^-1| |x - c|."""
    found = np.full(len(centers), -1)
    away = np.stack([np.linalg.norm((centers - c) @ m.T, axis=1) for c, m in zip(balls.centers, inverses)], axis=1)
    near = np.argmin(np.where(np.isnan(away), np.inf, away) / balls.radii, axis=1)
    rows = np.flatnonzero(away[np.arange(len(centers)), near] + shapes[near] * reach < balls.radii[near])
    if rows.size:
        chosen = near[rows]
        inverse = balls.inverses.map(lambda end: end[chosen])
        offset = ia.sub(point(centers[rows]), point(balls.centers[chosen]))
        distance = vn.vector_norm_bound(ia.matvec(inverse, offset))
        inside = vn.round_up(distance + vn.round_up(shapes[chosen] * reach[rows])) <= (1 - _ROOM) * balls.radii[chosen]
        found[rows[inside]] = chosen[inside]
    return found
