"""Balls, and ellipsoids and boxes on their way into them, for the second opinion."""

import numpy as np

from rnndyn.dynamics.destinations import _checker_intervals as iv
from rnndyn.dynamics.destinations._checker_cells import CellStep
from rnndyn.dynamics.destinations._checker_discs import discs_arrive
from rnndyn.dynamics.destinations._checker_slim import slim_arrive
from rnndyn.dynamics.destinations.trapping_balls import TrappingBalls

_AT_ONCE = 64
"""States followed side by side."""


def balls_fail(balls: TrappingBalls, step: CellStep) -> str:
    """The first trapping inequality that does not hold; empty where all do."""
    rows = np.flatnonzero(balls.radii > 0)
    after = balls.successors[rows]
    if not np.array_equal(balls.radii[after], balls.radii[rows]):
        return "the balls of a cycle have different radii."
    centers, factors, radii = balls.centers[rows], balls.factors[rows], balls.radii[rows]
    value, linear = step.over_balls(centers, factors, radii)
    inverse, loss = iv.inverses_of(balls.factors[after])
    offsets = (
        iv.vector_norm(iv.apply(inverse, iv.sub(value, iv.exactly(balls.centers[after])))) / (1 - loss) * (1 + 8 * iv.U)
    )
    norms = iv.spectral_norm(iv.apply_matrix(inverse, linear))
    gained = np.flatnonzero((balls.multipliers[rows] > 0).any(axis=1))
    if gained.size:
        turned = tuple(end[gained] for end in inverse)
        found = _gain_norms(step, *rows_of((centers, factors, radii), gained), turned, balls.multipliers[rows[gained]])
        norms[gained] = np.minimum(norms[gained], found)
    rates = norms / (1 - loss) * (1 + 8 * iv.U)
    claimed, rate = balls.offsets[rows], balls.rates[rows]
    for i, k in enumerate(rows):
        if not (loss[i] < 1 and offsets[i] <= claimed[i]):
            return (
                f"ball {k}: |F(c) - c'| is claimed to be {claimed[i]:.6g}, and only known to be below {offsets[i]:.6g}."
            )
        if not rates[i] <= rate[i]:
            return f"ball {k}: |DF| is claimed to be {rate[i]:.12g}, and only known to be below {rates[i]:.12g}."
        if not (rate[i] < 1 and iv.up(claimed[i] + iv.up(rate[i] * radii[i])) <= radii[i]):
            return f"ball {k}: offset + rate r = {claimed[i] + rate[i] * radii[i]:.12g} exceeds r = {radii[i]:.12g}."
    return ""


def _gain_norms(
    step: CellStep,
    centers: np.ndarray,
    factors: np.ndarray,
    radii: np.ndarray,
    inverse: iv.Pair,
    multipliers: np.ndarray,
) -> np.ndarray:
    """|R DF Q| over balls, R the numbers of `inverse`: |(A, L^-1/2 B'A, (1 + |B L^-1/2|²)^1/2 L^1/2 C)| + ||B| e|.

    DF Q y = E (y, v) with |v_i| <= |(C y)_i| + e_i |y|; (A B) = R E, and 2 a v <= a² / l + l v² for every l > 0.
    """
    into, bounds, slopes = step.gains_over_balls(centers, factors, radii)
    out, size = np.full(len(radii), np.inf), centers.shape[1]
    for k in range(len(radii)):
        # Multipliers of other gains, or of none, prove nothing.
        if not (multipliers.shape[1] == bounds.shape[1] and np.all(multipliers[k] > 0)):
            continue
        turned = iv.apply_matrix(*(tuple(end[k : k + 1] for end in pair) for pair in (inverse, into)))
        a, b = (tuple(end[0][:, part] for end in turned) for part in (slice(size), slice(size, None)))
        middle = iv.middle_of(b)
        transposed = middle.T[None], iv.radius_about(b, middle).T[None]
        lo, hi = iv.apply_matrix(transposed, tuple(end[None] for end in a))
        slope = tuple(end[k] for end in slopes)
        middle, bound = iv.middle_of(slope), bounds[k]
        used = iv.mul(iv.exactly(bound[:, None]), iv.exactly(middle))
        left = iv.up(bound * iv.vector_norm(iv.exactly(iv.radius_about(slope, middle))))
        root = np.sqrt(multipliers[k])
        spread = iv.spectral_norm(tuple(end[None] for end in _divided(b, root)))[0]
        factor = iv.up(np.sqrt(iv.up(1 + iv.up(spread**2))))
        pulled = tuple(end.T for end in _divided((lo[0].T, hi[0].T), root))
        grown = iv.mul(iv.mul(iv.exactly(root[:, None]), iv.exactly(np.full((1, 1), factor))), used)
        stack = tuple(np.concatenate([a[end], pulled[end], grown[end]])[None] for end in (0, 1))
        size_b = np.maximum(np.abs(b[0]), np.abs(b[1]))
        rest = (size_b @ left) * (1 + 4 * len(left) * iv.U) + iv.TINY
        out[k] = iv.up(iv.spectral_norm(stack)[0] + iv.vector_norm(iv.exactly(rest)))
    return np.where(np.isnan(out), np.inf, out)


