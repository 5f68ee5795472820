"""One step of branch and bound: contract a box around the fixed points it may hold."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from rnndyn.dynamics.proofs import interval_arithmetic as ia
from rnndyn.dynamics.proofs._inverses import inverses
from rnndyn.dynamics.proofs.interval_arithmetic import Interval, point
from rnndyn.dynamics.proofs.intervals import Enclosure, enclose_boxes

EMPTY, SETTLED, OPEN = range(3)
# The settling test runs on a box this much larger on every side, so that a fixed point on a face is settled too.
_INFLATION = 2.0**-5
# A contraction that leaves less of the widths than this is repeated before the box is divided.
_GOOD_CONTRACTION = 0.6


class Step(NamedTuple):
    """K boxes after contraction.

    - `status`: empty, settled (exactly one fixed point in `region`, located in `box`), or open, to be divided along
      `axis` if that is not negative and examined again as it is otherwise.
    """

    status: Int[np.ndarray, " K"]
    box: Interval
    region: Interval
    axis: Int[np.ndarray, " K"]


def contract_boxes(
    f: Callable, lower: Float[np.ndarray, "K N"], upper: Float[np.ndarray, "K N"], scale: Float[np.ndarray, " N"]
) -> Step:
    """Contract each of K boxes around the fixed points of `f` that it may hold.

    Only the enclosures of f are compiled. The rest is some hundred elementwise operations on small arrays, which NumPy
    carries out as fast, and whose compilation would take longer than most searches.
    """
    with np.errstate(all="ignore"):
        box = Interval(lower, upper)
        width = upper - lower
        # A side that has collapsed to rounding level would leave no interior for the settling test.
        margin = _INFLATION * np.maximum(width, 0.01 * scale * (width / scale).max(axis=1, keepdims=True))
        region = Interval(lower - margin, upper + margin)
        center = ia.midpoint(region)
        over: Enclosure = jax.device_get(enclose_boxes(f, region.lo, region.hi))
        at_center: Interval = jax.device_get(enclose_boxes(f, center, center, with_jacobian=False).value)
        return _contract(box, region, center, over, at_center)


def _contract(box: Interval, region: Interval, center: np.ndarray, over: Enclosure, at_center: Interval) -> Step:
    width = box.hi - box.lo
    offset = ia.sub(region, point(center))
    new = ia.intersect(box, over.value)
    mean_value = ia.add(at_center, ia.matvec(over.jacobian, offset))
    new = ia.intersect(new, mean_value)
    slopes = ia.sub(point(np.eye(center.shape[1])), over.jacobian)
    residual = ia.sub(point(center), at_center)
    new = _solve_each(slopes, residual, offset, center, new)

    inverse = np.nan_to_num(inverses(ia.midpoint(slopes)), nan=0.0, posinf=0.0, neginf=0.0)
    solved = _gauss_seidel(ia.matmul(point(inverse), slopes), ia.matvec(point(inverse), residual), center, region)
    # Newton's theorem is about the larger box: exactly one fixed point in it, also if it lies outside `box`.
    interior = (solved.lo > region.lo) & (solved.hi < region.hi) & (solved.lo <= solved.hi)
    settled = interior.all(axis=1)
    new = ia.intersect(new, solved)
    empty = (new.lo > new.hi).any(axis=1)

    left = (new.hi - new.lo) / width
    variation = ia.magnitude(slopes) * (new.hi - new.lo)[:, None, :]
    # Each equation's variation relative to its own total: saturated units have equations with tiny coefficients.
    smear = (variation / variation.sum(axis=2, keepdims=True)).sum(axis=1)
    # Where the Jacobian is unknown the widest side is divided.
    smear = np.where(np.isfinite(smear).all(axis=1, keepdims=True), smear, left)
    axis = np.where(left.min(axis=1) < _GOOD_CONTRACTION, -1, smear.argmax(axis=1))
    status = np.where(settled, SETTLED, np.where(empty, EMPTY, OPEN))
    return Step(status, ia.where(settled[:, None], solved, new), region, axis)


def _solve_each(
    slopes: Interval, residual: Interval, offset: Interval, center: np.ndarray, box: Interval
) -> Interval:
    """Solve every linearised equation i for every unknown j.

    x_j ∈ c_j - (r_i + sum over k ≠ j of A_ik (x_k - c_k)) / A_ij.
    """
    size = center.shape[1]
    terms = ia.mul(slopes, offset.map(lambda end: end[:, None, :]))
    others = ia.matmul(terms, point(1.0 - np.eye(size)))
    numerator = ia.add(residual.map(lambda end: end[:, :, None]), others)
    candidates = ia.sub(point(center[:, None, :]), ia.div(numerator, slopes))
    lo = np.where(np.isnan(candidates.lo), -np.inf, candidates.lo).max(axis=1)
    hi = np.where(np.isnan(candidates.hi), np.inf, candidates.hi).min(axis=1)
    return ia.intersect(box, Interval(lo, hi))


def _gauss_seidel(matrix: Interval, residual: Interval, center: np.ndarray, box: Interval) -> Interval:
    """One sweep of the interval Gauss-Seidel (Hansen-Sengupta) step on matrix (x - center) = -residual over boxes.

    Returns the new boxes, not intersected with the old ones, so that lying in the interior is a proof; unknowns
    already solved enter with what is left of them. NaN where the diagonal may vanish.
    """
    current = Interval(box.lo.copy(), box.hi.copy())
    solved = Interval(np.empty_like(box.lo), np.empty_like(box.hi))
    for i in range(center.shape[1]):
        terms = ia.mul(matrix.map(lambda end, i=i: end[:, i]), ia.sub(current, point(center)))
        for end in (terms.lo, terms.hi):
            end[:, i] = 0.0
        sums = ia.add(residual.map(lambda end, i=i: end[:, i]), ia.total(terms, (1,)))
        value = ia.sub(point(center[:, i]), ia.div(sums, matrix.map(lambda end, i=i: end[:, i, i])))
        solved.lo[:, i], solved.hi[:, i] = value.lo, value.hi
        left = ia.intersect(current.map(lambda end, i=i: end[:, i]), value)
        current.lo[:, i], current.hi[:, i] = left.lo, left.hi
    return solved
