"""Sets known by their covariance, carried through cells for the second opinion."""

import numpy as np

from rnndyn.dynamics.destinations import _checker_intervals as iv
from rnndyn.dynamics.destinations._checker_cells import CellStep, Quantity
from rnndyn.dynamics.destinations.trapping_balls import TrappingBalls

_WIDER = 1 + 128 * iv.U
"""Pays for some rounded operations on nonnegative numbers."""


class CovarianceStep:
    """Sets {x : u'(x - c) <= (u'S u)^1/2} under a cell: dF = diag(a_0) E + sum_g diag(a_g) W_g, g a gate.

    E takes to each unit of the new state the unit that it is a multiple of, the cell of an LSTM for both of its halves.
    """

    def __init__(self, step: CellStep) -> None:
        self.step, size = step, step.size
        halves = 2 if step.gates == 4 else 1
        self.total = halves * size
        blocks = [np.pad(w, [(0, 0), (0, self.total - size)]) for w in np.split(step.weight, step.gates)]
        kept = np.eye(self.total)[self.total - size :]
        self.matrices = np.stack([np.tile(block, (halves, 1)) for block in (kept, *blocks)])
        self.lengths = np.sqrt((self.matrices**2).sum(axis=2)) * (1 + 4 * (self.total + 4) * iv.U) + iv.TINY

    def __call__(self, centers: np.ndarray, covariances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        num, total, size = len(centers), self.total, self.step.size
        parts = 1 + self.step.gates
        spread = self._spread(covariances)
        own = np.sqrt(np.einsum("kii->ki", covariances)) * _WIDER + iv.TINY
        seeds = np.zeros((num, total, parts))
        seeds[:, :, 0] = 1
        state = Quantity(
            iv.exactly(centers), (iv.down(centers - own), iv.up(centers + own)), iv.exactly(seeds), np.zeros(num)
        )
        weight = self.step.weight
        middle = iv.apply((weight[None], np.zeros_like(weight)[None]), iv.exactly(centers[:, :size]))
        # The rows of a gate are the same in both halves of an LSTM.
        reach = np.concatenate([spread[:, 1 + g, :size] for g in range(self.step.gates)], axis=1)
        seeds = np.zeros((num, self.step.gates * size, parts))
        for g in range(self.step.gates):
            seeds[:, g * size : (g + 1) * size, 1 + g] = 1
        over = iv.down(middle[0] - reach), iv.up(middle[1] + reach)
        sums = Quantity(middle, over, iv.exactly(seeds), np.zeros(num))
        image = self.step.equations(state, narrow=False, given=sums)
        following, slopes = iv.middle_of(image.center), iv.middle_of(image.slopes)
        derivative = sum(
            (slopes[:, :, p, None] * self.matrices[p] for p in range(parts)), start=np.zeros((num, total, total))
        )
        # What slopes vary by, and the rounding of their sum, times how far the sources may be from the centre.
        varied = iv.radius_about(image.slopes, slopes) + 4 * (parts + 2) * iv.U * np.abs(slopes)
        bend = iv.vector_norm(iv.exactly((varied * np.swapaxes(spread, 1, 2)).sum(axis=2) * _WIDER))
        added = (bend + iv.vector_norm(iv.exactly(iv.radius_about(image.center, following)))) * _WIDER
        carried = derivative @ covariances @ np.swapaxes(derivative, 1, 2)
        carried = (carried + np.swapaxes(carried, 1, 2)) / 2
        # Each product of matrices is off by n u |.| |.| / (1 - n u), in Frobenius norms.
        rounded = 6 * (total + 4) * iv.U * self._size(derivative) ** 2 * self._size(covariances) * _WIDER
        carried = carried + rounded[:, None, None] * np.eye(total)
        return following, _with_ball(carried, added)

    def _spread(self, covariances: np.ndarray) -> np.ndarray:
        """How far each source is from its value at the centre at most, (K, 1 + gates, N): (w'S w)^1/2."""
        squares = np.einsum("pij,kpij->kpi", self.matrices, self.matrices @ covariances[:, None])
        slack = 6 * (2 * self.total + 8) * iv.U * self.lengths**2 * self._size(covariances)[:, None, None]
        return np.sqrt(np.maximum(squares, 0.0) + slack) * _WIDER + iv.TINY

    @staticmethod
    def _size(matrices: np.ndarray) -> np.ndarray:
        return np.sqrt((matrices**2).sum(axis=(1, 2))) * (1 + 2 * matrices.shape[1] ** 2 * iv.U) + 1e-140


def slim_arrive(
    step: CellStep,
    sets: tuple[np.ndarray, np.ndarray],
    steps: np.ndarray,
    entered: np.ndarray,
    balls: TrappingBalls,
    multiples: np.ndarray,
) -> np.ndarray:
    """Which sets (centres, covariances) are seen to lie in their larger balls after so many steps."""
    following, there = CovarianceStep(step), np.zeros(len(steps), bool)
    rows = np.arange(len(steps))
    for t in range(int(steps.max(initial=0)) + 1):
        now = steps[rows] == t
        if now.any():
            which = entered[rows[now]]
            centers, covariances = sets[0][now], sets[1][now]
            there[rows[now]] = is_covariance_inside(centers, covariances, balls, which, multiples[which])
        rows, sets = rows[~now], (sets[0][~now], sets[1][~now])
        if not rows.size:
            break
        sets = following(*sets)
    return there


def covariances_of(factors: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """Of ellipsoids {c + Q y : |y| <= r}: r² Q Q', and what is rounded."""
    size = factors.shape[1]
    axes = factors * radii[:, None, None]
    slack = 6 * (size + 4) * iv.U * (axes**2).sum(axis=(1, 2)) + 1e-250
    return axes @ np.swapaxes(axes, 1, 2) + slack[:, None, None] * np.eye(size)


def is_covariance_inside(
    centers: np.ndarray, covariances: np.ndarray, balls: TrappingBalls, which: np.ndarray, share: np.ndarray
) -> np.ndarray:
    """Which sets lie within a share of the radius of a ball: |Q⁻¹ (x - c)|² is at most the trace of Q⁻¹ S Q⁻ᵀ."""
    inverse, loss = iv.inverses_of(balls.factors[which])
    size = centers.shape[1]
    away = iv.vector_norm(iv.apply(inverse, iv.sub(iv.exactly(centers), iv.exactly(balls.centers[which]))))
    trace = np.einsum("kij,kij->k", inverse[0] @ covariances, inverse[0])
    slack = 6 * (size + 3) ** 2 * iv.U * (inverse[0] ** 2).sum(axis=(1, 2))
    slack = slack * CovarianceStep._size(covariances) * _WIDER
    reach = (away + np.sqrt(np.maximum(trace, 0.0) + slack)) / (1 - loss) * _WIDER + iv.TINY
    return (loss < 1) & (reach <= iv.down(balls.radii[which] * share))


def _with_ball(covariances: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """Sums with balls: (p + q)² <= (1 + a) p² + (1 + 1/a) q² for every a > 0."""
    size = covariances.shape[1]
    square = (radii * _WIDER) ** 2 + 1e-250
    trace = np.einsum("kii->k", covariances)
    a = np.sqrt(size * square / np.maximum(trace, 1e-30 * size * square))
    wider = covariances * ((1 + a) * _WIDER)[:, None, None]
    more = (1 + 1 / a) * square * _WIDER + 4 * iv.U * CovarianceStep._size(wider)
    return wider + (more * _WIDER)[:, None, None] * np.eye(size)
