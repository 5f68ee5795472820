"""One step of branch and bound: contract a box around the fixed points it may hold."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from rnndyn.dynamics.proofs import interval_arithmetic as ia
from rnndyn.dynamics.proofs.interval_arithmetic import Interval, point
from rnndyn.dynamics.proofs.intervals import enclose

EMPTY, SETTLED, OPEN = range(3)
# The settling test runs on a box this much larger on every side, so that a fixed point on a face is settled too.
_INFLATION = 2.0**-5
# A contraction that leaves less of the widths than this is repeated before the box is divided.
_GOOD_CONTRACTION = 0.6


@eqx.filter_jit
def contract_boxes(f: Callable, lower: Array, upper: Array, scale: Array) -> "Step":
    return jax.vmap(lambda lo, hi: _contract_one(f, Interval(lo, hi), scale))(lower, upper)


class Step(eqx.Module):
    """A box after contraction.

    `status`: empty, settled (exactly one fixed point in `region`, located in `box`), or open, to be divided along
    `axis` if that is not negative and examined again as it is otherwise.
    """

    status: Array
    box: Interval
    region: Interval
    axis: Array


def _contract_one(f: Callable, box: Interval, scale: Array) -> "Step":
    width = box.hi - box.lo
    # A side that has collapsed to rounding level would leave no interior for the settling test.
    margin = _INFLATION * jnp.maximum(width, 0.01 * scale * jnp.max(width / scale))
    region = Interval(box.lo - margin, box.hi + margin)
    center = ia.midpoint(region)
    over = enclose(f, region)
    at_center = enclose(f, point(center), with_jacobian=False).value
    offset = ia.sub(region, point(center))

    new = ia.intersect(box, over.value)
    mean_value = ia.add(at_center, ia.matvec(over.jacobian, offset))
    new = ia.intersect(new, mean_value)
    slopes = ia.sub(point(jnp.eye(center.size)), over.jacobian)
    residual = ia.sub(point(center), at_center)
    new = _solve_each(slopes, residual, offset, center, new)

    inverse = jnp.nan_to_num(jnp.linalg.inv(ia.midpoint(slopes)), nan=0.0, posinf=0.0, neginf=0.0)
    solved = _gauss_seidel(ia.matmul(point(inverse), slopes), ia.matvec(point(inverse), residual), center, region)
    # Newton's theorem is about the larger box: exactly one fixed point in it, also if it lies outside `box`.
    settled = jnp.all((solved.lo > region.lo) & (solved.hi < region.hi)) & jnp.all(solved.lo <= solved.hi)
    new = ia.intersect(new, solved)
    empty = jnp.any(new.lo > new.hi)

    left = (new.hi - new.lo) / width
    variation = ia.magnitude(slopes) * (new.hi - new.lo)
    # Each equation's variation relative to its own total: saturated units have equations with tiny coefficients.
    smear = jnp.sum(variation / jnp.sum(variation, axis=1, keepdims=True), axis=0)
    # Where the Jacobian is unknown the widest side is divided.
    smear = jnp.where(jnp.all(jnp.isfinite(smear)), smear, left)
    axis = jnp.where(jnp.min(left) < _GOOD_CONTRACTION, -1, jnp.argmax(smear))
    status = jnp.where(settled, SETTLED, jnp.where(empty, EMPTY, OPEN))
    return Step(status, ia.where(settled, solved, new), region, axis)


def _solve_each(slopes: Interval, residual: Interval, offset: Interval, center: Array, box: Interval) -> Interval:
    """Solve every linearised equation i for every unknown j.

    x_j ∈ c_j - (r_i + sum over k ≠ j of A_ik (x_k - c_k)) / A_ij.
    """
    size = center.size
    terms = ia.mul(slopes, Interval(offset.lo[None, :], offset.hi[None, :]))
    others = ia.matmul(terms, point(1.0 - jnp.eye(size)))
    numerator = ia.add(Interval(residual.lo[:, None], residual.hi[:, None]), others)
    candidates = ia.sub(point(center[None, :]), ia.div(numerator, slopes))
    lo = jnp.max(jnp.where(jnp.isnan(candidates.lo), -jnp.inf, candidates.lo), axis=0)
    hi = jnp.min(jnp.where(jnp.isnan(candidates.hi), jnp.inf, candidates.hi), axis=0)
    return ia.intersect(box, Interval(lo, hi))


def _gauss_seidel(matrix: Interval, residual: Interval, center: Array, box: Interval) -> Interval:
    """One sweep of the interval Gauss-Seidel (Hansen-Sengupta) step on matrix (x - center) = -residual over a box.

    Returns the new box, not intersected with the old one, so that lying in the interior is a proof; unknowns already
    solved enter with what is left of them. NaN where the diagonal may vanish.
    """
    size = center.size

    def solve_for(i, state):
        current, solved = state
        row = Interval(matrix.lo[i], matrix.hi[i])
        terms = ia.mul(row, ia.sub(current, point(center)))
        others = ia.where(jnp.arange(size) != i, terms, point(jnp.zeros(size)))
        sums = ia.add(Interval(residual.lo[i], residual.hi[i]), ia.total(others, (0,)))
        value = ia.sub(point(center[i]), ia.div(sums, Interval(row.lo[i], row.hi[i])))
        solved = Interval(solved.lo.at[i].set(value.lo), solved.hi.at[i].set(value.hi))
        return ia.intersect(current, solved), solved

    # A loop, not unrolled, for the sake of compile time.
    return jax.lax.fori_loop(0, size, solve_for, (Interval(box.lo, box.hi), Interval(box.lo, box.hi)))[1]


@eqx.filter_jit
def _polish_batch(f: Callable, states: Array) -> Array:
    """A few Newton steps from every state."""

    def newton_step(_, x):
        step = jnp.linalg.solve(jnp.eye(x.size) - jax.jacfwd(f)(x), x - f(x))
        return jnp.where(jnp.all(jnp.isfinite(step)), x - step, x)

    return jax.vmap(lambda x: jax.lax.fori_loop(0, 4, newton_step, x))(states)