def _divided(x: iv.Pair, root: np.ndarray) -> iv.Pair:
    """The columns of x by positive numbers."""
    return iv.down(x[0] / root), iv.up(x[1] / root)


def arrivals_fail(balls: TrappingBalls, multiples: np.ndarray, settling: np.ndarray, step: CellStep) -> str:
    """The first of the larger balls that is not seen to come to lie in a trapping ball of its memory."""
    rows = np.flatnonzero((balls.radii > 0) & ((multiples > 1) | (settling > 0)))
    sets = (balls.centers[rows], balls.factors[rows], balls.radii[rows] * multiples[rows])
    place, there = rows.copy(), np.zeros(len(rows), bool)
    for t in range(int(settling[rows].max(initial=0)) + 1):
        now = np.flatnonzero(settling[rows] == t)
        if now.size:
            there[now] = is_inside(*rows_of(sets, now), balls, place[now], np.ones(len(rows))[now])
        sets, place = advance(step, *sets), balls.successors[place]
    if there.all():
        return ""
    k = rows[np.argmin(there)]
    return f"ball {k}: {multiples[k]:.6g} times as large it is not seen to enter itself within {settling[k]} steps."


def states_arrive(
    step: CellStep,
    states: np.ndarray,
    steps: np.ndarray,
    entered: np.ndarray,
    balls: TrappingBalls,
    multiples: np.ndarray,
) -> np.ndarray:
    """Which states lie, after so many steps, within so many times the radius of a ball."""
    num, size = states.shape
    inside = np.zeros(num, bool)
    for first in range(0, num, _AT_ONCE):
        own = slice(first, first + _AT_ONCE)
        start = states[own], np.zeros((len(states[own]), size, size))
        inside[own] = slim_arrive(step, start, steps[own], entered[own], balls, multiples)
    left = np.flatnonzero(~inside)
    inside[left] = discs_arrive(step, states[left], steps[left], entered[left], balls, multiples)
    left = left[~inside[left]]
    sets = (states[left], np.broadcast_to(np.eye(size), (len(left), size, size)), np.zeros(len(left)))
    for t in range(int(steps[left].max(initial=0)) + 1):
        now = steps[left] == t
        if now.any():
            which = entered[left[now]]
            inside[left[now]] = is_inside(*rows_of(sets, now), balls, which, multiples[which])
        if (steps[left] > t).any():
            sets = advance(step, *sets)
    return inside


def is_inside(
    centers: np.ndarray,
    factors: np.ndarray,
    radii: np.ndarray,
    balls: TrappingBalls,
    which: np.ndarray,
    share: np.ndarray | float,
) -> np.ndarray:
    """Which ellipsoids lie within a share of the radius of a ball."""
    inverse, loss = iv.inverses_of(balls.factors[which])
    away = iv.vector_norm(iv.apply(inverse, iv.sub(iv.exactly(centers), iv.exactly(balls.centers[which]))))
    size = iv.spectral_norm(iv.apply_matrix(inverse, iv.exactly(factors))) * radii
    reach = (away + size) / (1 - loss) * (1 + 16 * iv.U) + iv.TINY
    return (loss < 1) & (reach <= iv.down(balls.radii[which] * share))


def rows_of(
    sets: tuple[np.ndarray, np.ndarray, np.ndarray], rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    centers, factors, radii = sets
    return centers[rows], factors[rows], radii[rows]


def advance(
    step: CellStep, centers: np.ndarray, factors: np.ndarray, radii: np.ndarray, times: int = 1
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ellipsoids that hold the images of ellipsoids under so many steps taken as one."""
    value, linear = step.over_balls(centers, factors, radii, times)
    middle, matrix = iv.middle_of(value), iv.middle_of(linear)
    size = centers.shape[1]
    blur = np.linalg.norm(iv.radius_about(linear, matrix), axis=2) * radii[:, None] + iv.radius_about(value, middle)
    image = matrix * radii[:, None, None]
    covariance = image @ np.swapaxes(image, 1, 2)
    box = size * blur**2 + 1e-60
    share = np.sqrt(box.sum(axis=1) / np.maximum(np.trace(covariance, axis1=1, axis2=2), 1e-30 * box.sum(axis=1)))
    fat = (1 + 1 / share)[:, None] * box + 1e-6 / size * np.trace(covariance, axis1=1, axis2=2)[:, None]
    known = np.isfinite(fat).all(axis=1) & np.isfinite(covariance).all(axis=(1, 2))
    covariance = np.where(known[:, None, None], covariance * (1 + share)[:, None, None], 0.0)
    covariance = covariance + np.where(known[:, None], fat, 1.0)[:, None, :] * np.eye(size)
    following = np.linalg.cholesky(covariance)
    inverse, loss = iv.inverses_of(following)
    away = iv.vector_norm(iv.apply(inverse, iv.sub(value, iv.exactly(middle))))
    reach = (away + iv.spectral_norm(iv.apply_matrix(inverse, linear)) * radii) / (1 - loss) * (1 + 16 * iv.U) + iv.TINY
    return np.where(known[:, None], middle, 0.0), following, np.where(known & (loss < 1), reach, np.inf)
