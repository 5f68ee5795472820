"""Newton's method for the fixed points of a map, globalised by a trust region."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from rnndyn._programs import as_program
from rnndyn._validation import check_at_least, check_state
from rnndyn.dynamics.numerics.evaluation import evaluate
from rnndyn.dynamics.numerics.newton_method import NewtonMethod, NewtonProblem, singular_shift
from rnndyn.dynamics.numerics.periodic_orbits import CyclicSystem, closing_defects
from rnndyn.dynamics.numerics.torus import difference, wrapped
from rnndyn.dynamics.numerics.verdicts import NewtonVerdict
from rnndyn.results import Judged


def newton(
    f: Callable[[Array], Array],
    x0: ArrayLike,
    *,
    scale: ArrayLike | None = None,
    bounds: tuple[ArrayLike, ArrayLike] | None = None,
    max_steps: int = 100,
    linear_solver: str = "dense",
) -> "NewtonResult":
    r"""Solve $F(x) = x$ from one starting point.

    With $G(x) = F(x) - x$ each step goes along Powell's dogleg: the Newton step $-DG^{-1} G$ where it fits into the
    trust region, the steepest descent of $\tfrac12 |G|^2$ where it does not. Far from a solution $|G|$ never grows;
    near a regular one the convergence is quadratic. A pure function: `jit`, `vmap` and forward-mode differentiation
    work, the dtype is that of `x0`.

    **Arguments:**

    - `f`: the map, `(N,) -> (N,)`.
    - `x0`: the starting point, shape `(N,)`.
    - `scale`: a length typical of the states, against which the residual is measured. By default the larger of
        $|x_0|_\infty$ and $|F(x_0)|_\infty$. Multiplying every state by a constant then changes nothing.
    - `bounds`: a box `(lower, upper)` that the iterates are kept in, for instance the region that a cell can reach.
    - `max_steps`: the number of steps after which to give up.
    - `linear_solver`: `"dense"` forms the Jacobian ($O(N^3)$ work and $N^2$ memory per step); `"gmres"` needs only
        products with it, for large `N`.

    **Returns:** a `NewtonResult`. Where no solution was reached, `converged` is false and `point` is the last iterate:
    when `stalled` is true it is a local minimum of $|G|$ (a slow point), otherwise the steps ran out.

    **Raises:** `ValueError` for a state that is not a floating-point vector, and for a map that changes its shape or
    dtype. NaN does not raise: a step into it is refused, and a start in it returns `converged` false.

    The residual counts as zero at its rounding floor, $32\,\epsilon\,(1 + \|DF\|_\infty)\,\max(s, |x|_\infty)$ with the
    scale $s$: what evaluating $F$ once can resolve. A solution where $I - DF$ is singular is approached linearly and
    known to about $\sqrt\epsilon$ only.

    Reference: M. J. D. Powell (1970), *A hybrid method for nonlinear equations*; J. Nocedal & S. Wright (2006),
    *Numerical Optimization*, chapters 4 and 11.
    """
    check_state("x0", x0)
    x0 = jnp.asarray(x0)
    f = as_program(f, x0, double=False)
    check_at_least("max_steps", max_steps, 1)
    method = NewtonMethod(f, linear_solver=linear_solver, max_steps=max_steps)
    if scale is None:
        scale = jnp.maximum(jnp.max(jnp.abs(x0)), jnp.max(jnp.abs(f(x0))))
    lower, upper = (-jnp.inf, jnp.inf) if bounds is None else bounds
    start = NewtonProblem(
        x0,
        jnp.asarray(scale, x0.dtype),
        jnp.broadcast_to(jnp.asarray(lower, x0.dtype), x0.shape),
        jnp.broadcast_to(jnp.asarray(upper, x0.dtype), x0.shape),
    )
    state = jax.lax.while_loop(lambda s: ~method.done(s), method.step, method.init(start))
    residual = jnp.max(jnp.abs(state.g))
    result = NewtonVerdict.where(state.stalled, NewtonVerdict.stalled, NewtonVerdict.out_of_steps)
    result = NewtonVerdict.where(jnp.isfinite(residual), result, NewtonVerdict.not_finite)
    result = NewtonVerdict.where(state.converged, NewtonVerdict.converged, result)
    return NewtonResult(state.x, residual, state.num_steps, result)


class NewtonResult(Judged):
    """Where Newton's method ended.

    - `point`: the last iterate, `(N,)`.
    - `residual`: $|F(x) - x|_\\infty$ there.
    - `num_steps`: how many steps were taken.
    - `result`: how it ended, a `NewtonVerdict`.
    """

    point: Float[Array, " N"]
    residual: Float[Array, ""]
    num_steps: Int[Array, ""]
    result: NewtonVerdict

    @property
    def converged(self) -> Bool[Array | np.ndarray, "..."]:
        """Whether the residual reached its rounding floor."""
        return self.result == NewtonVerdict.converged

    @property
    def stalled(self) -> Bool[Array | np.ndarray, "..."]:
        """Whether it ended at a local minimum of the residual instead (a slow point)."""
        return self.result == NewtonVerdict.stalled


MAX_POLISH = 40
"""A point that is close needs one or two steps; next to a degenerate one each step only halves the distance."""


class Polished(NamedTuple):
    """Points as close to roots as rounding lets Newton's method come, with one plain evaluation of the map there."""

    points: Float[np.ndarray, "K p N"]
    residuals: Float[np.ndarray, " K"]
    jacobians: Float[np.ndarray, "K p N N"]


