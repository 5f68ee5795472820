"""Stabilising transformations: a second way to the cycles of low-dimensional maps."""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from rnndyn.dynamics.numerics.drivers import MEMORY_BUDGET, map_in_chunks, run_in_lanes
from rnndyn.dynamics.numerics.newton import rounding_floor

STRENGTHS = (0.0, 4.0, 64.0)
"""How strongly the iteration is stabilised, in units of 1 / scale: 0 is Newton's method, more is slower and reaches
farther (measured on the Hénon and logistic maps, periods 1 to 10)."""


class Start(NamedTuple):
    """A starting point, and the transformation that stabilises the iteration from it."""

    x0: Float[Array, " N"]
    transformation: Float[Array, "N N"]
    strength: Float[Array, ""]


class StabilisedState(NamedTuple):
    """One iterate."""

    start: Start
    x: Float[Array, " N"]
    num_steps: Int[Array, ""]
    converged: Bool[Array, ""]
    failed: Bool[Array, ""]


class StabilisedMethod:
    r"""The iteration $x \gets x + (\beta |g| C^T - Dg)^{-1} g$ with $g(x) = F^p(x) - x$.

    With $\beta = 0$ it is Newton's method. Far from a cycle, where $\beta |g|$ dominates, it follows the flow of
    $C g(x)$, in which an unstable cycle is a stable equilibrium for one of the signed permutation matrices C.
    """

    def __init__(self, f: Callable[[Array], Array], period: Array, scale: Array, *, max_steps: int):
        self.f, self.period, self.scale, self.max_steps = f, period, scale, max_steps

    def init(self, start: Start) -> StabilisedState:
        false = jnp.zeros((), bool)
        return StabilisedState(start, start.x0, jnp.zeros((), jnp.int32), false, false)

    def step(self, state: StabilisedState) -> StabilisedState:
        x = state.x
        g = self._iterate(x) - x
        jacobian = jax.jacfwd(self._iterate)(x)
        identity = jnp.eye(x.size, dtype=x.dtype)
        size = jnp.linalg.norm(g)
        damping = state.start.strength / self.scale * size * state.start.transformation.T
        step = jnp.linalg.solve(damping - (jacobian - identity), g)
        row_sum = jnp.max(jnp.sum(jnp.abs(jacobian), axis=1))
        converged = jnp.max(jnp.abs(g)) <= rounding_floor(x, self.scale, row_sum)
        new = jnp.where(converged, x, x + step)
        # What leaves the neighbourhood of the visited states does not come back.
        failed = ~(jnp.max(jnp.abs(new)) <= 10 * self.scale)
        return StabilisedState(state.start, new, state.num_steps + 1, converged, failed & ~converged)

    def done(self, state: StabilisedState) -> Bool[Array, ""]:
        return state.converged | state.failed | (state.num_steps >= self.max_steps)

    def _iterate(self, x: Array) -> Array:
        return jax.lax.fori_loop(0, self.period, lambda _, x: self.f(x), x)


def stabilised_ends(
    f: Callable[[Array], Array],
    starts: Float[np.ndarray, "K N"],
    period: int,
    *,
    scale: float,
    max_steps: int,
    progress: bool,
) -> tuple[Float[np.ndarray, "M N"], Bool[np.ndarray, " M"]]:
    """Run the iteration from every start with every transformation and strength: the ends, and which are on cycles.

    Reference: P. Schmelcher & F. K. Diakonos (1997), *Detecting unstable periodic orbits of chaotic dynamical
    systems*; R. L. Davidchack & Y.-C. Lai (1999), *Efficient algorithm for detecting unstable periodic orbits in
    chaotic systems*.
    """
    size = starts.shape[1]
    # Without stabilisation the transformation does not matter.
    choices = [(np.eye(size), 0.0)] + [(c, s) for s in STRENGTHS if s > 0 for c in signed_permutations(size)]
    matrices, strengths = np.stack([c for c, _ in choices]), np.array([s for _, s in choices])
    num = len(choices)
    items = Start(
        np.repeat(starts, num, axis=0),  # pyright: ignore[reportArgumentType]
        np.tile(matrices, (len(starts), 1, 1)),  # pyright: ignore[reportArgumentType]
        np.tile(strengths, len(starts)),  # pyright: ignore[reportArgumentType]
    )
    bytes_per_item = 8 * 16 * size**2
    num_lanes = max(1, min(256 if jax.default_backend() == "cpu" else 8192, MEMORY_BUDGET // bytes_per_item))
    ends: StabilisedState = map_in_chunks(
        lambda part: _stabilise_in_lanes(f, part, jnp.asarray(period), jnp.asarray(scale), max_steps, num_lanes),
        items,
        bytes_per_item=bytes_per_item,
        description=f"cycles of period {period}",
        progress=progress,
        least_size=1024,
    )
    return np.asarray(ends.x), np.asarray(ends.converged)


def signed_permutations(size: int) -> Float[np.ndarray, "C N N"]:
    """All matrices with one entry of 1 or -1 in each row and column: 2^N N! of them."""
    identity = np.eye(size)
    return np.stack(
        [
            np.array(signs)[:, None] * identity[list(order)]
            for order in itertools.permutations(range(size))
            for signs in itertools.product((1.0, -1.0), repeat=size)
        ]
    )


@eqx.filter_jit
def _stabilise_in_lanes(
    f: Any, items: Any, period: Array, scale: Array, max_steps: int, num_lanes: int
) -> StabilisedState:
    method = StabilisedMethod(f, period, scale, max_steps=max_steps)
    return run_in_lanes(method.init, method.step, method.done, jax.tree.map(jnp.asarray, items), num_lanes)
