"""States followed into balls for the second opinion, in the metric of the ball that each is to enter."""

import numpy as np

from rnndyn.dynamics.destinations import _checker_intervals as iv
from rnndyn.dynamics.destinations._checker_cells import CellStep
from rnndyn.dynamics.destinations.trapping_balls import TrappingBalls

_BOX = 1e-5
"""A state is followed as a box until that is so many radii of its ball wide."""
_PLACE = 2.0
"""Size of the places in which derivatives are bounded, in radii of the ball that orbits through them are to enter,
halved until bounds of the entries of DF show a contraction over it."""
_NUM_HALVINGS = 12
_BATCH = 32


def discs_arrive(
    step: CellStep,
    states: np.ndarray,
    steps: np.ndarray,
    entered: np.ndarray,
    balls: TrappingBalls,
    multiples: np.ndarray,
) -> np.ndarray:
    """Which states lie, after so many steps, within so many times the radius of the ball they are to enter.

    With j_t the row that leads to the one to enter in the steps that are left, the state after t steps is within d_t
    of a known x_t in the norm of that row, and d_(t+1) <= s d_t + |F(x_t) - x_(t+1)|, where s bounds |DF| from norm to
    norm over a place that holds all that is within d_t of x_t.
    """
    metrics = _Metrics(balls)
    origin = np.argsort(balls.successors)
    homes = entered.copy()
    for t in range(int(steps.max(initial=0))):
        homes = np.where(steps > t, origin[homes], homes)
    places = _Places(step, metrics)
    inside = np.zeros(len(states), bool)
    rows, box = np.arange(len(states)), (states.copy(), states.copy())
    middle, distance, is_disc = states.copy(), np.zeros(len(states)), np.zeros(len(states), bool)
    for t in range(int(steps.max(initial=0)) + 1):
        now = steps[rows] == t
        away = metrics.norm(homes, iv.sub(iv.exactly(middle), iv.exactly(balls.centers[homes])))
        there = iv.up(away + distance) <= iv.down(balls.radii[homes] * multiples[homes])
        inside[rows[now]] = there[now]
        going = ~now & np.isfinite(distance)
        rows, homes, is_disc = rows[going], homes[going], is_disc[going]
        middle, distance = middle[going], distance[going]
        box = box[0][going], box[1][going]
        if not rows.size:
            break
        grown = np.zeros(len(rows))
        grown[is_disc] = iv.up(places.stretch(homes[is_disc], middle[is_disc], distance[is_disc]) * distance[is_disc])
        box = step.over_boxes(tuple(np.where(is_disc[:, None], middle, end) for end in box))
        middle, homes = iv.middle_of(box), balls.successors[homes]
        distance = iv.up(metrics.norm(homes, iv.sub(box, iv.exactly(middle))) + grown)
        is_disc = is_disc | ~(distance < _BOX * balls.radii[homes])
    return inside


class _Metrics:
    """The norms |x|_j = |Q_j⁻¹ x|_2 of balls."""

    def __init__(self, balls: TrappingBalls) -> None:
        self.balls = balls
        (self.inverse, self.zero), loss = iv.inverses_of(balls.factors)
        self.share = np.where(loss < 1, (1 + 8 * iv.U) / (1 - loss), np.inf)

    def norm(self, homes: np.ndarray, vectors: iv.Pair) -> np.ndarray:
        """Upper bounds of the norms of vectors (K, N), each in that of its home."""
        out = np.full(len(homes), np.inf)
        for j in np.unique(homes):
            own = homes == j
            turned = iv.apply((self.inverse[j][None], self.zero[j][None]), (vectors[0][own], vectors[1][own]))
            out[own] = iv.vector_norm(turned) * self.share[j]
        return np.where(np.isnan(out), np.inf, out)


class _Places:
    """Balls {|x - m|_j <= R_j} through which orbits pass, and bounds of |DF| over them, each evaluated once."""

    def __init__(self, step: CellStep, metrics: _Metrics) -> None:
        self.step, self.metrics = step, metrics
        self.middles: dict[int, np.ndarray] = {}
        self.bounds: dict[int, np.ndarray] = {}
        self.sizes: dict[int, float] = {}

    def _size_of(self, j: int) -> float:
        if j not in self.sizes:
            size = float(self.metrics.balls.radii[j])
            for _ in range(_NUM_HALVINGS):
                if self._bound(j, self.metrics.balls.centers[j][None], size)[0] < 1:
                    break
                size = size / 2
            self.sizes[j] = _PLACE * size
        return self.sizes[j]

    def stretch(self, homes: np.ndarray, states: np.ndarray, distances: np.ndarray) -> np.ndarray:
        """Bounds of |DF| over discs, infinite over those that lie in no place."""
        out = np.full(len(homes), np.inf)
        for j in np.unique(homes).tolist():
            rows = np.flatnonzero((homes == j) & (distances <= self._size_of(j)))
            size = self._size_of(j)
            self._visit(j, states[rows], 0.9 * (size - distances[rows]))
            if rows.size:
                which = np.argmin(self._apart(j, states[rows], self.middles[j]), axis=1)
                gap = iv.sub(iv.exactly(states[rows]), iv.exactly(self.middles[j][which]))
                holds = iv.up(self.metrics.norm(homes[rows], gap) + distances[rows]) <= iv.down(size)
                out[rows] = np.where(holds, self.bounds[j][which], np.inf)
        return out

    def _apart(self, j: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """How far states are from each other in the norm of j, to choose by."""
        x, y = (((a - self.metrics.balls.centers[j]) @ self.metrics.inverse[j].T) for a in (x, y))
        return np.sqrt(np.maximum((x**2).sum(1)[:, None] + (y**2).sum(1) - 2 * x @ y.T, 0.0))

    def _visit(self, j: int, states: np.ndarray, near: np.ndarray) -> None:
        """Bound |DF| around states that are not near a place that is known."""
        known = self.middles.setdefault(j, np.zeros((0, states.shape[1])))
        self.bounds.setdefault(j, np.zeros(0))
        missing = np.arange(len(states))
        if len(known):
            missing = missing[self._apart(j, states, known).min(axis=1) > near]
        new = []
        while missing.size:
            new.append(states[missing[0]])
            apart = self._apart(j, states[missing], new[-1][None])[:, 0]
            missing = missing[1:][apart[1:] > near[missing[1:]]]
        for first in range(0, len(new), _BATCH):
            middles = np.array(new[first : first + _BATCH])
            self.middles[j] = np.concatenate([self.middles[j], middles])
            self.bounds[j] = np.concatenate([self.bounds[j], self._bound(j, middles, self.sizes[j])])

    def _bound(self, j: int, middles: np.ndarray, size: float) -> np.ndarray:
        balls, after = self.metrics.balls, int(self.metrics.balls.successors[j])
        factors = np.broadcast_to(balls.factors[j], (len(middles), *balls.factors[j].shape))
        _, linear = self.step.over_balls(middles, factors, np.full(len(middles), size))
        turned = iv.apply_matrix((self.metrics.inverse[after][None], self.metrics.zero[after][None]), linear)
        return iv.spectral_norm(turned) * self.metrics.share[after]
