"""Discs: sets around an orbit in the metric in which the memory attracts that the orbit is on its way to."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy.spatial import KDTree

from rnndyn._programs import compiled
from rnndyn.dynamics.destinations._sets import Ellipsoids
from rnndyn.dynamics.destinations.trapping_balls import TrappingBalls, ball_bounds
from rnndyn.dynamics.proofs import interval_arithmetic as ia
from rnndyn.dynamics.proofs import verified_norms as vn
from rnndyn.dynamics.proofs.interval_arithmetic import Interval, point

_STATION_SIZE = 2.0
"""Radius of a station in radii of the largest ball over which F is seen to contract by bounds of the entries of DF: the
stretch varies over it by about what it is below 1 at the centre, and so much is lost per step in a station."""
_NUM_HALVINGS = 12

_REPEATS = 0.9
"""Two states as near as this share of the radius of a station share one."""

_MOST_ONE_BY_ONE = 100
"""Stations that are not worth a new tree."""


class Discs(NamedTuple):
    """K sets {|x - c|_j <= d} with |x|_j = |Q_j⁻¹ x|_2: centers c (K, N), homes j (K,) and distances d (K,).

    A home is a row of trapping balls: the one that the orbit is supposed to be near when it is near any.
    """

    centers: Float[np.ndarray, "K N"]
    homes: Int[np.ndarray, " K"]
    distances: Float[np.ndarray, " K"]

    def take(self, rows: np.ndarray) -> "Discs":
        return Discs(*(field[rows] for field in self))


class Stations:
    """Balls {|x - m|_j <= R_j} on the way of orbits, and by how much F stretches distances in each.

    Orbits that end in one memory soon keep to the slow directions around it, and pass the same places. So the stretch,
    a bound of |Q_k⁻¹ DF Q_j|_2 over the ball with k the successor of j, is found once for all that pass.

    - `centers` (B, N), `radii` (B,), `inverses` of Q_j enclosed (B, N, N), `successors` (B,): of the trapping balls
        `rows`, all of a cycle or none.
    """

    def __init__(self, f: Callable, balls: TrappingBalls, rows: Int[np.ndarray, " B"]) -> None:
        place = np.full(len(balls.radii), -1)
        place[rows] = np.arange(len(rows))
        self.centers, self.radii = balls.centers[rows], balls.radii[rows]
        self.successors = place[balls.successors[rows]]
        self.inverses = vn.inverse(point(balls.factors[rows]))
        self._f, self._factors = f, balls.factors[rows]
        self.sizes = _STATION_SIZE * self._plainly_contracted()
        self._stations = [_StationsOfOne(self.centers.shape[1], size) for size in self.sizes]

    def _plainly_contracted(self) -> np.ndarray:
        """Radii of balls around the memories, at most their own, over which bounds of entries show a contraction.

        A trapping ball may be larger, by a bound that is too dear for stations.
        """
        radii, after = self.radii.copy(), self.successors
        for _ in range(_NUM_HALVINGS):
            sets = Ellipsoids(self.centers, self._factors, radii)
            _, rates = ball_bounds(self._f, sets, self.centers[after], self.inverses.map(lambda end: end[after]))
            if (rates < 1).all():
                break
            radii = np.where(rates < 1, radii, radii / 2)
        return radii

    def distance(self, homes: np.ndarray, difference: Interval) -> np.ndarray:
        """Upper bounds of |v|_j for vectors v (K, N)."""
        out = np.full(len(homes), np.inf)
        for home in np.unique(homes):
            own = homes == home
            columns = difference.map(lambda end, own=own: end[own].T)
            turned = ia.matmul(self.inverses.map(lambda end, home=home: end[home]), columns)
            out[own] = vn.vector_norm_bound(turned.map(np.transpose))
        return out

    def ellipsoids(self, discs: Discs) -> Ellipsoids:
        """Discs with a factor each."""
        return Ellipsoids(discs.centers, self._factors[discs.homes], discs.distances)

    def homes_of(self, states: np.ndarray, max_steps: int) -> np.ndarray:
        """The ball that each orbit should be near at its start, so that it is near one at its end.

        In plain floating point: a wrong home makes distances grow, and proves nothing.
        """
        ends = np.asarray(jax.device_get(_last_states(self._f, states, max_steps)))
        away = [np.linalg.norm(np.linalg.solve(q, (ends - c).T), axis=0) for c, q in zip(self.centers, self._factors)]
        homes = np.argmin(np.where(np.isfinite(away), away, np.inf) / self.radii[:, None], axis=0)
        predecessors = np.argsort(self.successors)
        for _ in range(max_steps):
            homes = predecessors[homes]
        return homes

    def stretches(self, discs: Discs) -> np.ndarray:
        """By how much F stretches distances in each disc at most, (K,); infinite where it fits in no station."""
        out = np.full(len(discs.homes), np.inf)
        usable = np.isfinite(discs.centers).all(axis=1) & (discs.distances <= self.sizes[discs.homes])
        passing = {int(j): np.flatnonzero(usable & (discs.homes == j)) for j in np.unique(discs.homes[usable])}
        room = self.sizes[discs.homes] - discs.distances
        self._build([(home, self._new(home, discs.centers[rows], room[rows])) for home, rows in passing.items()])
        for home, rows in passing.items():
            states = discs.centers[rows]
            known, _, nearest = self._stations[home].nearest(self._scaled(home, states))
            rows, states, nearest = rows[known], states[known], nearest[known]
            middles = self._stations[home].middles[nearest]
            away = self.distance(discs.homes[rows], ia.sub(point(states), point(middles)))
            fits = vn.round_up(away + discs.distances[rows]) <= self.sizes[home]
            out[rows] = np.where(fits, self._stations[home].stretches[nearest], np.inf)
        return out

    def _scaled(self, home: int, states: np.ndarray) -> np.ndarray:
        """Q_j⁻¹ (x - c_j), as floating point gives it."""
        return np.linalg.solve(self._factors[home], (states - self.centers[home]).T).T

    def _new(self, home: int, states: np.ndarray, room: np.ndarray) -> np.ndarray:
        """States around which stations are missing, so that each state is in one."""
        scaled = self._scaled(home, states)
        known, distances, _ = self._stations[home].nearest(scaled)
        left = np.flatnonzero(~known | (distances > _REPEATS * room))
        chosen = []
        while left.size:
            chosen.append(left[0])
            apart = np.sum((scaled[left] - scaled[left[0]]) ** 2, axis=1)
            left = left[1:][apart[1:] > (_REPEATS * room[left[1:]]) ** 2]
        return states[chosen]

    def _build(self, wanted: list[tuple[int, np.ndarray]]) -> None:
        """New stations around the states wanted of each home, bounded all at once."""
        homes = np.repeat([home for home, _ in wanted], [len(states) for _, states in wanted]).astype(int)
        if not homes.size:
            return
        after = self.successors[homes]
        middles = np.concatenate([states for _, states in wanted])
        sets = Ellipsoids(middles, self._factors[homes], self.sizes[homes])
        inverses = self.inverses.map(lambda end: end[after])
        # Only the stretch is asked for, and it does not depend on the centre that images are compared with.
        _, stretches = ball_bounds(self._f, sets, self.centers[after], inverses)
        for home, _ in wanted:
            own = homes == home
            self._stations[home].add(middles[own], self._scaled(home, middles[own]), stretches[own])


class _StationsOfOne:
    """The stations of one home; nearest ones are looked up in a tree, and the latest one by one."""

    def __init__(self, size: int, limit: float) -> None:
        self.middles, self.stretches, self._scaled = np.zeros((0, size)), np.zeros(0), np.zeros((0, size))
        self._limit, self._tree = limit, None
        self._num = 0
        """Of those in the tree."""

    def nearest(self, scaled: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Whether a station is near each state, how near the nearest is, and its number."""
        distances, numbers = np.full(len(scaled), np.inf), np.zeros(len(scaled), int)
        if self._tree is not None:
            distances, numbers = map(np.asarray, self._tree.query(scaled, distance_upper_bound=self._limit))
        if self._num < len(self._scaled):
            squares = _squared_distances(scaled, self._scaled[self._num :])
            latest = np.argmin(squares, axis=1)
            to_latest = np.sqrt(squares[np.arange(len(scaled)), latest])
            nearer = to_latest < distances
            distances, numbers = np.where(nearer, to_latest, distances), np.where(nearer, self._num + latest, numbers)
        return np.asarray(distances <= self._limit), distances, numbers

    def add(self, middles: np.ndarray, scaled: np.ndarray, stretches: np.ndarray) -> None:
        self.middles, self._scaled = np.concatenate([self.middles, middles]), np.concatenate([self._scaled, scaled])
        self.stretches = np.concatenate([self.stretches, stretches])
        if len(self._scaled) > 1.1 * self._num + _MOST_ONE_BY_ONE:
            self._tree, self._num = KDTree(self._scaled), len(self._scaled)


