"""A metric in which uncertain gains contract: a Riccati iteration finds it, and one inequality proves it."""

from typing import NamedTuple

import numpy as np
import scipy.linalg
from jaxtyping import Float

from rnndyn.dynamics.proofs import interval_arithmetic as ia
from rnndyn.dynamics.proofs.interval_arithmetic import Interval, point
from rnndyn.dynamics.proofs.sector_forms import SectorForm
from rnndyn.dynamics.proofs.verified_norms import is_positive_definite, round_up

Metric = tuple[float, np.ndarray, np.ndarray]
"""A rate, a metric P and multipliers of the gains."""


class ProvedMetric(NamedTuple):
    """A rate that is proved, with its metric and multipliers, and by which share it lies above the least of these."""

    rate: float
    metric: np.ndarray
    multipliers: np.ndarray
    margin: float


_NUM_ITERATIONS = 500
_NUM_BISECTIONS = 9
_NUM_REWEIGHTED = 4
_STRICT = 1e-6
# How much above the least rate of a metric the claim lies, and the share of it with which it must be proved already: a
# checker may lose several times as much to rounding.
_CLAIM_SLACKS = (8e-10, 4e-9, 2e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
_SHARE_OF_SLACK = 1 / 8


def proved_metric(form: SectorForm, size: int, relaxed: float = 0.0) -> ProvedMetric | None:
    """A metric whose inequality is verified, at the least of a few rates above the one found."""
    found = find_metric(form, size, relaxed)
    if found is None:
        return None
    _, metric, scales = found
    largest = np.max(np.abs(metric))
    metric, scales = 0.5 * (metric + metric.T) / largest, scales / largest
    rate = least_rate(form, metric, scales)
    for slack in _CLAIM_SLACKS:
        if is_contraction(form, metric, scales, rate * (1 + _SHARE_OF_SLACK * slack)):
            return ProvedMetric(rate * (1 + slack), metric, scales, slack)
    return None


def slopes(form: SectorForm) -> tuple[np.ndarray, np.ndarray]:
    """Middles m and radii r of the slopes; a radius of zero would ask for an infinite multiplier."""
    middle = 0.5 * (form.low + form.high)
    radius = np.maximum(np.maximum(form.high - middle, middle - form.low), 1e-9)
    # More than the rounding of the middle and of the sums in which the bounds are checked.
    return np.asarray(middle), np.asarray(round_up(radius + 8 * ia.UNIT_ROUNDOFF * np.abs(middle), 4))


def find_metric(form: SectorForm, size: int, relaxed: float = 0.0) -> Metric | None:
    r"""The smallest rate found with a metric P and multipliers: (rate, P, Lambda), floats that prove nothing yet.

    With gains s = m + r d, |d| <= 1, the map is dx' = A_0 dx + B_0 v, eta = C_0 dx + D_0 v, |v_i| <= |eta_i|, and
    |dx'|_P <= rho |dx|_P follows from the discrete bounded real lemma with diagonal scalings, whose least solution
    is the limit of the Riccati iteration. At the smallest rate its ellipsoids are as flat as can be:
    `relaxed` gives away this share of the logarithm of the rate for rounder ones.
    """
    middle, radius = slopes(form)
    if not (np.isfinite(middle).all() and np.isfinite(radius).all()):
        return None
    into, gains = (np.asarray(ia.midpoint(x)) for x in (form.into, form.gains))
    a, b, c, d = into[:, :size], into[:, size:], gains[:, :size], gains[:, size:]
    solved = np.linalg.solve(np.eye(len(middle)) - d * middle, np.concatenate([c, d], axis=1))
    whole = np.concatenate([a, b], axis=1) + (b * middle) @ solved
    system = (whole[:, :size], whole[:, size:], radius[:, None] * solved[:, :size], radius[:, None] * solved[:, size:])
    scales, best = np.ones(len(middle)), None
    for _ in range(_NUM_REWEIGHTED):
        least = float(np.max(np.abs(np.linalg.eigvals(system[0]))))
        low, high = np.log(max(least, 1e-3)), np.log(best[0]) if best else 0.0
        if low >= high:
            break
        found = None
        for step in range(_NUM_BISECTIONS):
            rate = float(np.exp(high if step == 0 else 0.5 * (low + high))) * (0.9999 if step == 0 else 1.0)
            metric = _riccati(system, scales, rate)
            if metric is None:
                low = np.log(rate)
                if step == 0:
                    break
            else:
                high, found = np.log(rate), (rate, metric, scales)
        if found is not None and (best is None or found[0] < best[0]):
            best = found
        if best is None:
            break
        scales = _reweighted(system, scales, best[1], best[0])
    if best is None or relaxed == 0.0:
        return best
    rate = best[0] ** (1 - relaxed)
    rounder = _riccati(system, best[2], rate)
    return best if rounder is None else (rate, rounder, best[2])


def _riccati(system, scales: np.ndarray, rate: float) -> np.ndarray | None:
    a, b, c, d = system
    metric = np.zeros((len(a), len(a)))
    source = (c.T * scales) @ c
    source = source + _STRICT * max(np.trace(source) / len(a), 1e-12) * np.eye(len(a))
    weight = np.diag(scales) * (1 - _STRICT) - (d.T * scales) @ d
    cross = (d.T * scales) @ c
    for _ in range(_NUM_ITERATIONS):
        pushed = metric @ a
        mixed = b.T @ pushed + cross
        room = weight - b.T @ metric @ b
        try:
            factor = scipy.linalg.cho_factor(0.5 * (room + room.T))
        except np.linalg.LinAlgError:
            return None
        following = (a.T @ pushed + source + mixed.T @ scipy.linalg.cho_solve(factor, mixed)) / rate**2
        following = 0.5 * (following + following.T)
        change = np.linalg.norm(following - metric) / np.linalg.norm(following)
        metric = following
        if change < 1e-7:
            return metric
        if not np.isfinite(change) or np.trace(metric) > 1e12 * np.trace(source):
            return None
    return None


def _reweighted(system, scales: np.ndarray, metric: np.ndarray, rate: float) -> np.ndarray:
    """Multipliers moved towards the gains that the worst disturbance uses beyond their bound."""
    a, b, c, d = system
    room = np.diag(scales) - (d.T * scales) @ d - b.T @ metric @ b
    feedback = np.linalg.solve(room, b.T @ metric @ a + (d.T * scales) @ c)
    x = np.linalg.eigh(metric)[1][:, -1]
    used, allowed = np.zeros(len(scales)), np.zeros(len(scales))
    for _ in range(100):
        v = feedback @ x
        used, allowed = used + v**2, allowed + (c @ x + d @ v) ** 2
        x = (a @ x + b @ v) / rate
        x = x / np.linalg.norm(x)
    ratio = np.sqrt((used + 1e-12) / (allowed + 1e-12))
    return scales * np.clip(ratio, 0.3, 3.0)


def least_rate(form: SectorForm, metric: Float[np.ndarray, "N N"], scales: Float[np.ndarray, " m"]) -> float:
    """The smallest rate at which the inequality of `is_contraction` holds, without rounding errors: proves nothing.

    In dw it is a square whatever the rate is; what is left of it, by a Schur complement, is a pencil in rho^2.
    """
    size = len(metric)
    middle, radius = slopes(form)
    into, gains = (np.asarray(ia.midpoint(x)) for x in (form.into, form.gains))
    deviation, allowed = -middle[:, None] * gains, radius[:, None] * gains
    deviation[:, size:] += np.eye(len(middle))
    rest = (deviation.T * scales) @ deviation - (allowed.T * scales) @ allowed - into.T @ metric @ into
    try:
        factor = scipy.linalg.cho_factor(rest[size:, size:])
        worst = rest[:size, size:] @ scipy.linalg.cho_solve(factor, rest[size:, :size]) - rest[:size, :size]
        square = scipy.linalg.eigh(0.5 * (worst + worst.T), metric, eigvals_only=True)[-1]
    except np.linalg.LinAlgError:
        return np.inf
    return float(np.sqrt(max(square, 1e-300)))


def is_contraction(
    form: SectorForm, metric: Float[np.ndarray, "N N"], scales: Float[np.ndarray, " m"], rate: float
) -> bool:
    r"""Whether |dx'|_P <= rate |dx|_P is proved, from outward-rounded evaluation of one matrix inequality.

    For z = (dx, dw), E = [A B], Y = [C D], slopes within m ± r and multipliers l >= 0,

    $$\rho^2 |dx|_P^2 - |E z|_P^2 + \sum_i l_i \bigl((w_i - m_i (Y z)_i)^2 - r_i^2 (Y z)_i^2\bigr) > 0$$

    for all z; the sum is at most zero whatever the slopes are (S-procedure).
    """
    size, count = len(metric), form.into.shape[1]
    if not (rate > 0 and np.all(scales >= 0) and np.array_equal(metric, metric.T)):
        return False
    if not is_positive_definite(point(metric)):
        return False
    middle, radius = slopes(form)
    # The interval [m - r, m + r] holds every slope: checked, not trusted to the rounding above.
    if not (np.all(middle - radius < form.low) and np.all(form.high < middle + radius)):
        return False
    turned = form.into.map(np.transpose)
    pushed = ia.matmul(ia.matmul(turned, point(metric)), form.into)
    units = np.concatenate([np.zeros((count - size, size)), np.eye(count - size)], axis=1)
    deviation = ia.sub(point(units), ia.mul(point(middle[:, None]), form.gains))
    allowed = ia.mul(point(radius[:, None]), form.gains)
    total = Interval(np.zeros((count, count)), np.zeros((count, count)))
    square = ia.mul(point(np.asarray(rate)), point(np.asarray(rate)))
    total.lo[:size, :size], total.hi[:size, :size] = (np.asarray(x) for x in _both(ia.mul(square, point(metric))))
    total = ia.sub(total, pushed)
    weights = point(scales[:, None])
    plus = ia.matmul(deviation.map(np.transpose), ia.mul(weights, deviation))
    minus = ia.matmul(allowed.map(np.transpose), ia.mul(weights, allowed))
    return bool(is_positive_definite(ia.sub(ia.add(total, plus), minus)))


def _both(x: Interval) -> tuple[np.ndarray, np.ndarray]:
    return x.lo, x.hi
