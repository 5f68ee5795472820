"""Newton's method on a whole trajectory at once."""

import dataclasses
import warnings
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rnndyn._programs import compiled
from rnndyn._validation import check_at_least
from rnndyn.dynamics.numerics.parallel_scan import affine_recursion, affine_recursion_in_steps, damped_recursion
from rnndyn.dynamics.numerics.statistics import batch_means, block_sums

_PILOT_STEPS = 256
"""Steps over which the largest exponent is measured; the first quarter of them is left out."""

_DIAGONAL_ENTRIES = 2**22
"""Entries of Jacobians held at once where only their diagonals are kept."""

_FIRST_DAMPING, _LEAST_DAMPING, _MOST_DAMPING = 1.0, 1e-6, 1e8


METHODS = ("newton", "diagonal", "damped")
IF_CHAOTIC = ("sequential", "raise", "continue")


@dataclasses.dataclass(frozen=True)
class NewtonInTime:
    """How the sequence is solved."""

    method: str
    tol: float
    max_steps: int
    if_chaotic: str


class SolvedInTime(NamedTuple):
    """States (T, N) and how they came about."""

    states: Float[Array, "T N"]
    num_iterations: Int[Array, ""]
    residual: Float[Array, ""]
    """Of the states that Newton's method ended with, relative to the largest state or 1."""
    exponent: Float[Array, ""]
    stderr: Float[Array, ""]
    is_chaotic: Bool[Array, ""]
    is_parallel: Bool[Array, ""]
    """Whether the states are those of Newton's method; else they were iterated one after the other."""


def newton_settings(
    dtype: Any, method: str = "newton", tol: float | None = None, max_steps: int = 100, if_chaotic: str = "sequential"
) -> NewtonInTime:
    """The settings, checked; `tol` as a multiple of what a step is rounded to."""
    if method not in METHODS:
        raise ValueError(f"method: expected one of {', '.join(map(repr, METHODS))}, got {method!r}.")
    if if_chaotic not in IF_CHAOTIC:
        raise ValueError(f"if_chaotic: expected one of {', '.join(map(repr, IF_CHAOTIC))}, got {if_chaotic!r}.")
    if tol is not None and not tol > 0:
        raise ValueError(f"tol: expected a positive number, got {tol}.")
    check_at_least("max_steps", max_steps, 1)
    # Sums of a thousand products of numbers of order one, and the addition of the increment, leave some tens of units.
    floor = 256 * float(jnp.finfo(dtype).eps)
    return NewtonInTime(method, floor if tol is None else float(tol), max_steps, if_chaotic)


def solve_checked(f: Any, x0: Array, rows: Any, guess: Array, settings: NewtonInTime) -> "SolvedInTime":
    """`solve_in_time`, compiled; what came out otherwise is said where the numbers can be looked at."""
    found = _solve(f, x0, rows, jax.lax.stop_gradient(guess), settings)
    chaotic = "the largest exponent over the first steps is above 0, so Newton's method would need about T iterations"
    if settings.if_chaotic == "raise":
        message = f"parallel: {chaotic}. Iterate instead, or pass if_chaotic='continue'."
        if not isinstance(found.is_chaotic, jax.core.Tracer):
            if found.is_chaotic:
                raise ValueError(f"{message} It is {float(found.exponent):.3g} +- {float(found.stderr):.2g} a step.")
        else:
            found = eqx.error_if(found, found.is_chaotic, message)
    if not isinstance(found.is_parallel, jax.core.Tracer) and not found.is_parallel:
        why = chaotic if found.num_iterations == 0 else f"no convergence in {int(found.num_iterations)} iterations"
        warnings.warn(
            f"parallel: iterated one step after the other; {why} (exponent {float(found.exponent):.3g} +- "
            f"{float(found.stderr):.2g} a step, residual {float(found.residual):.2g}).",
            stacklevel=4,
        )
    return found


@compiled
def _solve(f: Any, x0: Array, rows: Any, guess: Array, settings: NewtonInTime) -> "SolvedInTime":
    return solve_in_time(f, x0, rows, guess, settings=settings)


@eqx.filter_custom_jvp
def solve_in_time(f: Any, x0: Array, rows: Any, guess: Array, *, settings: NewtonInTime) -> SolvedInTime:
    """All states of $x_t = F(x_{t-1}, u_t)$; `rows` is `None` without inputs, `guess` (T, N) is where to start."""
    exponent, stderr = pilot_exponent(f, x0, rows, len(guess))
    is_chaotic = exponent > 2 * stderr
    tries = jnp.ones((), bool) if settings.if_chaotic == "continue" else ~is_chaotic
    states, num_iterations, residual = _newton(f, x0, rows, guess, tries, settings)
    is_parallel = residual <= settings.tol
    states = jax.lax.cond(is_parallel, lambda: states, lambda: in_steps(f, x0, rows, len(guess)))
    return SolvedInTime(states, num_iterations, residual, exponent, stderr, is_chaotic, is_parallel)


@solve_in_time.def_jvp
def _(primals: Any, tangents: Any, *, settings: NewtonInTime) -> tuple[Any, Any]:
    # The implicit function theorem: dx_t = DF dx_{t-1} + the direct share of what is varied. The guess has none.
    f, x0, rows, guess = primals
    tf, tx0, trows, _ = tangents
    found = solve_in_time(f, x0, rows, guess, settings=settings)
    before = _before(x0, found.states)
    _, direct = eqx.filter_jvp(lambda f, rows: _images(f, before, rows), (f, rows), (tf, trows))
    if direct is None:
        direct = jnp.zeros_like(found.states)
    jacobians = _jacobians(f, before, rows)
    if tx0 is not None:
        direct = direct.at[0].add(jacobians[0] @ tx0)
    # Where the states were iterated, products of many Jacobians may overflow: there the recursion is stepped too.
    pushed = jax.lax.cond(found.is_parallel, affine_recursion, affine_recursion_in_steps, jacobians, direct)
    return found, SolvedInTime(pushed, None, None, None, None, None, None)  # pyright: ignore[reportArgumentType]