@np.errstate(all="ignore")
def discs_around(stations: Stations, boxes: Interval, homes: np.ndarray) -> Discs:
    """Discs that hold boxes (K, N)."""
    centers = np.asarray(ia.midpoint(boxes))
    return Discs(centers, homes, stations.distance(homes, ia.sub(boxes, point(centers))))


@np.errstate(all="ignore")
def carried(stations: Stations, discs: Discs, rounding: np.ndarray) -> np.ndarray:
    """Distances after one step about centres x' as near to F(c) as `rounding` says, (K,).

    For any y of a disc in a station, |F(y) - x'|_j' <= stretch d + |F(c) - x'|_j'.
    """
    return vn.round_up(vn.round_up(stations.stretches(discs) * discs.distances) + rounding)


def _squared_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Between all of x (K, N) and all of y (M, N), as floating point gives them."""
    return np.maximum((x**2).sum(axis=1)[:, None] - 2 * x @ y.T + (y**2).sum(axis=1), 0.0)


@compiled
def _last_states(f: Callable, states: Float[Array | np.ndarray, "K N"], num_steps: Any) -> Any:
    """Where orbits are after so many steps."""
    return jax.lax.fori_loop(0, num_steps, lambda _, x: jax.vmap(f)(x), jnp.asarray(states))
