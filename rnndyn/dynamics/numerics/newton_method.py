"""The iteration behind `newton`: trust-region Newton steps with chord corrections."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import lu_factor, lu_solve
from jax.scipy.sparse.linalg import gmres
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from rnndyn._programs import value_and_jacobian
from rnndyn.dynamics.numerics.evidence import rounding_floor
from rnndyn.dynamics.numerics.torus import difference


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


class Patience(NamedTuple):
    """After how many steps in a row, each of which lowers |G| by less than a fraction, a search counts as stalled."""

    fraction: float
    num_steps: int


PATIENT = Patience(1e-3, 10)
"""For a single start, which has nothing else to do: near a root |G| falls far faster."""


class LinearModel(NamedTuple):
    """A map near a point, from its derivative there."""

    step: Float[Array, " N"]
    """The Newton step."""
    gradient: Float[Array, " N"]
    """DG^T G."""
    product: Callable[[Array], Array]
    """v -> DG v."""
    row_sum: Float[Array, ""]
    """The norm of DF that sets the rounding floor."""
    solve: Callable[[Array], Array] | None
    """b -> DG^{-1} b with the factors at hand, where there are any."""


NUM_CHORDS = 3
"""Corrections with the factors of the last step: with three the order of convergence goes from 2 to 5 per
factorisation. On a CPU each costs half a factorisation at 128 units (16 lanes); one to three took about the same time
there, a search without them longer."""


MAX_TRIALS = 8
"""Ever shorter steps by one model, each at most a quarter of the one before."""


class _Trial(NamedTuple):
    """A step that was tried: the radius for the next one, where it led, and whether it is taken or none will be."""

    radius: Float[Array, ""]
    x: Float[Array, " N"]
    g: Float[Array, " N"]
    length: Float[Array, ""]
    accept: Bool[Array, ""]
    hopeless: Bool[Array, ""]
    number: Int[Array, ""]


class NewtonMethod:
    """The iteration as `init`, `step`, `done`, `result`: for a loop over one state, or over lanes of many.

    `period`: of the angles among the coordinates of `f`, if there are any (see `on_torus`).
    """

    def __init__(
        self,
        f: Callable[[Array], Array],
        *,
        linear_solver: str,
        max_steps: int,
        period: ArrayLike | None = None,
        patience: Patience = PATIENT,
    ):
        if linear_solver not in ("dense", "gmres"):
            raise ValueError(f"linear_solver: expected 'dense' or 'gmres', got {linear_solver!r}.")
        self.f = f
        self.linear_solver = linear_solver
        self.max_steps = max_steps
        self.period = period
        self.patience = patience

    def residual(self, x: Array) -> Array:
        """G(x) = F(x) - x, for angles the shortest way round."""
        return difference(self.f(x), x, self.period)

    def init(self, problem: NewtonProblem) -> NewtonState:
        x = jnp.clip(problem.x0, problem.lower, problem.upper)
        return self.start(problem, x, self.residual(x))

    def start(self, problem: NewtonProblem, x: Any, g: Any) -> NewtonState:
        """The first iterate, where the residual is known."""
        bad = ~jnp.all(jnp.isfinite(g))
        # The first step may cross the whole region, not leave for infinity.
        size = jnp.maximum(problem.scale, jnp.max(jnp.abs(x)))
        radius = 2 * size * jnp.sqrt(jnp.asarray(x.size, x.dtype))
        return NewtonState(
            problem, x, g, radius, jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32), jnp.zeros((), bool), bad
        )

    def step(self, state: NewtonState) -> NewtonState:
        problem, x, g = state.problem, state.x, state.g
        model = self._linear_model(x, g)
        along = model.product(model.gradient)
        cauchy = -model.gradient * _ratio(model.gradient @ model.gradient, along @ along)
        newton_step = jnp.where(jnp.all(jnp.isfinite(model.step)), model.step, cauchy)
        size = jnp.linalg.norm(g)
        # At the floor a step is taken where it does no harm: it often gains the final digit.
        at_floor = jnp.max(jnp.abs(g)) <= self._floor(x, problem.scale, model.row_sum)
        shortest = 4 * jnp.finfo(x.dtype).eps * jnp.maximum(jnp.max(jnp.abs(x)), problem.scale)

        def attempt(trial: _Trial) -> _Trial:
            x_new = jnp.clip(x + _dogleg(cauchy, newton_step, trial.radius), problem.lower, problem.upper)
            step = x_new - x
            g_new = self.residual(x_new)
            length = jnp.linalg.norm(step)
            predicted = size - jnp.linalg.norm(g + model.product(step))
            actual = jnp.where(jnp.all(jnp.isfinite(g_new)), size - jnp.linalg.norm(g_new), -jnp.inf)
            quality = actual / jnp.where(predicted > 0, predicted, jnp.inf)
            # 1e-4, 1/4 and 3/4 are the textbook constants; the method is insensitive to them.
            accept = (actual > 1e-4 * predicted) & (predicted > 0)
            radius = jnp.where(quality < 0.25, 0.25 * length, trial.radius)
            radius = jnp.where((quality > 0.75) & (length > 0.99 * trial.radius), 2 * trial.radius, radius)
            accept = jnp.where(at_floor, actual >= 0, accept)
            # A step below the spacing of floats cannot be told from none: the point is a minimum of |G|.
            hopeless = (length <= shortest) | (predicted <= 1e-9 * size)
            return _Trial(radius, x_new, g_new, length, accept, hopeless, trial.number + 1)

        def goes_on(trial: _Trial) -> Array:
            return ~(trial.accept | at_floor | trial.hopeless) & (trial.number < MAX_TRIALS)

        # What a shorter step brings is one evaluation of F; another model would be the same.
        none = jnp.zeros((), bool)
        start = _Trial(state.radius, x, g, jnp.zeros_like(size), none, none, jnp.zeros((), jnp.int32))
        trial = jax.lax.while_loop(goes_on, attempt, attempt(start))
        accept = trial.accept
        x_end, g_end = jnp.where(accept, trial.x, x), jnp.where(accept, trial.g, g)
        converged = at_floor
        if model.solve is not None:
            x_end, g_end = self._chords(model.solve, problem, x_end, g_end, accept, trial.length)
            # The corrections stand for the last step that a method without them takes from the floor.
            converged |= accept & (jnp.max(jnp.abs(g_end)) <= self._floor(x_end, problem.scale, model.row_sum))
        num_slow = jnp.where(size - jnp.linalg.norm(g_end) < self.patience.fraction * size, state.num_slow + 1, 0)
        return NewtonState(
            problem,
            x_end,
            g_end,
            trial.radius,
            jnp.where(at_floor, state.num_steps, state.num_steps + 1),
            num_slow,
            converged,
            state.stalled | (~converged & (trial.hopeless | (num_slow >= self.patience.num_steps))),
        )

    def _chords(
        self, solve: Callable[[Array], Array], problem: NewtonProblem, x: Array, g: Array, going: Array, longest: Array
    ) -> tuple[Array, Array]:
        """Corrections with the factors at hand, for as long as each halves the residual and none is a leap."""

        def correct(carry: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
            x, g, going, number = carry
            moved = jnp.clip(x - solve(g), problem.lower, problem.upper)
            left = self.residual(moved)
            better = going & (jnp.linalg.norm(left) < 0.5 * jnp.linalg.norm(g))
            better = better & (jnp.linalg.norm(moved - x) <= longest)
            return jnp.where(better, moved, x), jnp.where(better, left, g), better, number + 1

        goes_on = lambda carry: carry[2] & (carry[3] < NUM_CHORDS)
        x, g, _, _ = jax.lax.while_loop(goes_on, correct, (x, g, going, jnp.zeros((), jnp.int32)))
        return x, g

    @staticmethod
    def _floor(x: Array, scale: Array, norm: Array) -> Array:
        return rounding_floor(jnp.maximum(jnp.max(jnp.abs(x)), scale), norm, x.dtype)

    def done(self, state: NewtonState) -> Bool[Array, ""]:
        return state.converged | state.stalled | (state.num_steps >= self.max_steps)

    def _linear_model(self, x: Array, g: Array) -> LinearModel:
        if self.linear_solver == "dense":
            _, jacobian = value_and_jacobian(self.f, x)
            row_sum = jnp.max(jnp.sum(jnp.abs(jacobian), axis=1))
            identity = jnp.eye(x.size, dtype=x.dtype)
            dg = jacobian - identity
            # On a continuum of solutions DG is singular and G lies in its range. Shifted by far less than the
            # accuracy of the step, the solve gives the shortest solution there, and NaN nowhere.
            factors = lu_factor(dg + singular_shift(row_sum, x.dtype) * identity)
            solve = lambda b: lu_solve(factors, b)
            return LinearModel(-solve(g), g @ dg, lambda v: dg @ v, row_sum, solve)
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
        return LinearModel(newton_step, gradient, product, row_sum, None)


def singular_shift(row_sum: Any, dtype: Any = np.float64) -> Any:
    """What is added to the diagonal of DG before it is factorised: far below the accuracy of a step."""
    return 50 * float(np.finfo(dtype).eps) * (1 + row_sum)


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
