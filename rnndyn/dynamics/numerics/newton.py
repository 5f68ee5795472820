"""Newton's method for the fixed points of a map, globalised by a trust region."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.sparse.linalg import gmres
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from rnndyn._validation import check_at_least, check_map, check_state
from rnndyn.results import Result


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
    check_map(f, x0)
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
    return method.result(state)


class NewtonResult(Result):
    """Where Newton's method ended.

    - `point`: the last iterate, `(N,)`.
    - `residual`: $|F(x) - x|_\\infty$ there.
    - `converged`: whether the residual reached its rounding floor.
    - `stalled`: whether it ended at a local minimum of the residual instead (a slow point).
    - `num_steps`: how many steps were taken.
    """

    point: Float[Array, " N"]
    residual: Float[Array, ""]
    converged: Bool[Array, ""]
    stalled: Bool[Array, ""]
    num_steps: Int[Array, ""]


class NewtonProblem(NamedTuple):
    """One starting point with the length that its residual is measured against and the box it is kept in."""

    x0: Float[Array, " N"]
    scale: Float[Array, ""]
    lower: Float[Array, " N"]
    upper: Float[Array, " N"]


class NewtonState(NamedTuple):
    """One iterate: the point, its residual vector, the trust radius, and how it stands."""

    problem: NewtonProblem
    x: Float[Array, " N"]
    g: Float[Array, " N"]
    radius: Float[Array, ""]
    num_steps: Int[Array, ""]
    num_slow: Int[Array, ""]
    converged: Bool[Array, ""]
    stalled: Bool[Array, ""]


MAX_SLOW_STEPS = 10
"""So many steps in a row that lower |G| by less than a thousandth end the search: near a root it falls far faster."""


class NewtonMethod:
    """The iteration as `init`, `step`, `done`, `result`: for a loop over one state, or over lanes of many."""

    def __init__(self, f: Callable[[Array], Array], *, linear_solver: str, max_steps: int):
        if linear_solver not in ("dense", "gmres"):
            raise ValueError(f"linear_solver: expected 'dense' or 'gmres', got {linear_solver!r}.")
        self.f = f
        self.linear_solver = linear_solver
        self.max_steps = max_steps

    def init(self, problem: NewtonProblem) -> NewtonState:
        x = jnp.clip(problem.x0, problem.lower, problem.upper)
        g = self.f(x) - x
        bad = ~jnp.all(jnp.isfinite(g))
        # The first step may cross the whole region, not leave for infinity.
        radius = 2 * problem.scale * jnp.sqrt(jnp.asarray(x.size, x.dtype))
        return NewtonState(
            problem, x, g, radius, jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32), jnp.zeros((), bool), bad
        )

    def step(self, state: NewtonState) -> NewtonState:
        problem, x, g = state.problem, state.x, state.g
        newton_step, gradient, product, row_sum = self._linear_model(x, g)
        floor = rounding_floor(x, problem.scale, row_sum)
        converged = jnp.max(jnp.abs(g)) <= floor

        along = product(gradient)
        cauchy = -gradient * _ratio(gradient @ gradient, along @ along)
        newton_step = jnp.where(jnp.all(jnp.isfinite(newton_step)), newton_step, cauchy)
        step = _dogleg(cauchy, newton_step, state.radius)
        x_new = jnp.clip(x + step, problem.lower, problem.upper)
        step = x_new - x
        g_new = self.f(x_new) - x_new

        length, size = jnp.linalg.norm(step), jnp.linalg.norm(g)
        predicted = size - jnp.linalg.norm(g + product(step))
        actual = jnp.where(jnp.all(jnp.isfinite(g_new)), size - jnp.linalg.norm(g_new), -jnp.inf)
        quality = actual / jnp.where(predicted > 0, predicted, jnp.inf)
        # 1e-4, 1/4 and 3/4 are the textbook constants; the method is insensitive to them.
        accept = (actual > 1e-4 * predicted) & (predicted > 0)
        radius = jnp.where(quality < 0.25, 0.25 * length, state.radius)
        radius = jnp.where((quality > 0.75) & (length > 0.99 * state.radius), 2 * state.radius, radius)
        # A step below the spacing of floats cannot be told from none: the point is a minimum of |G|.
        eps = jnp.finfo(x.dtype).eps
        too_short = length <= 4 * eps * jnp.maximum(jnp.max(jnp.abs(x)), problem.scale)
        flat = predicted <= 1e-9 * size
        # Once at the floor, a last step is taken where it does no harm: it often gains the final digit.
        accept = jnp.where(converged, actual >= 0, accept)
        num_slow = jnp.where(actual < 1e-3 * size, state.num_slow + 1, 0)
        return NewtonState(
            problem,
            jnp.where(accept, x_new, x),
            jnp.where(accept, g_new, g),
            radius,
            state.num_steps + ~converged,
            num_slow,
            converged,
            state.stalled | (~converged & (too_short | flat | (num_slow >= MAX_SLOW_STEPS))),
        )

    def done(self, state: NewtonState) -> Bool[Array, ""]:
        return state.converged | state.stalled | (state.num_steps >= self.max_steps)

    def result(self, state: NewtonState) -> NewtonResult:
        residual = jnp.max(jnp.abs(state.g))
        return NewtonResult(state.x, residual, state.converged, state.stalled & ~state.converged, state.num_steps)

    def _linear_model(self, x: Array, g: Array) -> tuple[Array, Array, Callable[[Array], Array], Array]:
        """The Newton step, DG^T g, the product v -> DG v, and the norm of DF that sets the rounding floor."""
        if self.linear_solver == "dense":
            jacobian = jax.jacfwd(self.f)(x)
            row_sum = jnp.max(jnp.sum(jnp.abs(jacobian), axis=1))
            identity = jnp.eye(x.size, dtype=x.dtype)
            dg = jacobian - identity
            # On a continuum of solutions DG is singular and G lies in its range. Shifted by far less than the
            # accuracy of the step, the solve gives the shortest solution there, and NaN nowhere.
            shift = 50 * jnp.finfo(x.dtype).eps * (1 + row_sum)
            newton_step = jnp.linalg.solve(dg + shift * identity, -g)
            return newton_step, g @ dg, lambda v: dg @ v, row_sum
        f_x, push = jax.linearize(self.f, x)
        pull = jax.linear_transpose(push, x)
        size = jnp.linalg.norm(g)

        def product(v: Array) -> Array:
            return push(v) - v

        # 30 vectors of memory; the tolerance shrinks with |G| so that convergence stays superlinear.
        restart = min(30, x.size)
        tolerance = jnp.clip(size / (1 + jnp.linalg.norm(f_x)), 1e-10, 1e-2)
        newton_step, _ = gmres(product, -g, tol=tolerance, restart=restart, maxiter=10)  # pyright: ignore[reportArgumentType]
        gradient = pull(g)[0] - g
        row_sum = _ratio(jnp.linalg.norm(pull(g)[0]), size) * jnp.sqrt(x.size)
        return newton_step, gradient, product, row_sum


def rounding_floor(x: Array, scale: Any, norm: Any) -> Float[Array, ""]:
    """The residual $|F(x) - x|_\\infty$ that rounding alone can leave: what F does to an error of one unit in x.

    32 units in the last place leave room for the sums inside F, whose own rounding the norm of DF does not see.
    """
    return 32 * jnp.finfo(x.dtype).eps * (1 + norm) * jnp.maximum(jnp.max(jnp.abs(x)), scale)


def _ratio(a: Array, b: Array) -> Array:
    return jnp.where(b > 0, a / jnp.where(b > 0, b, 1), 0)


def _dogleg(cauchy: Array, newton_step: Array, radius: Array) -> Array:
    """The point at distance `radius` on the path 0 -> cauchy -> newton_step, or its end when that is nearer."""
    cauchy_length, newton_length = jnp.linalg.norm(cauchy), jnp.linalg.norm(newton_step)
    leg = newton_step - cauchy
    a, b, c = leg @ leg, cauchy @ leg, cauchy_length**2 - radius**2
    root = _ratio(-b + jnp.sqrt(jnp.maximum(b**2 - a * c, 0)), a)
    bent = cauchy + jnp.clip(root, 0, 1) * leg
    short = cauchy * _ratio(radius, cauchy_length)
    return jnp.where(newton_length <= radius, newton_step, jnp.where(cauchy_length >= radius, short, bent))
