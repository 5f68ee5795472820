"""One step of branch and bound: contract a box around the fixed points it may hold."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from rnndyn._programs import compiled
from rnndyn.dynamics.proofs import interval_arithmetic as ia
from rnndyn.dynamics.proofs._inverses import inverses
from rnndyn.dynamics.proofs.interval_arithmetic import Interval, point
from rnndyn.dynamics.proofs.intervals import Enclosure, enclose_on_devices

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
    f: Callable,
    lower: Float[np.ndarray, "K N"],
    upper: Float[np.ndarray, "K N"],
    scale: Float[np.ndarray, " N"],
    *,
    is_long: bool = False,
) -> Step:
    """Contract each of K boxes around the fixed points of `f` that it may hold.

    The enclosures of f are compiled. The rest is some hundred elementwise operations on small arrays: NumPy carries
    them out in half to twice the time of a compiled program, whose compilation takes longer than most searches.
    `is_long` says that it is worth it; one program then serves all maps of this size.
    """
    with np.errstate(all="ignore"):
        box = Interval(lower, upper)
        width = upper - lower
        # A side that has collapsed to rounding level would leave no interior for the settling test.
        margin = _INFLATION * np.maximum(width, 0.01 * scale * (width / scale).max(axis=1, keepdims=True))
        region = Interval(lower - margin, upper + margin)
        center = ia.midpoint(region)
        over: Enclosure = enclose_on_devices(f, region.lo, region.hi)
        at_center: Interval = enclose_on_devices(f, center, center, with_jacobian=False).value
        inverse = inverses(np.eye(len(scale)) - ia.midpoint(over.jacobian))
        inverse = np.nan_to_num(inverse, nan=0.0, posinf=0.0, neginf=0.0)
        if is_long:
            return jax.device_get(_compiled_contract(box, region, center, over, at_center, inverse))
        return _contract(box, region, center, over, at_center, inverse)


def _contract(box: Interval, region: Interval, center: Any, over: Enclosure, at_center: Interval, inverse: Any) -> Step:
    """The contraction itself, on NumPy or on JAX arrays."""
    xp = ia.namespace(center)
    width = box.hi - box.lo
    offset = ia.sub(region, point(center))
    new = ia.intersect(box, over.value)
    mean_value = ia.add(at_center, ia.matvec(over.jacobian, offset))
    new = ia.intersect(new, mean_value)
    slopes = ia.sub(point(np.eye(center.shape[1])), over.jacobian)
    residual = ia.sub(point(center), at_center)
    new = _solve_each(slopes, residual, offset, center, new)

    solved = _gauss_seidel(ia.matmul(point(inverse), slopes), ia.matvec(point(inverse), residual), center, region)
    # Newton's theorem is about the larger box: exactly one fixed point in it, also if it lies outside `box`.
    interior: Any = (solved.lo > region.lo) & (solved.hi < region.hi) & (solved.lo <= solved.hi)
    settled = interior.all(axis=1)
    new = ia.intersect(new, solved)
    empty = (new.lo > new.hi).any(axis=1)

    left = (new.hi - new.lo) / width
    variation = ia.magnitude(slopes) * (new.hi - new.lo)[:, None, :]
    # Each equation's variation relative to its own total: saturated units have equations with tiny coefficients.
    smear = (variation / variation.sum(axis=2, keepdims=True)).sum(axis=1)
    # Where the Jacobian is unknown the widest side is divided.
    smear = xp.where(xp.isfinite(smear).all(axis=1, keepdims=True), smear, left)
    axis = xp.where(left.min(axis=1) < _GOOD_CONTRACTION, -1, smear.argmax(axis=1))
    status = xp.where(settled, SETTLED, xp.where(empty, EMPTY, OPEN))
    return Step(status, ia.where(settled[:, None], solved, new), region, axis)


_compiled_contract = compiled(_contract)


def _solve_each(slopes: Interval, residual: Interval, offset: Interval, center: Any, box: Interval) -> Interval:
    """Solve every linearised equation i for every unknown j.

    x_j ∈ c_j - (r_i + sum over k ≠ j of A_ik (x_k - c_k)) / A_ij.
    """
    xp, size = ia.namespace(center), center.shape[1]
    terms = ia.mul(slopes, offset.map(lambda end: end[:, None, :]))
    others = ia.matmul(terms, point(1.0 - xp.eye(size)))
    numerator = ia.add(residual.map(lambda end: end[:, :, None]), others)
    candidates = ia.sub(point(center[:, None, :]), ia.div(numerator, slopes))
    lo = xp.where(xp.isnan(candidates.lo), -xp.inf, candidates.lo).max(axis=1)
    hi = xp.where(xp.isnan(candidates.hi), xp.inf, candidates.hi).min(axis=1)
    return ia.intersect(box, Interval(lo, hi))


def _gauss_seidel(matrix: Interval, residual: Interval, center: Any, box: Interval) -> Interval:
    """One sweep of the interval Gauss-Seidel (Hansen-Sengupta) step on matrix (x - center) = -residual over boxes.

    Returns the new boxes, not intersected with the old ones, so that lying in the interior is a proof; unknowns
    already solved enter with what is left of them. NaN where the diagonal may vanish.
    """
    xp, size = ia.namespace(center), center.shape[1]

    def solve_for(i: Any, state: tuple[Interval, Interval]) -> tuple[Interval, Interval]:
        current, solved = state
        chosen = xp.arange(size) == i
        terms = ia.mul(matrix.map(lambda end: end[:, i]), ia.sub(current, point(center)))
        sums = ia.add(
            residual.map(lambda end: end[:, i]), ia.total(ia.where(chosen, point(xp.zeros(size)), terms), (1,))
        )
        value = ia.sub(point(center[:, i]), ia.div(sums, matrix.map(lambda end: end[:, i, i])))
        column = value.map(lambda end: end[:, None])
        solved = ia.where(chosen, column, solved)
        return ia.where(chosen, ia.intersect(current, column), current), solved

    if xp is np:
        state = (box, box)
        for i in range(size):
            state = solve_for(i, state)
        return state[1]
    return jax.lax.fori_loop(0, size, solve_for, (Interval(box.lo, box.hi), Interval(box.lo, box.hi)))[1]