def polish(
    f: Callable[[Array], Array],
    points: Float[np.ndarray, "K N"] | Float[np.ndarray, "K p N"],
    *,
    period: Float[np.ndarray, " N"] | None = None,
    max_steps: int = MAX_POLISH,
) -> Polished:
    r"""Full Newton steps from points close to fixed points or cycles, for as long as each lowers the residual.

    $$ G_i(x) = F(x_i) - x_{i+1}, \quad i \text{ modulo } p . $$

    **Arguments:**

    - `f`: the map, `(N,) -> (N,)`.
    - `points`: the points `(K, N)`, or sequences of p points `(K, p, N)`.
    - `period`: of the angles among the coordinates (see `on_torus`).
    - `max_steps`: of Newton's method.

    **Returns:** a `Polished` of NumPy arrays, in which points `(K, N)` are sequences of length 1. A point whose
    residual no step lowers stays where it is; what is NaN has an infinite residual.

    Works on the host but for the map and its derivative, so that one compilation (of `evaluate`) serves any number of
    points and every length of cycle.
    """
    return polish_rows(lambda x, rows: evaluate(f, x), points, period=period, max_steps=max_steps)


def polish_rows(
    evaluate_rows: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]],
    points: Float[np.ndarray, "K N"] | Float[np.ndarray, "K p N"],
    *,
    period: Float[np.ndarray, " N"] | None = None,
    max_steps: int = MAX_POLISH,
) -> Polished:
    """`polish` where each row may belong to another map: `evaluate_rows(x, rows)` is F and DF at states of these rows.

    Of sequences of p points the states are those of the first row, then those of the next.
    """
    points = np.array(points if points.ndim == 3 else points[:, None], np.float64)
    num, size = len(points), points.shape[2]

    def measure(places: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, ...]:
        images, jacobians = evaluate_rows(places.reshape(-1, size), rows)
        images = images.reshape(places.shape)
        defects = difference(images, np.roll(places, -1, axis=1), period)
        return closing_defects(places, images, period), defects, jacobians.reshape(*places.shape, size)

    nothing = (np.zeros(0), points, np.zeros((*points.shape, size)))
    residuals, defects, jacobians = measure(points, np.arange(num)) if num else nothing
    open_rows = np.flatnonzero(np.isfinite(residuals) & (residuals > 0))
    for _ in range(max_steps):
        if open_rows.size == 0:
            break
        moved = points[open_rows] + _newton_steps(jacobians[open_rows], defects[open_rows])
        new_residuals, new_defects, new_jacobians = measure(moved, open_rows)
        better = new_residuals < residuals[open_rows]
        rows = open_rows[better]
        points[rows], residuals[rows] = moved[better], new_residuals[better]
        defects[rows], jacobians[rows] = new_defects[better], new_jacobians[better]
        open_rows = rows[residuals[rows] > 0]
    return Polished(wrapped(points, period), residuals, jacobians)


def _newton_steps(jacobians: Float[np.ndarray, "K p N N"], defects: Float[np.ndarray, "K p N"]) -> np.ndarray:
    """The solutions of s_{i+1} - J_i s_i = defect_i."""
    if jacobians.shape[1] > 1:
        return np.stack([CyclicSystem(j).solve(d) for j, d in zip(jacobians, defects)])
    matrices = jacobians[:, 0]
    row_sums = np.max(np.sum(np.abs(matrices), axis=2), axis=1)
    identity = np.eye(matrices.shape[1])
    matrices = (1 - singular_shift(row_sums))[:, None, None] * identity - matrices
    return solve_each(matrices, defects[:, 0])[:, None]


def solve_each(matrices: Float[np.ndarray, "K N N"], vectors: Float[np.ndarray, "K N"]) -> Float[np.ndarray, "K N"]:
    """The solution of each of K systems; NaN where the matrix is singular to the last bit."""
    try:
        return np.linalg.solve(matrices, vectors[:, :, None])[:, :, 0]
    except np.linalg.LinAlgError:
        if len(matrices) == 1:
            return np.full_like(vectors, np.nan)
        return np.concatenate([solve_each(matrices[i : i + 1], vectors[i : i + 1]) for i in range(len(matrices))])
