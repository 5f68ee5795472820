"""Pseudo-arclength continuation of H(z) = 0 in pieces: metric, predictor, corrector, step size, and the loop of them.

Everything here is traced by JAX: a call of `trace_curve` returns many points of the curve at once. The curve is
measured in scaled coordinates zeta = z / scales, in which a state that moves by its typical length, and a parameter
that moves by the width of its interval, both have length one.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.sparse.linalg import gmres
from jaxtyping import Array, Bool, Float, Int

from rnndyn._programs import compiled
from rnndyn.dynamics.bifurcations._systems import CycleSystem, Frame, monodromy

RUNNING, LEFT_INTERVAL, LEFT_BOX, STEP_TOO_SMALL = range(4)

MAX_CORRECTIONS = 8
"""Newton steps of the corrector: from a good prediction three to five reach the rounding floor."""

# The step is halved, kept or doubled so that these are met on average. The values are those that Allgower & Georg
# recommend in kind: small enough that the predictor stays well inside the domain of quadratic convergence.
NOMINAL_CONTRACTION = 0.2
NOMINAL_DISTANCE = 0.01
NOMINAL_ANGLE = 0.12

CORNER_STEP = 1e-6
"""Steps shorter than this are accepted whatever their curvature, unless they turn by more than a right angle."""


class Metric(NamedTuple):
    """Lengths: `units` is a typical size of every entry of z, `scales` the divisor of scaled coordinates.

    States are averaged: scales = units * sqrt(number of states), so that |dzeta| is the root mean square.
    """

    units: Any
    scales: Any


class Limits(NamedTuple):
    """Where the curve ends: bounds on the parameters (the last entries of z) and on the states, and on the step."""

    lower: Any
    upper: Any
    box_lower: Any
    box_upper: Any
    min_step: Any
    max_step: Any


class CurvePoint(NamedTuple):
    """A point of the curve, in scaled coordinates, and how the corrector came to it.

    `contraction` is the ratio of its first two steps, `distance` the way from the prediction in the largest entry.
    """

    zeta: Float[Array, " n"]
    tangent: Float[Array, " n"]
    frame: Frame
    residual: Float[Array, ""]
    monodromy: Float[Array, "N N"] | Float[Array, "0 0"]
    contraction: Float[Array, ""]
    distance: Float[Array, ""]
    converged: Bool[Array, ""]


def correct(system: Any, metric: Metric, frame: Frame, guess: Array, row: Array, offset: Any) -> CurvePoint:
    """Newton's method for H(zeta) = 0 and row . zeta = offset, from `guess`, to the rounding floor.

    The tangent returned has a positive component along `row`.
    """
    scales, units = jnp.asarray(metric.scales), jnp.asarray(metric.units)
    eps = jnp.finfo(guess.dtype).eps

    is_matrix_free = getattr(system, "matrix_free", False)
    linear_model = _matrix_free_model if is_matrix_free else _dense_model

    def body(carry: _Correction) -> _Correction:
        zeta, k = carry.zeta, carry.num_steps
        off_plane = row @ zeta - offset
        model = linear_model(system, frame, zeta, scales, row, off_plane)
        # How far rounding of z moves the residual, and the rounding of F(x) itself, for states of the typical size.
        floor = 32 * eps * (model.push_absolute(jnp.abs(zeta * scales)) + units[0])
        residual = jnp.max(jnp.abs(model.residual))
        last = carry.lengths[jnp.maximum(k - 1, 0)]
        at_floor = (residual <= floor) & (jnp.abs(off_plane) < 1e-12)  # rounding moves a point along the curve only
        still = (k > 0) & (last <= 8 * eps * jnp.linalg.norm(zeta))
        settled = at_floor | still
        finite = jnp.isfinite(residual) & jnp.all(jnp.isfinite(model.tangent))
        done = settled | ~finite | (k >= MAX_CORRECTIONS)
        return _Correction(
            jnp.where(done, zeta, zeta + model.step),
            model.tangent / jnp.linalg.norm(model.tangent),
            residual,
            model.monodromy,
            model.frame,
            carry.lengths.at[k].set(jnp.where(done, 0.0, jnp.linalg.norm(model.step)), mode="drop"),
            k + 1,
            settled & finite,
            done,
        )

    start = _Correction(
        guess,
        row,
        jnp.zeros(()),
        jnp.zeros(_monodromy_shape(system)),
        frame,
        jnp.zeros(MAX_CORRECTIONS),
        jnp.asarray(0),
        jnp.asarray(False),
        jnp.asarray(False),
    )
    end = jax.lax.while_loop(lambda c: ~c.done, body, start)
    tangent = _matrix_free_tangent(system, end.zeta, scales, row) if is_matrix_free else end.tangent
    converged = end.converged & jnp.all(jnp.isfinite(tangent))
    # First corrections at the rounding level say nothing of the curvature.
    measurable = (end.num_steps > 2) & (end.lengths[0] > 1e-7)
    contraction = jnp.where(measurable, end.lengths[1] / jnp.where(measurable, end.lengths[0], 1.0), 0.0)
    distance = jnp.max(jnp.abs(end.zeta - guess) * scales / units)
    return CurvePoint(
        end.zeta,
        tangent,
        end.frame,
        end.residual,
        end.monodromy,
        contraction,
        distance,
        converged,
    )


def _monodromy_shape(system: Any) -> tuple[int, int]:
    """Known without a look at the map, which takes a trace of all of it."""
    if getattr(system, "matrix_free", False):
        return 0, 0
    size = getattr(system, "cycle", system).num_units
    return size, size


class _LinearModel(NamedTuple):
    """A system near zeta: the Newton step in the plane, the (unscaled) tangent, and |DH| times a vector of lengths."""

    residual: Array
    step: Array
    tangent: Array
    monodromy: Array
    frame: Frame
    push_absolute: Callable[[Array], Array]


def _dense_model(system: Any, frame: Frame, zeta: Array, scales: Array, row: Array, off_plane: Any) -> _LinearModel:
    e = system.evaluate(zeta * scales, frame)
    bordered = jnp.concatenate([e.jacobian * scales, row[None]])
    right = jnp.zeros((zeta.size, 2)).at[:, 0].set(-jnp.append(e.residual, off_plane)).at[-1, 1].set(1.0)
    step, tangent = jnp.linalg.solve(bordered, right).T
    return _LinearModel(
        e.residual,
        step,
        tangent,
        monodromy(e.step_jacobians),
        e.frame,
        lambda lengths: jnp.max(jnp.abs(e.jacobian) @ lengths),
    )


def _matrix_free_model(
    system: CycleSystem, frame: Frame, zeta: Array, scales: Array, row: Array, off_plane: Any
) -> _LinearModel:
    """The same from products; its tangent, which no step needs, is that of the step before."""
    residual, push = jax.linearize(lambda zeta: system.residual(zeta * scales), zeta)
    # As many digits as the step gains: what Newton's method leaves of an error is its square.
    tol = jnp.clip(jnp.max(jnp.abs(residual)), 1e-10, 1e-3)
    return _LinearModel(
        residual,
        _solve_bordered(push, row, -jnp.append(residual, off_plane), jnp.zeros_like(zeta), tol),
        row,
        jnp.zeros((0, 0)),
        frame,
        # No matrix to take absolute values of: a product with lengths of either sign, and the 1 of F(x) - x.
        lambda lengths: jnp.max(lengths) + 2 * jnp.max(jnp.abs(push(lengths / scales))),
    )


def _matrix_free_tangent(system: CycleSystem, zeta: Array, scales: Array, row: Array) -> Array:
    """The unit tangent at a point of the curve; `row`, the one before, is where the solver starts."""
    _, push = jax.linearize(lambda zeta: system.residual(zeta * scales), zeta)
    right = jnp.zeros_like(zeta).at[-1].set(1.0)
    tangent = _solve_bordered(push, row, right, row / (row @ row), 1e-10)
    return tangent / jnp.linalg.norm(tangent)


def _solve_bordered(push: Callable[[Array], Array], row: Array, right: Array, start: Array, tol: Any) -> Array:
    bordered = lambda v: jnp.append(push(v), row @ v)
    restart = min(60, right.size)  # vectors of memory
    return gmres(bordered, right, start, tol=tol, restart=restart, maxiter=20, solve_method="incremental")[0]


class _Correction(NamedTuple):
    """An iterate of the corrector; all but `zeta` belong to the iterate before, and to this one when it is done."""

    zeta: Array
    tangent: Array
    residual: Array
    monodromy: Array
    frame: Frame
    lengths: Array
    num_steps: Array
    converged: Array
    done: Array


def step_ratio(point: CurvePoint, tangent: Array) -> Float[Array, ""]:
    """By how much the step was too long (above 1) or too short: the largest of three measures of curvature.

    Reference: E. Allgower & K. Georg (2003), *Introduction to Numerical Continuation Methods*, chapter 6.1.
    """
    cosine = jnp.clip(point.tangent @ tangent, -1.0, 1.0)
    # From the chord, because arccos loses half of the digits of a small angle.
    angle = 2 * jnp.arcsin(jnp.clip(jnp.linalg.norm(point.tangent - tangent) / 2, 0.0, 1.0))
    ratio = jnp.maximum(
        jnp.sqrt(point.contraction / NOMINAL_CONTRACTION),
        jnp.maximum(jnp.sqrt(point.distance / NOMINAL_DISTANCE), angle / NOMINAL_ANGLE),
    )
    return jnp.where(point.converged & (cosine > 0), ratio, jnp.inf)


class Trace(NamedTuple):
    """The accepted points of a curve so far, the first `num_points` rows, and the step to go on with.

    `contraction` is that of the last corrector.
    """

    zetas: Float[Array, "M n"]
    tangents: Float[Array, "M n"]
    residuals: Float[Array, " M"]
    monodromies: Float[Array, "M N N"] | Float[Array, "M 0 0"]
    frames: Frame
    num_points: Int[Array, ""]
    step: Float[Array, ""]
    status: Int[Array, ""]
    contraction: Float[Array, ""]


@compiled
def trace_curve(
    system: Any,
    metric: Metric,
    limits: Limits,
    frame: Frame,
    zeta: Any,
    tangent: Any,
    step: Any,
    max_points: Any,
    num_rows: int,
) -> tuple[Array, Array]:
    """Follow the curve from `zeta` in the direction of `tangent` for up to `max_points` of `num_rows` points.

    A point outside the limits is stored and ends the trace. Steps are predicted along the tangent, corrected in the
    plane orthogonal to it, and repeated at half the length when `step_ratio` exceeds two.

    A step of length 0 is a correction of `zeta` in the plane through it: the first row, if it is a point of the curve.
    So single points between those of a trace need no other program, which would take as long to compile.

    Two arrays come back, as each costs a call as much as a point of few units: the fields of a `Trace` with a row for
    each point, side by side, and its four numbers. `read_trace` takes them apart.
    """
    zeta, tangent = jnp.asarray(zeta), jnp.asarray(tangent)
    frame = jax.tree.map(jnp.asarray, frame)
    scales = jnp.asarray(metric.scales)
    num_parameters = np.shape(limits.lower)[0]
    num_states = np.shape(limits.box_lower)[0]

    def status_at(zeta: Array) -> Array:
        z = zeta * scales
        q, x = z[-num_parameters:], z[:num_states]
        outside = jnp.any((q < limits.lower) | (q > limits.upper))
        left_box = jnp.any((x < limits.box_lower) | (x > limits.box_upper))
        return jnp.where(outside, LEFT_INTERVAL, jnp.where(left_box, LEFT_BOX, RUNNING))

    def body(carry: Trace) -> Trace:
        i = carry.num_points
        at = jnp.maximum(i - 1, 0)
        current = jnp.where(i > 0, carry.zetas[at], zeta)
        direction = jnp.where(i > 0, carry.tangents[at], tangent)
        bordering = jax.tree.map(lambda rows, first: jnp.where(i > 0, rows[at], first), carry.frames, frame)
        guess = current + carry.step * direction
        point = correct(system, metric, bordering, guess, direction, direction @ guess)
        ratio = step_ratio(point, direction)
        # A smooth curve is straight over so short a step; what still turns is a corner, where the map has a kink.
        at_corner = jnp.isfinite(ratio) & (carry.step <= CORNER_STEP)
        accept = (ratio <= 2.0) | at_corner
        new_step = carry.step / jnp.clip(ratio, 0.5, 2.0)
        too_small = ~accept & (new_step < limits.min_step)
        # A rejected point is written too, and overwritten by the next: the row counts only once i has moved on.
        return Trace(
            carry.zetas.at[i].set(point.zeta),
            carry.tangents.at[i].set(point.tangent),
            carry.residuals.at[i].set(point.residual),
            carry.monodromies.at[i].set(point.monodromy),
            jax.tree.map(lambda rows, new: rows.at[i].set(new), carry.frames, point.frame),
            jnp.where(accept, i + 1, i),
            jnp.clip(new_step, limits.min_step, limits.max_step),
            jnp.where(accept, status_at(point.zeta), jnp.where(too_small, STEP_TOO_SMALL, RUNNING)),
            point.contraction,
        )

    start = Trace(
        jnp.zeros((num_rows, zeta.size)),
        jnp.zeros((num_rows, zeta.size)),
        jnp.zeros(num_rows),
        jnp.zeros((num_rows, *_monodromy_shape(system))),
        jax.tree.map(lambda a: jnp.zeros((num_rows, *a.shape), a.dtype), frame),
        jnp.asarray(0),
        jnp.asarray(step),
        jnp.asarray(RUNNING),
        jnp.zeros(()),
    )
    end = jax.lax.while_loop(lambda c: (c.num_points < max_points) & (c.status == RUNNING), body, start)
    columns = [end.zetas, end.tangents, end.residuals, end.monodromies, *end.frames]
    rows = jnp.concatenate([column.reshape(num_rows, -1) for column in columns], axis=1)
    return rows, jnp.stack([end.num_points, end.step, end.status, end.contraction])


def read_trace(system: Any, num_unknowns: int, frame: Frame, rows: np.ndarray, ends: np.ndarray) -> Trace:
    """What `trace_curve` returns, on the host: the rows of the accepted points only."""
    num_points = int(ends[0])
    shapes = [(num_unknowns,), (num_unknowns,), (), _monodromy_shape(system), *(np.shape(column) for column in frame)]
    stops = np.cumsum([math.prod(shape) for shape in shapes])[:-1]
    # Copies, so that what is kept of a point does not keep its Jacobian.
    parts = [part.copy() for part in np.split(rows[:num_points], stops, axis=1)]
    zetas, tangents, residuals, monodromies, *frames = (
        part.reshape(num_points, *shape) for part, shape in zip(parts, shapes)
    )
    count, step, status, contraction = ends.tolist()
    found: Any = (zetas, tangents, residuals, monodromies, tuple(frames), int(count), step, int(status), contraction)
    return Trace(*found)