def in_steps(f: Any, x0: Array, rows: Any, num_steps: int) -> Float[Array, "T N"]:
    """The states, iterated one after the other."""

    def step(x: Array, u: Any) -> tuple[Array, Array]:
        x = f(x) if rows is None else f(x, u)
        return x, x

    return jax.lax.scan(step, x0, rows, length=num_steps)[1]


def pilot_exponent(f: Any, x0: Array, rows: Any, num_steps: int) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The largest Lyapunov exponent over the first steps, with its standard error (NaN where they are too few)."""
    length = min(num_steps, _PILOT_STEPS)
    direction = jax.random.normal(jax.random.key(0), x0.shape, x0.dtype)
    direction = direction / jnp.linalg.norm(direction)

    def step(carry: tuple[Array, Array], u: Any) -> tuple[tuple[Array, Array], Array]:
        x, v = carry
        x, pushed = jax.jvp(lambda y: f(y) if rows is None else f(y, u), (x,), (v,))
        size = jnp.linalg.norm(pushed)
        kept = jnp.where(size > 0, pushed / jnp.where(size > 0, size, 1), v)
        return (x, kept), jnp.log(jnp.maximum(size, jnp.finfo(size.dtype).tiny))

    start = jax.tree.map(jax.lax.stop_gradient, (x0, direction))
    pilot = None if rows is None else jax.tree.map(lambda leaf: leaf[:length], rows)
    logs = jax.lax.scan(step, start, pilot, length=length)[1][length // 4 :, None]
    blocks, size = block_sums(logs)
    return logs.mean(), batch_means(blocks / size)[0][0]


def _newton(f: Any, x0: Array, rows: Any, guess: Array, tries: Array, settings: NewtonInTime) -> Any:
    """States, number of iterations and residual. Whatever the Jacobians, t iterations make the first t states exact."""
    damped = settings.method == "damped"

    def measure(states: Array) -> tuple[Array, Array]:
        """What each state lacks, and the largest of it."""
        lacking = _images(f, _before(x0, states), rows) - states
        return lacking, jnp.max(jnp.abs(lacking)) / jnp.maximum(1, jnp.max(jnp.abs(states)))

    def goes_on(carry: Any) -> Array:
        _, _, residual, _, num = carry
        # Not `residual > tol`, which is false for NaN.
        return tries & ~(residual <= settings.tol) & (num < settings.max_steps)

    def iterate(carry: Any) -> Any:
        states, lacking, residual, damping, num = carry
        before = _before(x0, states)
        if settings.method == "diagonal":
            step = affine_recursion(_diagonals(f, before, rows), lacking)
        elif not damped:
            step = affine_recursion(_jacobians(f, before, rows), lacking)
        else:
            step = jax.lax.cond(
                damping > 0,
                damped_recursion,
                lambda matrices, offsets, _: affine_recursion(matrices, offsets),
                *(_jacobians(f, before, rows), lacking, damping),
            )
        # What overflowed is stepped once from what was there, which a map of a bounded set keeps finite.
        tried = jnp.where(jnp.isfinite(step), states + step, states + lacking)
        tried_lacking, tried_residual = measure(tried)
        if damped:
            better = jnp.sum(tried_lacking**2) <= jnp.sum(lacking**2)
            tried, tried_lacking = (jnp.where(better, a, b) for a, b in ((tried, states), (tried_lacking, lacking)))
            tried_residual = jnp.where(better, tried_residual, residual)
            # Without damping the last steps converge quadratically.
            smaller = jnp.where(damping > _LEAST_DAMPING, damping / 10, 0)
            larger = jnp.clip(damping * 10, _LEAST_DAMPING, _MOST_DAMPING)
            damping = jnp.where(better, smaller, larger)
        return tried, tried_lacking, tried_residual, damping, num + 1

    start = (guess, *measure(guess), jnp.asarray(_FIRST_DAMPING, guess.dtype), jnp.zeros((), int))
    states, _, residual, _, num = jax.lax.while_loop(goes_on, iterate, start)
    return states, num, residual


def _before(x0: Array, states: Array) -> Array:
    """The state before each."""
    return jnp.concatenate([x0[None], states[:-1]])


def _images(f: Any, before: Array, rows: Any) -> Array:
    return jax.vmap(f)(before) if rows is None else jax.vmap(f)(before, rows)


def _jacobians(f: Any, before: Array, rows: Any) -> Array:
    derivative = jax.jacfwd(f)
    return jax.vmap(derivative)(before) if rows is None else jax.vmap(derivative)(before, rows)


def _diagonals(f: Any, before: Array, rows: Any) -> Array:
    """Of every Jacobian the diagonal; no more of them exist at once than fit."""
    derivative = jax.jacfwd(f)
    diagonal = lambda xs: jnp.diagonal(derivative(*xs))
    batch = max(1, _DIAGONAL_ENTRIES // before.shape[1] ** 2)
    return jax.lax.map(diagonal, (before,) if rows is None else (before, rows), batch_size=min(batch, len(before)))
